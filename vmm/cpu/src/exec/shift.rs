//! Shifts and rotates (SDM vol. 1, 7.3.6).

use super::{Done, Exec};
use crate::cpu::Cpu;
use crate::flags::{Arith, sign_extend, zero_extend};
use iced_x86::{Instruction, Mnemonic};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => |cpu, i| shift(cpu, i, shl),
        Mnemonic::Shr => |cpu, i| shift(cpu, i, shr),
        Mnemonic::Sar => |cpu, i| shift(cpu, i, sar),
        Mnemonic::Rol => |cpu, i| shift(cpu, i, rol),
        Mnemonic::Ror => |cpu, i| shift(cpu, i, ror),
        Mnemonic::Rcl => |cpu, i| shift(cpu, i, rcl),
        Mnemonic::Rcr => |cpu, i| shift(cpu, i, rcr),
        Mnemonic::Shld => |cpu, i| double_shift(cpu, i, shld),
        Mnemonic::Shrd => |cpu, i| double_shift(cpu, i, shrd),
        Mnemonic::Shlx => |cpu, i| flagless_shift(cpu, i, |a, count, _| a << count),
        Mnemonic::Shrx => |cpu, i| flagless_shift(cpu, i, |a, count, _| a >> count),
        Mnemonic::Sarx => |cpu, i| {
            flagless_shift(cpu, i, |a, count, size| ((sign_extend(a, size) as i64) >> count) as u64)
        },
        Mnemonic::Rorx => rorx,
        _ => return None,
    })
}

/// The count that the hardware uses: modulo 64 for 64-bit operands, else modulo 32.
const fn mask_count(count: u64, size: u32) -> u32 {
    (count & if size == 8 { 63 } else { 31 }) as u32
}

/// Bit `n` of `value`.
const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// The sign bit of a value of `size` bytes.
const fn top(value: u64, size: u32) -> bool {
    bit(value, size * 8 - 1)
}

/// A shift or rotate of op0 by op1 (an immediate, 1, or CL).
fn shift(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(&mut Arith, u64, u32, u32) -> u64) -> Done {
    let size = cpu.operand_size(i, 0);
    let count = mask_count(cpu.read_operand(i, 1)?, size);
    // A count of zero changes no flag, but the destination is written all the same: 32-bit
    // registers lose their upper half and memory must be writable.
    cpu.modify_operand(
        i,
        0,
        |cpu, old| {
            if count == 0 { old } else { f(&mut cpu.arith, old, count, size) }
        },
    )
}

/// SHL by 1 to 63; `a` is zero-extended. OF is that of a shift by one, whatever the count.
fn shl(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let wide = u128::from(a) << count;
    let cf = wide >> (size * 8) & 1 != 0;
    let of = top(a, size) ^ top(a << 1, size);
    flags.set_result_cf_of(wide as u64, cf, of, size);
    wide as u64
}

fn shr(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let result = a >> count;
    flags.set_result_cf_of(result, bit(a, count - 1), top(a, size), size);
    result
}

fn sar(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let a = sign_extend(a, size) as i64;
    let result = (a >> count) as u64;
    flags.set_result_cf_of(result, bit(a as u64, count - 1), false, size);
    result
}

/// Rotates left by a count modulo the width.
fn rotate_left(a: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let count = count % bits;
    if count == 0 { a } else { zero_extend(a << count | a >> (bits - count), size) }
}

fn rol(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let result = rotate_left(a, count, size);
    let cf = bit(result, 0);
    flags.replace_cf_of(cf, cf ^ top(result, size));
    result
}

fn ror(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let result = rotate_left(a, bits - count % bits, size);
    let cf = top(result, size);
    flags.replace_cf_of(cf, cf ^ bit(result, bits - 2));
    result
}

/// RCL: rotates `size * 8 + 1` bits, CF being the highest. A count that is a multiple of that changes
/// nothing. OF is that of a rotation by one, whatever the count.
fn rcl(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let count = count % (bits + 1);
    if count == 0 {
        return a;
    }
    let all = u128::from(flags.cf()) << bits | u128::from(a);
    let rotated = all << count | all >> (bits + 1 - count);
    let of = top(a, size) ^ top(a << 1, size);
    flags.replace_cf_of(rotated >> bits & 1 != 0, of);
    zero_extend(rotated as u64, size)
}

/// RCR, likewise.
fn rcr(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let count = count % (bits + 1);
    if count == 0 {
        return a;
    }
    let all = u128::from(flags.cf()) << bits | u128::from(a);
    let rotated = all >> count | all << (bits + 1 - count);
    let of = flags.cf() ^ top(a, size);
    flags.replace_cf_of(rotated >> bits & 1 != 0, of);
    zero_extend(rotated as u64, size)
}

/// SHLD or SHRD: op0 shifted, filled from register op1, by op2.
fn double_shift(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u64, u32, u32) -> u64,
) -> Done {
    let size = cpu.operand_size(i, 0);
    let fill = cpu.read_operand(i, 1)?;
    let count = mask_count(cpu.read_operand(i, 2)?, size);
    cpu.modify_operand(i, 0, |cpu, old| {
        if count == 0 { old } else { f(&mut cpu.arith, old, fill, count, size) }
    })
}

/// SHLD. Counts above 16 for 16-bit operands, undefined by the manual, go on shifting through
/// `a:fill:a`, as if the pair of registers rotated. OF is that of a shift by one, whatever the count.
fn shld(flags: &mut Arith, a: u64, fill: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let (result, cf) = if count <= bits {
        let wide = u128::from(a) << bits | u128::from(fill);
        let shifted = wide << count;
        ((shifted >> bits) as u64, bit(a, bits - count))
    } else {
        // 16-bit only: the pattern is a, fill, a.
        let wide = a << 32 | fill << 16 | a;
        (wide << count >> 32, bit(fill, 32 - count))
    };
    let of = top(a, size) ^ top(a << 1, size);
    flags.set_result_cf_of(result, cf, of, size);
    result
}

/// SHRD, with the same rule for 16-bit counts above 16.
fn shrd(flags: &mut Arith, a: u64, fill: u64, count: u32, size: u32) -> u64 {
    let bits = size * 8;
    let (result, cf) = if count <= bits {
        let wide = u128::from(fill) << bits | u128::from(a);
        ((wide >> count) as u64, bit(a, count - 1))
    } else {
        let wide = a << 32 | fill << 16 | a;
        (wide >> count, bit(fill, count - 17))
    };
    let of = top(a, size) ^ bit(fill, 0);
    flags.set_result_cf_of(result, cf, of, size);
    result
}

/// SHLX, SHRX, SARX: op0 = op1 shifted by op2, no flags.
fn flagless_shift(cpu: &mut Cpu, i: &Instruction, f: impl FnOnce(u64, u32, u32) -> u64) -> Done {
    cpu.require_vex(i)?;
    let size = cpu.operand_size(i, 0);
    let value = cpu.read_operand(i, 1)?;
    let count = mask_count(cpu.read_operand(i, 2)?, size);
    cpu.set_reg(i.op0_register(), f(value, count, size));
    Ok(())
}

fn rorx(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.require_vex(i)?;
    let size = cpu.operand_size(i, 0);
    let value = cpu.read_operand(i, 1)?;
    let count = mask_count(cpu.read_operand(i, 2)?, size);
    cpu.set_reg(i.op0_register(), rotate_left(value, size * 8 - count, size));
    Ok(())
}
