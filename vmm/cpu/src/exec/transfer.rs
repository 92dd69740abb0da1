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
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => touch_line,
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
            | Cldemote
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

#[cfg(test)]
mod tests {
    use super::super::table::{exception, prepare, run64, step};
    use crate::testing::{Bench, DATA};

    #[test]
    fn moves_by_width_and_addressing() {
        let mut bench = Bench::long();
        bench.poke(DATA, &0x8182_8384_8586_8788u64.to_le_bytes());
        prepare(&mut bench, |state| {
            state.gpr[0] = u64::MAX;
            state.gpr[3] = DATA;
            state.gpr[6] = 2;
        });
        let rax = |bench: &mut Bench, code: &[u8]| {
            step(bench, code).unwrap();
            bench.cpu.state().gpr[0]
        };
        // mov al, [rbx+rsi]; mov ax, ..; mov eax, ..; mov rax, [abs]; movzx; movsx; movsxd; xlatb
        assert_eq!(rax(&mut bench, &[0x8a, 0x04, 0x33]), 0xffff_ffff_ffff_ff86);
        assert_eq!(rax(&mut bench, &[0x66, 0x8b, 0x04, 0x33]), 0xffff_ffff_ffff_8586);
        assert_eq!(rax(&mut bench, &[0x8b, 0x03]), 0x8586_8788);
        assert_eq!(rax(&mut bench, &[0x48, 0xa1, 0, 0, 3, 0, 0, 0, 0, 0]), 0x8182_8384_8586_8788);
        assert_eq!(rax(&mut bench, &[0x0f, 0xb6, 0x03]), 0x88);
        assert_eq!(rax(&mut bench, &[0x48, 0x0f, 0xbf, 0x03]), 0xffff_ffff_ffff_8788);
        assert_eq!(rax(&mut bench, &[0x48, 0x63, 0x03]), 0xffff_ffff_8586_8788);
        assert_eq!(rax(&mut bench, &[0xb0, 0x05]), 0xffff_ffff_8586_8705);
        assert_eq!(rax(&mut bench, &[0xd7]), 0xffff_ffff_8586_8783);
        // mov eax, [eip-relative]: 67 8b 05 disp32 reaches the bytes after the instruction
        let code = [0x67, 0x8b, 0x05, 0, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef];
        assert_eq!(rax(&mut bench, &code), 0xefbe_adde);
    }

    #[test]
    fn offsets_wrap_in_the_address_size() {
        // lea rax, [ecx-1] cuts to 32 bits; lea ax, [rcx-1] to 16
        assert_eq!(run64(&[0x67, 0x48, 0x8d, 0x41, 0xff], [7, 0, 0, 0], 0).0[0], 0xffff_ffff);
        assert_eq!(run64(&[0x66, 0x8d, 0x41, 0xff], [7 << 16, 0, 0, 0], 0).0[0], 0x7_ffff);
        // Real mode: mov al, [bx+si] wraps at 64 KiB.
        let mut bench = Bench::real();
        bench.poke(0x10, &[0x5a]);
        prepare(&mut bench, |state| {
            state.gpr[3] = 0xfff0;
            state.gpr[6] = 0x20;
        });
        step(&mut bench, &[0x8a, 0x00]).unwrap();
        assert_eq!(bench.cpu.state().gpr[0] & 0xff, 0x5a);
        // A word at the segment's last byte does not fit: #GP(0).
        prepare(&mut bench, |state| state.gpr[6] = 0x0f);
        assert_eq!(step(&mut bench, &[0x8b, 0x00]), exception(13, Some(0)));
    }

    #[test]
    fn conversions_and_flag_moves() {
        let run = |code: &[u8], gpr| run64(code, gpr, 0x8d5).0;
        assert_eq!(run(&[0x66, 0x98], [0x8880, 0, 0, 0])[0], 0xff80);
        assert_eq!(run(&[0x98], [0xf_8000, 0, 0, 0])[0], 0xffff_8000);
        assert_eq!(run(&[0x48, 0x98], [0x8000_0000, 0, 0, 0])[0], 0xffff_ffff_8000_0000);
        assert_eq!(run(&[0x66, 0x99], [0x8000, 0, 0x5_0000, 0])[2], 0x5_ffff);
        assert_eq!(run(&[0x99], [0x8000_0000, 0, 0, 0])[2], 0xffff_ffff);
        assert_eq!(run(&[0x48, 0x99], [1 << 63, 0, 0, 0])[2], u64::MAX);
        // lahf; sahf keeps OF; cmc
        assert_eq!(run64(&[0x9f], [0, 0, 0, 0], 0x8d5).0[0], 0xd700);
        assert_eq!(run64(&[0x9e], [0x0000, 0, 0, 0], 0x8d5).1, 0x800);
        assert_eq!(run64(&[0xf5], [0; 4], 0x8d5).1, 0x8d4);
    }

    #[test]
    fn conditions_select() {
        let mut seen = 0;
        for (cc, flags) in (0..16u8).flat_map(|cc| [(cc, 0u64), (cc, 0x8d5)]) {
            // With none of the flags set, the negated conditions hold, and with all the plain ones,
            // except that SF = OF either way: L never holds, LE and G go by ZF.
            let all = flags != 0;
            let expected = match cc {
                0xc => false,
                0xd => true,
                _ => all == (cc & 1 == 0),
            };
            // setcc cl; cmovcc eax, edx
            let (out, _) = run64(&[0x0f, 0x90 | cc, 0xc1], [0, 0xff00, 0, 0], flags);
            assert_eq!(out[1], 0xff00 | u64::from(expected), "{cc:x} {flags:x}");
            let start = [7 << 32 | 1, 0, 2, 0];
            let (out, _) = run64(&[0x0f, 0x40 | cc, 0xc2], start, flags);
            assert_eq!(out[0], if expected { 2 } else { 1 }, "32-bit CMOV always clears");
            seen += u32::from(expected);
        }
        assert_eq!(seen, 16);
    }

    #[test]
    fn hints_do_not_fault_and_a_conditional_load_does() {
        let far = |state: &mut crate::state::CpuState| state.gpr[0] = 0x4000_0000;
        let mut bench = Bench::long();
        for code in [
            &[0x0f, 0x18, 0x08][..],
            &[0x0f, 0x0d, 0x08],
            &[0x0f, 0x1f, 0x00],
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0xf3, 0x48, 0x0f, 0x1e, 0xc8],
        ] {
            prepare(&mut bench, far);
            step(&mut bench, code).unwrap();
            assert_eq!(bench.cpu.state().gpr[0], 0x4000_0000, "{code:x?}");
        }
        // cmovo ecx, [rax] with OF clear, and clflush [rax]: not present, read
        assert_eq!(step(&mut bench, &[0x0f, 0x40, 0x08]), exception(14, Some(0)));
        assert_eq!(step(&mut bench, &[0x0f, 0xae, 0x38]), exception(14, Some(0)));
    }
}
