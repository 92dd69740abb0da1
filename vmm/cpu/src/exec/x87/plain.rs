//! The common case of the commonest operations in integer arithmetic: normal operands and a normal
//! result. Everything else answers `None` and goes to [`super::host`].
//!
//! The host could do these too, but clearing its exception flags after an inexact result costs more
//! than 200 ns on some processors (measured on Zen 4), thirty times what this costs.

use super::host::{Outcome, Source};
use super::load_store::{extend_double, extend_single, of_integer};
use crate::fpu::status::{C0, C1, C3, PE};
use crate::fpu::{F80, status};

const BIAS: i32 = 16383;
const INTEGER_BIT: u64 = 1 << 63;
const HALF: u64 = 1 << 63;

/// A normal value's biased exponent; `None` for any other value.
#[inline(always)]
fn normal(x: F80) -> Option<i32> {
    let exponent = x.exponent();
    let is_normal = (1..0x7fff).contains(&exponent) && x.significand & INTEGER_BIT != 0;
    is_normal.then_some(exponent.into())
}

/// The operand in a register's format, if reading it raises nothing.
#[inline(always)]
pub(super) fn operand(source: Source) -> Option<F80> {
    let outcome = match source {
        Source::Register(value) => return Some(value),
        Source::Word(value) => return Some(of_integer((value as i16).into())),
        Source::Dword(value) => return Some(of_integer((value as i32).into())),
        Source::Single(bits) => extend_single(bits),
        Source::Double(bits) => extend_double(bits),
    };
    (outcome.status == 0).then_some(outcome.value)
}

/// Low bits of a 64-bit significand that the control word's PC drops.
#[inline(always)]
fn dropped_bits(control: u16) -> u32 {
    match control >> 8 & 3 {
        0 => 40,
        2 => 11,
        _ => 0,
    }
}

/// Whether RC rounds a magnitude away from zero. `rest` is what is cut off, as a fraction of 2^64 of
/// the last place, its lowest bit standing for anything below.
#[inline(always)]
fn rounds_up(control: u16, negative: bool, odd: bool, rest: u64) -> bool {
    rest != 0
        && match control >> 10 & 3 {
            0 => rest > HALF || rest == HALF && odd,
            1 => negative,
            2 => !negative,
            _ => false,
        }
}

/// Rounds `high.rest` (top bit of `high` set) to `64 - drop` bits: significand, exponent, flags.
#[inline(always)]
fn round_bits(
    control: u16,
    negative: bool,
    exponent: i32,
    (high, rest): (u64, u64),
    drop: u32,
) -> (u64, i32, u16) {
    let (kept, rest) = if drop == 0 {
        (high, rest)
    } else {
        let cut = high << (64 - drop);
        (high >> drop << drop, cut | (rest != 0) as u64)
    };
    if rest == 0 {
        return (kept, exponent, 0);
    }
    if !rounds_up(control, negative, kept >> drop & 1 != 0, rest) {
        return (kept, exponent, PE);
    }
    match kept.overflowing_add(1 << drop) {
        (_, true) => (INTEGER_BIT, exponent + 1, PE | C1),
        (significand, false) => (significand, exponent, PE | C1),
    }
}

/// A register result, if it is normal before and after rounding.
#[inline(always)]
fn finish(control: u16, negative: bool, exponent: i32, bits: (u64, u64)) -> Option<Outcome> {
    if exponent < 1 {
        return None;
    }
    let drop = dropped_bits(control);
    let (significand, exponent, status) = round_bits(control, negative, exponent, bits, drop);
    if exponent >= 0x7fff {
        return None;
    }
    let sign_exponent = (negative as u16) << 15 | exponent as u16;
    Some(Outcome { value: F80 { significand, sign_exponent }, status })
}

/// `a * b`.
#[inline]
pub(super) fn multiply(control: u16, a: F80, b: F80) -> Option<Outcome> {
    let exponent = normal(a)? + normal(b)? - BIAS;
    let product = u128::from(a.significand) * u128::from(b.significand);
    let shift = product.leading_zeros();
    let product = product << shift;
    let negative = a.is_negative() != b.is_negative();
    let bits = ((product >> 64) as u64, product as u64);
    finish(control, negative, exponent + 1 - shift as i32, bits)
}

/// `a + b`. A difference of equals, whose sign RC chooses, is left to the host.
#[inline]
pub(super) fn add(control: u16, a: F80, b: F80) -> Option<Outcome> {
    let (ea, eb) = (normal(a)?, normal(b)?);
    let swap = (ea, a.significand) < (eb, b.significand);
    let (large, small, exponent) = if swap { (b, a, eb) } else { (a, b, ea) };
    let distance = (ea - eb).unsigned_abs();
    // One bit of room for the carry.
    let left = u128::from(large.significand) << 63;
    let right = u128::from(small.significand) << 63;
    let aligned = if distance < 127 {
        let shifted = right >> distance;
        shifted | (shifted << distance != right) as u128
    } else {
        1
    };
    let sum = if a.is_negative() == b.is_negative() { left + aligned } else { left - aligned };
    if sum == 0 {
        return None;
    }
    let shift = sum.leading_zeros();
    let sum = sum << shift;
    let bits = ((sum >> 64) as u64, sum as u64);
    finish(control, large.is_negative(), exponent + 1 - shift as i32, bits)
}

/// `a / b`.
#[inline]
pub(super) fn divide(control: u16, a: F80, b: F80) -> Option<Outcome> {
    let mut exponent = normal(a)? - normal(b)? + BIAS;
    let mut shift = 63;
    if a.significand < b.significand {
        exponent -= 1;
        shift = 64;
    }
    let (dividend, divisor) = (u128::from(a.significand) << shift, u128::from(b.significand));
    let quotient = (dividend / divisor) as u64;
    let remainder = dividend - u128::from(quotient) * divisor;
    // Only whether it is below, at or above half matters.
    let rest = match (remainder * 2).cmp(&divisor) {
        _ if remainder == 0 => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Equal => HALF,
        std::cmp::Ordering::Greater => HALF | 1,
    };
    finish(control, a.is_negative() != b.is_negative(), exponent, (quotient, rest))
}

/// The negated value.
#[inline(always)]
pub(super) fn negated(x: F80) -> F80 {
    F80 { sign_exponent: x.sign_exponent ^ 0x8000, ..x }
}

/// The condition codes of comparing two values that are normal or zero.
#[inline]
pub(super) fn compare(a: F80, b: F80) -> Option<u16> {
    let key = |x: F80| {
        if x.is_zero() {
            return Some((false, 0, 0));
        }
        Some((x.is_negative(), normal(x)?, x.significand))
    };
    let ((a_negative, ea, ma), (b_negative, eb, mb)) = (key(a)?, key(b)?);
    let order = match (a_negative, b_negative) {
        (false, false) => (ea, ma).cmp(&(eb, mb)),
        (true, true) => (eb, mb).cmp(&(ea, ma)),
        (false, true) => std::cmp::Ordering::Greater,
        (true, false) => std::cmp::Ordering::Less,
    };
    Some(match order {
        std::cmp::Ordering::Less => C0,
        std::cmp::Ordering::Equal => C3,
        std::cmp::Ordering::Greater => 0,
    })
}

/// FST m64fp and m32fp: the bits and the flags raised. `fraction` is the format's fraction width.
#[inline(always)]
fn store_float(control: u16, x: F80, fraction: u32, exponent_bits: u32) -> Option<(u64, u16)> {
    let sign = (x.is_negative() as u64) << (fraction + exponent_bits);
    if x.is_zero() {
        return Some((sign, 0));
    }
    let largest = (1 << exponent_bits) - 1;
    let exponent = normal(x)? - BIAS + largest / 2;
    if exponent < 1 {
        return None;
    }
    let drop = 63 - fraction;
    let (significand, exponent, flags) =
        round_bits(control, x.is_negative(), exponent, (x.significand, 0), drop);
    if exponent >= largest {
        return None;
    }
    let fraction_bits = significand << 1 >> (64 - fraction);
    Some((sign | (exponent as u64) << fraction | fraction_bits, flags))
}

/// FST m64fp.
#[inline]
pub(super) fn store_double(control: u16, x: F80) -> Option<(u64, u16)> {
    store_float(control, x, 52, 11)
}

/// FST m32fp.
#[inline]
pub(super) fn store_single(control: u16, x: F80) -> Option<(u64, u16)> {
    store_float(control, x, 23, 8)
}

/// FIST to an integer of `bits` bits: two's complement and the flags raised.
#[inline]
pub(super) fn store_integer(control: u16, x: F80, bits: u32) -> Option<(u64, u16)> {
    if x.is_zero() {
        return Some((0, 0));
    }
    let exponent = normal(x)? - BIAS;
    if exponent > 62 {
        return None;
    }
    let (whole, rest) = if exponent >= 0 {
        let exponent = exponent as u32;
        (x.significand >> (63 - exponent), x.significand << exponent << 1)
    } else {
        let shift = (-1 - exponent) as u32;
        let rest = x.significand.checked_shr(shift).unwrap_or(0);
        // Anything shifted out is below a half that is not exact.
        (0, rest | (shift != 0) as u64)
    };
    let negative = x.is_negative();
    let up = rounds_up(control, negative, whole & 1 != 0, rest);
    let magnitude = whole + u64::from(up);
    let limit = (1u64 << (bits - 1)) - u64::from(!negative);
    if magnitude > limit {
        return None;
    }
    let value = if negative { magnitude.wrapping_neg() } else { magnitude };
    let flags = if rest != 0 { status::PE } else { 0 } | if up { C1 } else { 0 };
    Some((crate::flags::zero_extend(value, bits / 8), flags))
}

#[cfg(test)]
mod tests {
    use super::super::host::{self, Arithmetic};
    use super::*;

    /// The common case really is answered here, and as the host answers it.
    #[test]
    fn normal_operands_need_no_host() {
        let x = F80 { significand: 0xc90f_daa2_2168_c235, sign_exponent: 0x4000 };
        let y = F80 { significand: 0xadf8_5458_a2bb_4a9b, sign_exponent: 0xc000 };
        for control in (0..16).map(|modes| modes << 8 | 0x7f).filter(|word| word & 0x300 != 0x100) {
            let host = |outcome: Outcome| Outcome { status: outcome.raised(), ..outcome };
            let source = Source::Register(y);
            assert_eq!(
                multiply(control, x, y),
                Some(host(host::Multiply::apply(control, x, source)))
            );
            assert_eq!(add(control, x, y), Some(host(host::Add::apply(control, x, source))));
            assert_eq!(divide(control, x, y), Some(host(host::Divide::apply(control, x, source))));
            let (bits, word) = host::store_double(control, y);
            assert_eq!(store_double(control, y), Some((bits, host::raised(word))));
            let (bits, word) = host::store_single(control, y);
            assert_eq!(store_single(control, y), Some((bits.into(), host::raised(word))));
            let (bits, word) = host::store_dword(control, y);
            assert_eq!(store_integer(control, y, 32), Some((bits.into(), host::raised(word))));
        }
        assert_eq!(compare(x, y), Some(0));
        assert_eq!(compare(y, x), Some(C0));
    }
}
