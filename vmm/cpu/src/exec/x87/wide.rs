//! Numbers with a 128-bit significand: what the transcendentals compute with before rounding to the
//! 64 bits of a register. Operations truncate, with a relative error below 2^-125.

use super::host::Outcome;
use crate::fpu::{F80, status};

const TOP: u128 = 1 << 127;

/// `significand * 2^(exponent - 127)`, negated if `negative`. The significand's top bit is set,
/// unless the value is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wide {
    pub(super) negative: bool,
    pub(super) exponent: i32,
    pub(super) significand: u128,
}

/// Bits 255:128 of a product.
pub(super) const fn multiply_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let low = (a0 * b0) >> 64;
    let middle = a1 * b0 + low;
    let other = a0 * b1 + (middle & LOW);
    a1 * b1 + (middle >> 64) + (other >> 64)
}

/// `floor(a * 2^128 / b)` for `a < b`, the top bit of `b` set: two digits of Knuth's algorithm D in
/// base 2^64.
const fn divide_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    const fn digit(remainder: u128, b: u128) -> (u128, u128) {
        let (b1, b0) = (b >> 64, b & LOW);
        let mut digit = remainder / b1;
        let mut rest = remainder % b1;
        while digit > LOW || digit * b0 > rest << 64 {
            digit -= 1;
            rest += b1;
            if rest > LOW {
                break;
            }
        }
        (digit, (remainder << 64).wrapping_sub(digit.wrapping_mul(b)))
    }
    let (high, rest) = digit(a, b);
    let (low, _) = digit(rest, b);
    high << 64 | low
}

impl Wide {
    /// A value whose significand need not have its top bit set.
    pub(super) const fn normalize(negative: bool, exponent: i32, significand: u128) -> Wide {
        if significand == 0 {
            return Wide { negative, exponent: 0, significand };
        }
        let shift = significand.leading_zeros();
        Wide { negative, exponent: exponent - shift as i32, significand: significand << shift }
    }

    /// A fraction in units of 2^-127, below 2.
    pub(super) const fn fraction(negative: bool, units: u128) -> Wide {
        Wide::normalize(negative, 0, units)
    }

    /// A finite register value.
    pub(super) fn of(value: F80) -> Wide {
        let biased = i32::from(value.exponent().max(1));
        let significand = u128::from(value.significand) << 64;
        Wide::normalize(value.is_negative(), biased - 16383, significand)
    }

    /// A small integer.
    pub(super) fn of_integer(value: i32) -> Wide {
        Wide::normalize(value < 0, 127, value.unsigned_abs().into())
    }

    pub(super) const fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub(super) const fn negate_if(self, condition: bool) -> Wide {
        Wide { negative: self.negative ^ condition, ..self }
    }

    /// The magnitude in units of 2^-128, truncated; the value must be below 1.
    pub(super) fn units(self) -> u128 {
        assert!(self.is_zero() || self.exponent < 0, "a fraction");
        let shift = (-1 - self.exponent) as u32;
        self.significand.checked_shr(shift).unwrap_or(0)
    }

    pub(super) fn multiply(self, other: Wide) -> Wide {
        let product = multiply_high(self.significand, other.significand);
        let exponent = self.exponent + other.exponent + 1;
        Wide::normalize(self.negative ^ other.negative, exponent, product)
    }

    /// Quotient by a value that is not zero.
    pub(super) fn divide(self, other: Wide) -> Wide {
        assert!(!other.is_zero(), "callers exclude zero divisors");
        // The top bits are set, so half the dividend is below the divisor.
        let quotient = divide_high(self.significand >> 1, other.significand);
        let exponent = self.exponent - other.exponent;
        Wide::normalize(self.negative ^ other.negative, exponent, quotient)
    }

    pub(super) fn add(self, other: Wide) -> Wide {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let larger_first = (self.exponent, self.significand) >= (other.exponent, other.significand);
        let (large, small) = if larger_first { (self, other) } else { (other, self) };
        let shift = (large.exponent - small.exponent) as u32;
        let aligned = small.significand.checked_shr(shift).unwrap_or(0);
        if large.negative == small.negative {
            let (sum, carry) = large.significand.overflowing_add(aligned);
            if carry {
                let significand = sum >> 1 | TOP;
                return Wide { significand, exponent: large.exponent + 1, ..large };
            }
            return Wide { significand: sum, ..large };
        }
        Wide::normalize(large.negative, large.exponent, large.significand - aligned)
    }

    /// Rounds to a register by the control word's RC (its PC does not concern transcendentals), with
    /// the masked or unmasked response to overflow and underflow. `exact` says that the significand
    /// is the whole truth; otherwise more bits would follow.
    pub(super) fn round(self, exact: bool, control: u16) -> Outcome {
        const BIAS: i32 = 16383;
        const ADJUST: i32 = 24576;
        let unmasked = !control;
        let biased = self.exponent + BIAS;
        let natural = self.round_at(biased, exact, control, 0);
        if natural.biased >= 0x7fff {
            if unmasked & status::OE != 0 {
                return natural.outcome(self.negative, -ADJUST, status::OE);
            }
            return overflow(self.negative, control);
        }
        if natural.biased >= 1 {
            return natural.outcome(self.negative, 0, 0);
        }
        if unmasked & status::UE != 0 {
            return natural.outcome(self.negative, ADJUST, status::UE);
        }
        let denormal = self.round_at(0, exact, control, (1 - biased) as u32);
        let underflow = if denormal.status & status::PE != 0 { status::UE } else { 0 };
        denormal.outcome(self.negative, 0, underflow)
    }

    /// Rounds to 64 bits after shifting right by `shift`.
    fn round_at(self, biased: i32, exact: bool, control: u16, shift: u32) -> Rounded {
        let shifted = self.significand.checked_shr(shift).unwrap_or(0);
        let lost = shift > 0 && shifted.checked_shl(shift).unwrap_or(0) != self.significand;
        let (kept, rest) = ((shifted >> 64) as u64, shifted as u64);
        let beyond = lost || !exact;
        let inexact = rest != 0 || beyond;
        const HALF: u64 = 1 << 63;
        let up = inexact
            && match control >> 10 & 3 {
                0 => rest > HALF || rest == HALF && (beyond || kept & 1 != 0),
                1 => self.negative,
                2 => !self.negative,
                _ => false,
            };
        let (mut significand, carry) = kept.overflowing_add(up.into());
        let mut biased = biased;
        if carry {
            significand = 1 << 63;
            biased += 1;
        } else if shift > 0 && significand >> 63 != 0 {
            // A denormal that rounded up to the smallest normal.
            biased = 1;
        }
        let status = if inexact { status::PE } else { 0 } | if up { status::C1 } else { 0 };
        Rounded { significand, biased, status }
    }
}

struct Rounded {
    significand: u64,
    biased: i32,
    status: u16,
}

impl Rounded {
    fn outcome(self, negative: bool, adjust: i32, more: u16) -> Outcome {
        let exponent = (self.biased + adjust).clamp(0, 0x7ffe) as u16;
        let sign = if negative { 0x8000 } else { 0 };
        let value = F80 { significand: self.significand, sign_exponent: sign | exponent };
        Outcome { value, status: self.status | more }
    }
}

/// The masked response to overflow: infinity or the largest finite value (SDM vol. 1, table 4-10).
fn overflow(negative: bool, control: u16) -> Outcome {
    let to_infinity = match control >> 10 & 3 {
        0 => true,
        1 => negative,
        2 => !negative,
        _ => false,
    };
    let sign = if negative { 0x8000 } else { 0 };
    let (value, c1) = if to_infinity {
        (F80 { significand: 1 << 63, sign_exponent: sign | 0x7fff }, status::C1)
    } else {
        (F80 { significand: u64::MAX, sign_exponent: sign | 0x7ffe }, 0)
    };
    Outcome { value, status: status::OE | status::PE | c1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_times_divisors_are_dividends() {
        let (mut a, mut b) = (0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835_u128, 3u128 << 126);
        for _ in 0..1000 {
            let (x, y) = (Wide::fraction(false, a | TOP), Wide::fraction(false, b | TOP));
            let back = x.divide(y).multiply(y);
            let error = back.add(x.negate_if(true));
            assert!(error.is_zero() || error.exponent < x.exponent - 124, "{a:x} / {b:x}");
            a = a.wrapping_mul(0xda94_2042_e4dd_58b5).rotate_left(41) ^ b;
            b = b.wrapping_add(a.rotate_left(17));
        }
    }

    #[test]
    fn rounding_matches_the_modes() {
        let third = Wide::of_integer(1).divide(Wide::of_integer(3));
        assert_eq!(third.round(false, 0x37f).value.significand, 0xaaaa_aaaa_aaaa_aaab);
        assert_eq!(third.round(false, 0x77f).value.significand, 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(third.round(false, 0xb7f).value.significand, 0xaaaa_aaaa_aaaa_aaab);
        assert_eq!(third.round(false, 0xf7f).value.significand, 0xaaaa_aaaa_aaaa_aaaa);
        let tiny = Wide { exponent: -16383, ..third };
        let rounded = tiny.round(false, 0x37f);
        assert_eq!(rounded.value.bits(), 0x5555_5555_5555_5555);
        assert_eq!(rounded.status, status::UE | status::PE);
        let huge = Wide { exponent: 16384, ..third };
        assert_eq!(huge.round(false, 0x37f).value.bits(), 0x7fff_8000_0000_0000_0000);
        assert_eq!(huge.round(false, 0x377).value.sign_exponent, (16384 + 16383 - 24576) as u16);
    }
}
