//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: approximations, on which no two vendors agree. Ours, the same on
//! every host, is the exact value rounded to nearest at 12 significant bits: a relative error of at
//! most 2^-12, where the manual allows 1.5 * 2^-12. MXCSR has no influence and no flag is set;
//! denormal operands count as zeros and tiny results become zeros, as the manual says.

use super::lanes::Lane;
use crate::exec::Exec;
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Rcpps_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |_, b| u32::join(u32::split(b).map(reciprocal)))
        }
        Code::Rsqrtps_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |_, b| u32::join(u32::split(b).map(reciprocal_root)))
        }
        Code::Rcpss_xmm_xmmm32 => |cpu, i| {
            cpu.sse()?;
            let lane = reciprocal(cpu.source32(i, 1)?);
            let kept = cpu.xmm_at(i, 0) & !0xffff_ffff;
            cpu.set_xmm_at(i, 0, kept | u128::from(lane));
            Ok(())
        },
        Code::Rsqrtss_xmm_xmmm32 => |cpu, i| {
            cpu.sse()?;
            let lane = reciprocal_root(cpu.source32(i, 1)?);
            let kept = cpu.xmm_at(i, 0) & !0xffff_ffff;
            cpu.set_xmm_at(i, 0, kept | u128::from(lane));
            Ok(())
        },
        _ => return None,
    };
    Some(exec)
}

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
/// The QNaN floating-point indefinite.
const INDEFINITE: u32 = 0xffc0_0000;
const BIAS: i32 = 127;
/// Fraction bits of an approximation.
const PRECISION: u32 = 11;

/// Exponent, unbiased, and significand as an integer in [2^23, 2^24) of a normal number.
fn parts(value: u32) -> (i32, u64) {
    ((value >> 23 & 0xff) as i32 - BIAS, u64::from(value & 0x7f_ffff | 0x80_0000))
}

/// `twice` / 2^(PRECISION + 1) * 2^exponent with the given sign, where `twice` has one bit more than
/// the result: it is rounded to nearest (a tie, which only exact powers of two could make, cannot
/// occur). Tiny results become zero.
fn assemble(sign: u32, exponent: i32, twice: u64) -> u32 {
    let mut significand = (twice + 1) >> 1;
    let mut exponent = exponent + BIAS;
    if significand >> (PRECISION + 1) != 0 {
        significand >>= 1;
        exponent += 1;
    }
    if exponent <= 0 {
        return sign;
    }
    let fraction = (significand as u32 & ((1 << PRECISION) - 1)) << (23 - PRECISION);
    sign | (exponent as u32) << 23 | fraction
}

/// 1 / value.
fn reciprocal(value: u32) -> u32 {
    let sign = value & SIGN;
    match value >> 23 & 0xff {
        0 => sign | INFINITY,
        0xff if value & 0x7f_ffff == 0 => sign,
        0xff => value | QUIET,
        _ => {
            // value = m * 2^(e - 23). For m = 2^23 the quotient is exact; else it lies in (1/2, 1),
            // so it is taken at twice the scale and the exponent is one less.
            let (e, m) = parts(value);
            let exact = m == 1 << 23;
            let scale = 23 + PRECISION + 1 + u32::from(!exact);
            assemble(sign, -e - i32::from(!exact), (1 << scale) / m)
        }
    }
}

/// 1 / sqrt(value).
fn reciprocal_root(value: u32) -> u32 {
    let sign = value & SIGN;
    match value >> 23 & 0xff {
        0 => sign | INFINITY,
        0xff if value & 0x7f_ffff != 0 => value | QUIET,
        _ if sign != 0 => INDEFINITE,
        0xff => 0,
        _ => {
            // value = m * 2^(e - 23) with m < 2^25 and e even.
            let (mut e, mut m) = parts(value);
            if e & 1 != 0 {
                e -= 1;
                m <<= 1;
            }
            // 1 / sqrt(m / 2^23) is in (1/2, 1]; its square, scaled by 2^2s, is 2^(23 + 2s) / m.
            let exact = m == 1 << 23;
            let s = PRECISION + 1 + u32::from(!exact);
            let twice = ((1u64 << (23 + 2 * s)) / m).isqrt();
            assemble(0, -e / 2 - i32::from(!exact), twice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, f: fn(u32) -> u32, exact: impl Fn(f64) -> f64) {
        let mut worst = 0.0f64;
        // Every exponent with fractions all over, powers of two and their neighbours among them.
        for exponent in 1..=252u32 {
            for fraction in (0..0x80_0000).step_by(0x101).chain([1, 2, 0x7f_ffff]) {
                let bits = exponent << 23 | fraction;
                let expected = exact(f32::from_bits(bits).into());
                let got = f64::from(f32::from_bits(f(bits)));
                if expected >= f64::from(f32::MIN_POSITIVE) {
                    worst = worst.max(((got - expected) / expected).abs());
                }
            }
        }
        assert!(worst <= 1.0 / 4096.0, "{name}: {worst:e}");
        assert!(worst > 0.9 / 4096.0, "{name}: {worst:e}");
    }

    #[test]
    fn errors_are_within_the_architectural_bound() {
        check("RCP", reciprocal, |x| 1.0 / x);
        check("RSQRT", reciprocal_root, |x| 1.0 / x.sqrt());
    }

    #[test]
    fn special_operands() {
        let f = f32::to_bits;
        for (operand, rcp, rsqrt) in [
            (f(0.0), f(f32::INFINITY), f(f32::INFINITY)),
            (f(-0.0), f(f32::NEG_INFINITY), f(f32::NEG_INFINITY)),
            (0x0000_0001, f(f32::INFINITY), f(f32::INFINITY)),
            (0x807f_ffff, f(f32::NEG_INFINITY), f(f32::NEG_INFINITY)),
            (f(f32::INFINITY), 0, 0),
            (f(f32::NEG_INFINITY), f(-0.0), 0xffc0_0000),
            (0x7fa0_0001, 0x7fe0_0001, 0x7fe0_0001),
            (0xffc0_0007, 0xffc0_0007, 0xffc0_0007),
            (f(1.0), f(1.0), f(1.0)),
            (f(-4.0), f(-0.25), 0xffc0_0000),
            (f(4.0), f(0.25), f(0.5)),
            (f(2.0), f(0.5), 0x3f35_0000),
            (f(3.0), 0x3eaa_b000, 0x3f13_d000),
            // 2^126 has the smallest normal number as its reciprocal; half of that is tiny.
            (f(2.0f32.powi(126)), f(2.0f32.powi(-126)), f(2.0f32.powi(-63))),
            (f(1.5 * 2.0f32.powi(126)), 0, 0x1fd1_0000),
            (f(-2.0f32.powi(127)), f(-0.0), 0xffc0_0000),
        ] {
            assert_eq!(reciprocal(operand), rcp, "RCP of {operand:#x}");
            assert_eq!(reciprocal_root(operand), rsqrt, "RSQRT of {operand:#x}");
        }
    }
}
