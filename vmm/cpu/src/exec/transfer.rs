//! Data transfer, conversion, flag bits and the instructions that only hint (SDM vol. 1, 7.3.1,
//! 7.3.8, 7.3.13 and 7.3.14). Moves to and from segment, control and debug registers are elsewhere.

use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::flags::{rflags, sign_extend};
use crate::mmu::Access;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Mov if moves_general(i) => mov,
        Mnemonic::Movzx => mov,
        Mnemonic::Movsx | Mnemonic::Movsxd => movsx,
        Mnemonic::Lea => lea,
        Mnemonic::Xlatb => xlatb,
        Mnemonic::Cbw => |cpu, _| extend(cpu, Register::AX, Register::AL),
        Mnemonic::Cwde => |cpu, _| extend(cpu, Register::EAX, Register::AX),
        Mnemonic::Cdqe => |cpu, _| extend(cpu, Register::RAX, Register::EAX),
        Mnemonic::Cwd => |cpu, _| spread_sign(cpu, Register::DX, Register::AX),
        Mnemonic::Cdq => |cpu, _| spread_sign(cpu, Register::EDX, Register::EAX),
        Mnemonic::Cqo => |cpu, _| spread_sign(cpu, Register::RDX, Register::RAX),
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        Mnemonic::Clc => |cpu, _| set_carry(cpu, |_| false),
        Mnemonic::Stc => |cpu, _| set_carry(cpu, |_| true),
        Mnemonic::Cmc => |cpu, _| set_carry(cpu, |carry| !carry),
        Mnemonic::Cld => |cpu, _| {
            cpu.system_flags &= !rflags::DF;
            Ok(())
        },
        Mnemonic::Std => |cpu, _| {
            cpu.system_flags |= rflags::DF;
            Ok(())
        },
        Mnemonic::Clflush => touch_line,
        Mnemonic::Clflushopt | Mnemonic::Clwb => |cpu, i| cpu.if_known(i, touch_line),
        mnemonic if is_setcc(mnemonic) => setcc,
        mnemonic if is_cmov(mnemonic) => cmov,
        mnemonic if is_hint(mnemonic) => |_, _| Ok(()),
        _ => return None,
    })
}

/// MOV between general registers, memory and immediates: no segment, control, debug or test register.
fn moves_general(i: &Instruction) -> bool {
    (0..2).all(|n| i.op_kind(n) != OpKind::Register || i.op_register(n).is_gpr())
}

fn is_setcc(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Seto | Setno
            | Setb
            | Setae
            | Sete
            | Setne
            | Setbe
            | Seta
            | Sets
            | Setns
            | Setp
            | Setnp
            | Setl
            | Setge
            | Setle
            | Setg
    )
}

fn is_cmov(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
    )
}

/// Instructions that do nothing here: prefetches, the landing pads of CET (which no model has; they
/// and the shadow-stack read are NOPs then), and the reserved NOPs. None of them faults.
fn is_hint(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Prefetch
            | Prefetchw
            | Prefetchwt1
            | Prefetchnta
            | Prefetcht0
            | Prefetcht1
            | Prefetcht2
            | Prefetchit0
            | Prefetchit1
            | Endbr32
            | Endbr64
            | Rdsspd
            | Rdsspq
            | Reservednop
    )
}

/// MOV and MOVZX: reads come zero-extended.
fn mov(cpu: &mut Cpu, i: &Instruction) -> Done {
    let value = cpu.read_operand(i, 1)?;
    cpu.write_operand(i, 0, value)
}

/// MOVSX and MOVSXD.
fn movsx(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 1);
    let value = cpu.read_operand(i, 1)?;
    cpu.set_reg(i.op0_register(), sign_extend(value, size));
    Ok(())
}

/// LEA: the offset, computed in the address size, cut or zero-extended to the operand size.
fn lea(cpu: &mut Cpu, i: &Instruction) -> Done {
    let (_, offset) = cpu.operand_offset(i);
    cpu.set_reg(i.op0_register(), offset);
    Ok(())
}

/// XLATB: the decoder gives the operand as [rBX + AL].
fn xlatb(cpu: &mut Cpu, i: &Instruction) -> Done {
    let (segment, offset) = cpu.operand_offset(i);
    let value = cpu.read_sized(segment, offset, 1)?;
    cpu.set_reg(Register::AL, value);
    Ok(())
}

/// CBW, CWDE, CDQE.
fn extend(cpu: &mut Cpu, to: Register, from: Register) -> Done {
    let value = sign_extend(cpu.reg(from), from.size() as u32);
    cpu.set_reg(to, value);
    Ok(())
}

/// CWD, CDQ, CQO.
fn spread_sign(cpu: &mut Cpu, to: Register, from: Register) -> Done {
    let value = sign_extend(cpu.reg(from), from.size() as u32);
    cpu.set_reg(to, (value as i64 >> 63) as u64);
    Ok(())
}

/// The flags that LAHF and SAHF move.
const LOW_FLAGS: u64 = rflags::CF | rflags::PF | rflags::AF | rflags::ZF | rflags::SF;

fn lahf(cpu: &mut Cpu, _: &Instruction) -> Done {
    let flags = cpu.arith.bits() & LOW_FLAGS | rflags::ONE;
    cpu.set_reg(Register::AH, flags);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Instruction) -> Done {
    let kept = cpu.arith.bits() & !LOW_FLAGS;
    let flags = cpu.reg(Register::AH) & LOW_FLAGS;
    cpu.arith.set_bits(kept | flags);
    Ok(())
}

fn set_carry(cpu: &mut Cpu, f: impl FnOnce(bool) -> bool) -> Done {
    let carry = f(cpu.arith.cf());
    cpu.arith.replace_cf(carry);
    Ok(())
}

/// Whether the instruction's condition holds.
pub(super) fn condition(cpu: &Cpu, i: &Instruction) -> bool {
    // The decoder numbers conditions from 1 in encoding order; 0 says that there is none.
    cpu.arith.condition((i.condition_code() as u8).wrapping_sub(1))
}

fn setcc(cpu: &mut Cpu, i: &Instruction) -> Done {
    let value = condition(cpu, i).into();
    cpu.write_operand(i, 0, value)
}

/// CMOVcc reads its source, and writes a 32-bit destination's upper half, even when the condition
/// does not hold.
fn cmov(cpu: &mut Cpu, i: &Instruction) -> Done {
    let mut value = cpu.read_operand(i, 1)?;
    if !condition(cpu, i) {
        value = cpu.reg(i.op0_register());
    }
    cpu.set_reg(i.op0_register(), value);
    Ok(())
}

/// CLFLUSH and its kin: checked as a load of one byte, without effect on a machine whose caches
/// cannot be seen.
fn touch_line(cpu: &mut Cpu, i: &Instruction) -> Done {
    let (segment, offset) = cpu.operand_offset(i);
    let linear = cpu.linear(segment, offset, 1, false)?;
    cpu.translate(linear, Access::Read)?;
    Ok(())
}
