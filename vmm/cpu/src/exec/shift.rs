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
        Mnemonic::Shlx => |cpu, i| cpu.if_vex(i, shlx),
        Mnemonic::Shrx => |cpu, i| cpu.if_vex(i, shrx),
        Mnemonic::Sarx => |cpu, i| cpu.if_vex(i, sarx),
        Mnemonic::Rorx => |cpu, i| cpu.if_vex(i, rorx),
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
pub(super) fn shift(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl FnOnce(&mut Arith, u64, u32, u32) -> u64,
) -> Done {
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
pub(super) fn shl(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
    let wide = u128::from(a) << count;
    let cf = wide >> (size * 8) & 1 != 0;
    let of = top(a, size) ^ top(a << 1, size);
    flags.set_result_cf_of(wide as u64, cf, of, size);
    wide as u64
}

pub(super) fn shr(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
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
pub(super) fn rcl(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
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
pub(super) fn rcr(flags: &mut Arith, a: u64, count: u32, size: u32) -> u64 {
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
pub(super) fn double_shift(
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
pub(super) fn shld(flags: &mut Arith, a: u64, fill: u64, count: u32, size: u32) -> u64 {
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
pub(super) fn shrd(flags: &mut Arith, a: u64, fill: u64, count: u32, size: u32) -> u64 {
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
    let size = cpu.operand_size(i, 0);
    let value = cpu.read_operand(i, 1)?;
    let count = mask_count(cpu.read_operand(i, 2)?, size);
    cpu.set_reg(i.op0_register(), f(value, count, size));
    Ok(())
}

fn shlx(cpu: &mut Cpu, i: &Instruction) -> Done {
    flagless_shift(cpu, i, |a, count, _| a << count)
}

fn shrx(cpu: &mut Cpu, i: &Instruction) -> Done {
    flagless_shift(cpu, i, |a, count, _| a >> count)
}

fn sarx(cpu: &mut Cpu, i: &Instruction) -> Done {
    flagless_shift(cpu, i, |a, count, size| ((sign_extend(a, size) as i64) >> count) as u64)
}

fn rorx(cpu: &mut Cpu, i: &Instruction) -> Done {
    let size = cpu.operand_size(i, 0);
    let value = cpu.read_operand(i, 1)?;
    let count = mask_count(cpu.read_operand(i, 2)?, size);
    cpu.set_reg(i.op0_register(), rotate_left(value, size * 8 - count, size));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::{run64, run64_all};

    const CF: u64 = 1;
    const PF: u64 = 4;
    const ZF: u64 = 0x40;
    const SF: u64 = 0x80;
    const OF: u64 = 0x800;

    #[test]
    fn a_masked_count_of_zero_changes_no_flag_but_writes() {
        // shl eax, cl with CL = 32; rcl, shld likewise
        for code in [&[0xd3, 0xe0][..], &[0xd3, 0xd0], &[0x0f, 0xa5, 0xd0]] {
            let ([rax, ..], flags) = run64(code, [u64::MAX, 32, 0, 0], 0x8d5);
            assert_eq!((rax, flags), (0xffff_ffff, 0x8d5), "{code:x?}");
        }
        // shl rax, cl counts to 63
        let ([rax, ..], flags) = run64(&[0x48, 0xd3, 0xe0], [1, 0xff, 0, 0], 0);
        assert_eq!((rax, flags), (1 << 63, SF | PF));
    }

    #[test]
    fn bytes_shift_by_more_than_their_width() {
        // shl al, cl; shr al, cl; sar al, cl
        for (code, count, result, flags) in [
            (0xe0, 8, 0, CF | PF | ZF | OF),
            (0xe0, 9, 0, PF | ZF | OF),
            (0xe8, 8, 0, CF | PF | ZF | OF),
            (0xe8, 9, 0, PF | ZF | OF),
            (0xf8, 31, 0xff, CF | PF | SF),
        ] {
            let out = run64(&[0xd2, code], [0x81, count, 0, 0], 0);
            assert_eq!((out.0[0], out.1), (result, flags), "{code:x} by {count}");
        }
    }

    #[test]
    fn overflow_is_that_of_a_shift_by_one() {
        // shl rax, 3; the values that a Sapphire Rapids and a Skylake gave
        for (value, of) in [(0x8000_0000_0000_0001, OF), (0x2000_0000_0000_0001, 0)] {
            let (_, flags) = run64(&[0x48, 0xc1, 0xe0, 3], [value, 0, 0, 0], 0);
            assert_eq!(flags & OF, of);
        }
        let (_, flags) = run64(&[0x48, 0xc1, 0xe0, 0x22], [0x18f2_0864_2498_1487, 0, 0, 0], 0);
        assert_eq!(flags & (CF | OF), 0);
        let (_, flags) = run64(&[0x48, 0xc1, 0xe0, 0x78], [0xabec_ff12_9778_3575, 0, 0, 0], 0);
        assert_eq!(flags & (CF | OF), CF | OF);
        // shr by one: OF is the old sign; sar: 0
        let (_, flags) = run64(&[0xd0, 0xe8], [0x81, 0, 0, 0], 0);
        assert_eq!(flags, CF | OF);
        let (_, flags) = run64(&[0xd0, 0xf8], [0x81, 0, 0, 0], OF);
        assert_eq!(flags, CF | PF | SF);
    }

    #[test]
    fn rotates_keep_the_other_flags() {
        // rol al, 1; ror al, 1; rol al, 8 (CF follows bit 0)
        let (out, flags) = run64(&[0xd0, 0xc0], [0x81, 0, 0, 0], ZF | SF);
        assert_eq!((out[0], flags), (0x03, ZF | SF | CF | OF));
        let (out, flags) = run64(&[0xd0, 0xc8], [0x01, 0, 0, 0], ZF);
        assert_eq!((out[0], flags), (0x80, ZF | CF | OF));
        let (out, flags) = run64(&[0xc0, 0xc0, 8], [0x81, 0, 0, 0], 0);
        assert_eq!((out[0], flags & CF), (0x81, CF));
        // rcl al, 1 and rcr al, 1 through CF
        let (out, flags) = run64(&[0xd0, 0xd0], [0x80, 0, 0, 0], CF);
        assert_eq!((out[0], flags), (0x01, CF | OF));
        let (out, flags) = run64(&[0xd0, 0xd8], [0x02, 0, 0, 0], CF);
        assert_eq!((out[0], flags), (0x81, OF));
        // rcl al, 9 is the whole circle: nothing changes
        let (out, flags) = run64(&[0xc0, 0xd0, 9], [0x80, 0, 0, 0], CF | OF);
        assert_eq!((out[0], flags), (0x80, CF | OF));
        // rcl rax, 63 = rcr by 2
        let (out, flags) = run64(&[0x48, 0xc1, 0xd0, 63], [0b110, 0, 0, 0], CF);
        assert_eq!((out[0], flags & CF), (1 << 62 | 1, CF));
    }

    #[test]
    fn double_shifts() {
        // shld eax, edx, 4; shrd eax, edx, 4
        let (out, flags) = run64(&[0x0f, 0xa4, 0xd0, 4], [0x1234_5678, 0, 0xabcd_ef01, 0], 0);
        assert_eq!((out[0], flags & CF), (0x2345_678a, CF));
        let (out, flags) = run64(&[0x0f, 0xac, 0xd0, 4], [0x1234_5678, 0, 0xabcd_ef01, 0], 0);
        assert_eq!((out[0], flags & CF), (0x1123_4567, CF));
        // 16 bits by 20: first the filler is used up, then the old value comes again
        let (out, _) = run64(&[0x66, 0x0f, 0xa4, 0xd0, 20], [0x1234, 0, 0x5678, 0], 0);
        assert_eq!(out[0], 0x6781);
        let (out, _) = run64(&[0x66, 0x0f, 0xac, 0xd0, 20], [0x1234, 0, 0x5678, 0], 0);
        assert_eq!(out[0], 0x4567);
        // shld ax, dx, 16 moves the whole filler in
        let (out, _) = run64(&[0x66, 0x0f, 0xa4, 0xd0, 16], [0x1234, 0, 0x5678, 0], 0);
        assert_eq!(out[0], 0x5678);
    }

    #[test]
    fn flagless_shifts_mask_their_count_and_keep_flags() {
        // shlx, sarx, shrx eax, ecx, edx; rorx eax, ecx, 4
        let start = [0, 0x8000_0001, 33, 0];
        for (code, result) in [
            (&[0xc4, 0xe2, 0x69, 0xf7, 0xc1][..], 2),
            (&[0xc4, 0xe2, 0x6a, 0xf7, 0xc1], 0xc000_0000),
            (&[0xc4, 0xe2, 0x6b, 0xf7, 0xc1], 0x4000_0000),
            (&[0xc4, 0xe3, 0x7b, 0xf0, 0xc1, 4], 0x1800_0000),
        ] {
            let (out, flags) = run64_all(code, start, 0x8d5);
            assert_eq!((out[0], flags), (result, 0x8d5), "{code:x?}");
        }
    }
}
