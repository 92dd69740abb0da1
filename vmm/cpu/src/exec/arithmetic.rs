//! Addition, subtraction, logic, comparison and the exchanges built on them (SDM vol. 1, 7.3.2,
//! 7.3.5 and 7.3.1.2).

use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::flags::{Arith, zero_extend};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Add => |cpu, i| binary(cpu, i, add),
        Mnemonic::Adc => |cpu, i| binary(cpu, i, adc),
        Mnemonic::Sub => |cpu, i| binary(cpu, i, sub),
        Mnemonic::Sbb => |cpu, i| binary(cpu, i, sbb),
        Mnemonic::And => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a & b, size)),
        Mnemonic::Or => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a | b, size)),
        Mnemonic::Xor => |cpu, i| binary(cpu, i, |f, a, b, size| logic(f, a ^ b, size)),
        Mnemonic::Cmp => |cpu, i| compare(cpu, i, sub),
        Mnemonic::Test => |cpu, i| compare(cpu, i, |f, a, b, size| logic(f, a & b, size)),
        Mnemonic::Not => |cpu, i| unary(cpu, i, |_, a, _| !a),
        Mnemonic::Neg => |cpu, i| unary(cpu, i, |f, a, size| sub(f, 0, a, size)),
        Mnemonic::Inc => |cpu, i| unary(cpu, i, inc),
        Mnemonic::Dec => |cpu, i| unary(cpu, i, dec),
        Mnemonic::Xadd => xadd,
        Mnemonic::Xchg => xchg,
        Mnemonic::Cmpxchg => cmpxchg,
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        Mnemonic::Adcx => adcx,
        Mnemonic::Adox => adox,
        _ => return None,
    })
}

fn add(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_add(b);
    flags.set_add(a, b, result, size);
    result
}

fn adc(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_add(b).wrapping_add(flags.cf().into());
    flags.set_add(a, b, result, size);
    result
}

fn sub(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(b);
    flags.set_sub(a, b, result, size);
    result
}

fn sbb(flags: &mut Arith, a: u64, b: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(b).wrapping_sub(flags.cf().into());
    flags.set_sub(a, b, result, size);
    result
}

fn logic(flags: &mut Arith, result: u64, size: u32) -> u64 {
    flags.set_logic(result, size);
    result
}

fn inc(flags: &mut Arith, a: u64, size: u32) -> u64 {
    let result = a.wrapping_add(1);
    flags.set_inc(a, result, size);
    result
}

fn dec(flags: &mut Arith, a: u64, size: u32) -> u64 {
    let result = a.wrapping_sub(1);
    flags.set_dec(a, result, size);
    result
}

/// `op0 = f(op0, op1)`.
fn binary(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u64, u32) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| f(&mut cpu.arith, old, source, size))
}

/// Flags of `f(op0, op1)` only.
fn compare(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u64, u32) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let left = cpu.read_operand(i, 0)?;
    let right = cpu.read_operand(i, 1)?;
    f(&mut cpu.arith, left, right, size);
    Ok(())
}

/// `op0 = f(op0)`.
fn unary(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(&mut Arith, u64, u32) -> u64) -> Done {
    let size = cpu.operand_size(i, 0);
    cpu.modify_operand(i, 0, |cpu, old| f(&mut cpu.arith, old, size))
}

fn xadd(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let source = i.op1_register();
    cpu.modify_operand(i, 0, |cpu, old| {
        let addend = cpu.reg(source);
        // The source is written first: with both operands the same register, the sum stays.
        cpu.set_reg(source, old);
        add(&mut cpu.arith, old, addend, size)
    })
}

fn xchg(cpu: &mut Cpu, i: &Instruction) -> Done {
    // The memory operand, if there is one, may be either in the decoder's order.
    let memory = if i.op1_kind() == OpKind::Memory { 1 } else { 0 };
    let other = i.op_register(1 - memory);
    cpu.modify_operand(i, memory, |cpu, old| {
        let new = cpu.reg(other);
        cpu.set_reg(other, old);
        new
    })
}

fn cmpxchg(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let accumulator = match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    cpu.modify_operand(i, 0, |cpu, old| {
        let expected = cpu.reg(accumulator);
        sub(&mut cpu.arith, expected, old, size);
        if expected == old {
            return cpu.reg(i.op1_register());
        }
        cpu.set_reg(accumulator, old);
        // "The destination is written back" (SDM vol. 2A): memory is always written. A 32-bit
        // destination register then loses its upper half, unless it is EAX, just written.
        old
    })
}

/// The only flag that CMPXCHG8B and CMPXCHG16B change.
fn replace_zf(cpu: &mut Cpu, zf: bool) {
    use crate::flags::rflags::ZF;
    let bits = cpu.arith.bits();
    cpu.arith.set_bits(if zf { bits | ZF } else { bits & !ZF });
}

fn cmpxchg8b(cpu: &mut Cpu, i: &Instruction) -> Done {
    let expected = cpu.reg(Register::EDX) << 32 | cpu.reg(Register::EAX);
    let new = cpu.reg(Register::ECX) << 32 | cpu.reg(Register::EBX);
    cpu.modify_operand(i, 0, |cpu, old| {
        replace_zf(cpu, old == expected);
        if old == expected {
            return new;
        }
        cpu.set_reg(Register::EAX, old);
        cpu.set_reg(Register::EDX, old >> 32);
        old
    })
}

fn cmpxchg16b(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.require_features(i)?;
    let (segment, offset) = cpu.operand_offset(i);
    let linear = cpu.linear(segment, offset, 16, true)?;
    if linear & 15 != 0 {
        return Err(cpu.general_protection(0));
    }
    cpu.probe_store(linear, 16)?;
    let low = cpu.load(linear, 8)?;
    let high = cpu.load(linear.wrapping_add(8), 8)?;
    let equal = low == cpu.gpr[gpr::RAX] && high == cpu.gpr[gpr::RDX];
    let new = if equal { [cpu.gpr[gpr::RBX], cpu.gpr[gpr::RCX]] } else { [low, high] };
    cpu.store(linear, new[0], 8)?;
    cpu.store(linear.wrapping_add(8), new[1], 8)?;
    if !equal {
        cpu.gpr[gpr::RAX] = low;
        cpu.gpr[gpr::RDX] = high;
    }
    replace_zf(cpu, equal);
    Ok(())
}

/// Sum with a carry in, and the carry out.
fn add_with_carry(a: u64, b: u64, carry: bool, size: u32) -> (u64, bool) {
    let wide = u128::from(zero_extend(a, size)) + u128::from(zero_extend(b, size));
    let wide = wide + u128::from(carry);
    (wide as u64, wide >> (size * 8) != 0)
}

fn adcx(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.require_features(i)?;
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| {
        let (sum, carry) = add_with_carry(old, source, cpu.arith.cf(), size);
        cpu.arith.replace_cf(carry);
        sum
    })
}

fn adox(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.require_features(i)?;
    let size = cpu.operand_size(i, 0);
    let source = cpu.read_operand(i, 1)?;
    cpu.modify_operand(i, 0, |cpu, old| {
        let (sum, carry) = add_with_carry(old, source, cpu.arith.of(), size);
        let cf = cpu.arith.cf();
        cpu.arith.replace_cf_of(cf, carry);
        sum
    })
}
