//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1, in software.
//!
//! Vendors' results differ in the last bit and in how arguments are reduced, so one algorithm serves
//! every host. Values are computed with 128-bit significands ([`Wide`]) to a relative error below
//! 2^-110 and rounded once: the result is the correctly rounded one except in about one case of
//! 2^45, always within 1 ulp as the manual promises (SDM vol. 1, 8.3.10). C1 and PE are those of that
//! rounding.
//!
//! Defined by the model: FSIN, FCOS, FSINCOS and FPTAN reduce arguments below 2^63 exactly by the
//! 66-bit pi of SDM vol. 1, 8.3.8, so near multiples of pi they differ from the true functions as
//! Intel's processors do. F2XM1 outside [-1, 1] returns its argument. FYL2XP1 outside its range
//! computes y * log2(x + 1) as long as x > -1; x = -1 divides by zero, x < -1 is invalid. PC is
//! ignored.

use super::Destination;
use super::host::{self, Arithmetic, Outcome, Source};
use super::wide::{Wide, multiply_high};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use crate::fpu::{F80, status};
use iced_x86::{Instruction, Mnemonic};

pub(super) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fsin => |cpu, i| trigonometric(cpu, i, |control, angle| (angle.sine(control), None)),
        M::Fcos => |cpu, i| trigonometric(cpu, i, |control, angle| (angle.cosine(control), None)),
        M::Fsincos => |cpu, i| {
            trigonometric(cpu, i, |control, angle| {
                (angle.sine(control), Some(angle.cosine(control)))
            })
        },
        M::Fptan => |cpu, i| {
            trigonometric(cpu, i, |control, angle| {
                (angle.tangent(control), Some(Outcome { value: ONE, status: 0 }))
            })
        },
        M::F2xm1 => |cpu, i| cpu.unary(i, power_of_two_less_one),
        M::Fpatan => |cpu, i| into_st1(cpu, i, arctangent),
        M::Fyl2x => |cpu, i| into_st1(cpu, i, times_logarithm),
        M::Fyl2xp1 => |cpu, i| into_st1(cpu, i, times_logarithm_plus_one),
        _ => return None,
    })
}

const ONE: F80 = F80 { significand: 1 << 63, sign_exponent: 0x3fff };
const INFINITY: F80 = F80 { significand: 1 << 63, sign_exponent: 0x7fff };
const INVALID: Outcome = Outcome { value: F80::INDEFINITE, status: status::IE };

const fn wide(exponent: i32, significand: u128) -> Wide {
    Wide { negative: false, exponent, significand }
}
/// pi.
const PI: Wide = wide(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// ln 2.
const LN_2: Wide = wide(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// 2 / ln 2.
const TWO_LOG2_E: Wide = wide(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88);
/// pi/2 with 66 significant bits, in units of 2^-65.
const HALF_PI_66: u128 = 0x3_243f_6a88_85a3_08d3;

/// 1 in units of 2^-127, the format of series coefficients.
const UNIT: u128 = 1 << 127;

/// 1/(first + n*step)! for n = 0, 1, ..., in units of 2^-127.
const fn inverse_factorials<const N: usize>(first: u32, step: u32) -> [u128; N] {
    let mut table = [0; N];
    let (mut value, mut k, mut n) = (UNIT, 1, 0);
    while n < N {
        while k <= first + n as u32 * step {
            value /= k as u128;
            k += 1;
        }
        table[n] = value;
        n += 1;
    }
    table
}

/// 1/(2n+1) for n = 0, 1, ..., in units of 2^-127.
const fn inverse_odds<const N: usize>() -> [u128; N] {
    let mut table = [0; N];
    let mut n = 0;
    while n < N {
        table[n] = UNIT / (2 * n as u128 + 1);
        n += 1;
    }
    table
}

// The lengths leave a truncation error below 2^-126 for the largest argument of each series.
/// sin(r)/r in r^2 <= (pi/4)^2.
static SINE: [u128; 17] = inverse_factorials(1, 2);
/// cos(r) in r^2.
static COSINE: [u128; 17] = inverse_factorials(0, 2);
/// (e^y - 1)/y in |y| <= ln 2.
static EXPONENTIAL: [u128; 31] = inverse_factorials(1, 1);
/// atanh(s)/s and atan(s)/s in s^2.
static ODDS: [u128; 26] = inverse_odds();
/// Terms of `ODDS` for atan of at most 1/32.
const ARCTANGENT_TERMS: usize = 13;
/// atan(k/16) in units of 2^-127.
static ARCTANGENTS: [u128; 17] = arctangents();

/// Euler's series: atan x = x/(1+x^2) * sum of (2*4*...*2n)/(3*5*...*(2n+1)) * (x^2/(1+x^2))^n.
const fn arctangents() -> [u128; 17] {
    let mut table = [0; 17];
    let mut k = 1u128;
    while k <= 16 {
        let denominator = 256 + k * k;
        let ratio = u128::MAX / denominator * (k * k);
        let mut term = UNIT / denominator * (16 * k);
        let (mut sum, mut n) = (0, 0);
        while term > 0 {
            sum += term;
            n += 1;
            term = multiply_high(term, ratio);
            term -= term / (2 * n + 1);
        }
        table[k as usize] = sum;
        k += 1;
    }
    table
}

/// The power series with these coefficients in `z` (units of 2^-128), in units of 2^-127.
fn series(coefficients: &[u128], z: u128) -> u128 {
    coefficients.iter().rev().fold(0, |sum, c| c + multiply_high(z, sum))
}

/// The same with alternating signs.
fn alternating(coefficients: &[u128], z: u128) -> u128 {
    coefficients.iter().rev().fold(0, |sum, c| c - multiply_high(z, sum))
}

/// The result for an operand that is no number: the NaN made quiet, or the response to #IA.
fn not_a_number(x: F80) -> Option<Outcome> {
    if x.is_unsupported() {
        return Some(INVALID);
    }
    if !x.is_nan() {
        return None;
    }
    let value = F80 { significand: x.significand | 1 << 62, ..x };
    Some(Outcome { value, status: if x.is_signalling() { status::IE } else { 0 } })
}

/// The result for two operands at least one of which is no number: as an addition chooses.
fn neither_a_number(a: F80, b: F80) -> Option<Outcome> {
    let special = |x: F80| x.is_nan() || x.is_unsupported();
    (special(a) || special(b)).then(|| {
        let sum = host::Add::apply(0x37f, a, Source::Register(b));
        Outcome { status: sum.raised(), ..sum }
    })
}

fn denormal_flag(operands: &[F80]) -> u16 {
    if operands.iter().any(|x| x.is_denormal()) { status::DE } else { 0 }
}

fn signed(value: F80, negative: bool) -> F80 {
    F80 { sign_exponent: value.sign_exponent | if negative { 0x8000 } else { 0 }, ..value }
}

/// An angle reduced to within pi/4 of a multiple of pi/2.
struct Angle {
    /// Quadrants passed, modulo 4, for the magnitude of the argument.
    quadrant: u8,
    /// What is left of the magnitude.
    rest: Wide,
    /// The argument's sign.
    negative: bool,
}

impl Angle {
    /// Reduces a finite argument that is not zero; `None` from 2^63 on.
    fn of(x: F80) -> Option<Angle> {
        let magnitude = Wide::of(F80 { sign_exponent: x.exponent(), ..x });
        if magnitude.exponent >= 63 {
            return None;
        }
        let negative = x.is_negative();
        if magnitude.exponent < -1 {
            return Some(Angle { quadrant: 0, rest: magnitude, negative });
        }
        // From 1/2 up the last bit is worth at least 2^-64, and 2^63 in units of 2^-65 is 2^128.
        let units = magnitude.significand >> (62 - magnitude.exponent);
        let (mut quadrant, rest) = (units / HALF_PI_66, units % HALF_PI_66);
        let above = rest > HALF_PI_66 / 2;
        if above {
            quadrant += 1;
        }
        let rest = if above { HALF_PI_66 - rest } else { rest };
        let rest = Wide::normalize(above, 127 - 65, rest);
        Some(Angle { quadrant: (quadrant & 3) as u8, rest, negative })
    }

    /// The sine and cosine of `rest`. Both series are kept below 1 (below the identity), as the
    /// functions are, so that directed rounding of tiny angles goes the right way.
    fn parts(&self) -> (Wide, Wide) {
        let square = self.rest.multiply(self.rest).units();
        let sine = Wide::fraction(false, alternating(&SINE, square) - 1);
        let cosine = Wide::fraction(false, alternating(&COSINE, square) - 1);
        (sine.multiply(self.rest), cosine)
    }

    fn sine(&self, control: u16) -> Outcome {
        let (sine, cosine) = self.parts();
        let value = if self.quadrant & 1 == 0 { sine } else { cosine };
        value.negate_if(self.quadrant & 2 != 0).negate_if(self.negative).round(false, control)
    }

    fn cosine(&self, control: u16) -> Outcome {
        let (sine, cosine) = self.parts();
        let value = if self.quadrant & 1 == 0 { cosine } else { sine };
        // cos is negative in quadrants 1 (where it is -sin of the rest) and 2.
        value.negate_if(matches!(self.quadrant, 1 | 2)).round(false, control)
    }

    fn tangent(&self, control: u16) -> Outcome {
        const TINY: i32 = -50;
        let tangent = if self.quadrant & 1 != 0 {
            let (sine, cosine) = self.parts();
            cosine.divide(sine).negate_if(true)
        } else if self.rest.exponent < TINY {
            // r + r^3/3: beyond a register's 64 bits, but it must show as "a little more".
            self.rest
        } else {
            let (sine, cosine) = self.parts();
            sine.divide(cosine)
        };
        tangent.negate_if(self.negative).round(false, control)
    }
}

/// FSIN, FCOS; FSINCOS and FPTAN, which push a second result.
fn trigonometric(
    cpu: &mut Cpu,
    i: &Instruction,
    compute: fn(u16, &Angle) -> (Outcome, Option<Outcome>),
) -> Done {
    cpu.x87_ready()?;
    let pushes = matches!(i.mnemonic(), Mnemonic::Fsincos | Mnemonic::Fptan);
    let underflow = cpu.fpu.is_empty(0);
    cpu.fpu.status &= !status::C2;
    if underflow || pushes && !cpu.fpu.is_empty(7) {
        if cpu.stack_fault(i, !underflow) {
            cpu.fpu.set_st(0, F80::INDEFINITE);
            if pushes {
                cpu.fpu.push(F80::INDEFINITE);
            }
        }
        return Ok(());
    }
    let (control, x) = (cpu.fpu.control, cpu.fpu.st(0));
    let (first, second) = if let Some(special) = not_a_number(x) {
        (special, special)
    } else if x.is_infinity() {
        (INVALID, INVALID)
    } else if x.is_zero() {
        let one = Outcome { value: ONE, status: 0 };
        let zero = Outcome { value: x, status: 0 };
        if i.mnemonic() == Mnemonic::Fcos { (one, one) } else { (zero, one) }
    } else if let Some(angle) = Angle::of(x) {
        let (first, second) = compute(control, &angle);
        (first, second.unwrap_or(first))
    } else {
        cpu.fpu.status = cpu.fpu.status & !status::C1 | status::C2;
        return Ok(());
    };
    // C1 is that of the value that ends up in ST(0), if that is rounded.
    let c1 = if pushes && i.mnemonic() == Mnemonic::Fsincos { second } else { first };
    let raised = (first.status | second.status) & status::EXCEPTIONS | c1.status & status::C1;
    if cpu.accept(i, raised | denormal_flag(&[x]), Destination::Register) {
        cpu.fpu.set_st(0, first.value);
        if pushes {
            cpu.fpu.push(second.value);
        }
    }
    Ok(())
}

/// `ST(1) = f(ST(0), ST(1))`, then pop.
fn into_st1(cpu: &mut Cpu, i: &Instruction, f: fn(u16, F80, F80) -> Outcome) -> Done {
    cpu.x87_ready()?;
    let (st0, st1) = (cpu.fpu.st(0), cpu.fpu.st(1));
    let (value, masked) = if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(1) {
        (F80::INDEFINITE, cpu.stack_fault(i, false))
    } else {
        let outcome = f(cpu.fpu.control, st0, st1);
        let raised = outcome.status & (status::EXCEPTIONS | status::C1);
        (outcome.value, cpu.accept(i, raised, Destination::Register))
    };
    if masked {
        cpu.fpu.set_st(1, value);
        cpu.fpu.pop();
    }
    Ok(())
}

/// F2XM1: 2^x - 1.
fn power_of_two_less_one(control: u16, x: F80) -> Outcome {
    const MINUS_HALF: F80 = F80 { significand: 1 << 63, sign_exponent: 0xbffe };
    if let Some(special) = not_a_number(x) {
        return special;
    }
    if x.is_zero() {
        return Outcome { value: x, status: 0 };
    }
    if x.exponent() >= 0x3fff {
        // Exact, but processors report 1 and -1/2 as inexact.
        let (value, status) = match (x.bits() & !(1 << 79) == ONE.bits(), x.is_negative()) {
            (true, true) => (MINUS_HALF, status::PE),
            (true, false) => (ONE, status::PE),
            (false, true) if x.is_infinity() => (signed(ONE, true), 0),
            // Plus infinity, and what is out of range.
            _ => (x, 0),
        };
        return Outcome { value, status };
    }
    let y = Wide::of(x).multiply(LN_2);
    let sum = if y.negative {
        alternating(&EXPONENTIAL, y.units())
    } else {
        series(&EXPONENTIAL, y.units())
    };
    let outcome = y.multiply(Wide::fraction(false, sum)).round(false, control);
    Outcome { status: outcome.status | denormal_flag(&[x]), ..outcome }
}

/// atan of a quotient between 0 and 1.
fn arctangent_of_fraction(t: Wide) -> Wide {
    // t in units of 2^-127; 1 itself is 2^127.
    let units = if t.exponent == 0 { UNIT } else { t.units() >> 1 };
    let nearest = (units + (UNIT >> 5)) >> 123;
    let (base, u) = if nearest == 0 {
        (Wide::fraction(false, 0), t)
    } else {
        // (t - c) / (1 + t*c)
        let c = Wide::normalize(false, 127 - 4, nearest);
        let numerator = t.add(c.negate_if(true));
        let denominator = Wide::of_integer(1).add(t.multiply(c));
        let base = Wide::fraction(false, ARCTANGENTS[(nearest & 31) as usize % 17]);
        (base, numerator.divide(denominator))
    };
    let square = u.multiply(u).units();
    let ratio = alternating(&ODDS[..ARCTANGENT_TERMS], square) - 1;
    base.add(u.multiply(Wide::fraction(false, ratio)))
}

/// FPATAN: the angle of the point (ST(0), ST(1)) (SDM vol. 2, table 3-30).
fn arctangent(control: u16, x: F80, y: F80) -> Outcome {
    if let Some(special) = neither_a_number(x, y) {
        return special;
    }
    let denormal = denormal_flag(&[x, y]);
    let quarters = |n: i32| {
        let value = PI.multiply(Wide::normalize(false, 127 - 2, n as u128));
        value.negate_if(y.is_negative()).round(false, control)
    };
    let left = x.is_negative();
    let outcome = match (x.is_infinity(), y.is_infinity()) {
        (true, true) => quarters(if left { 3 } else { 1 }),
        (false, true) => quarters(2),
        _ if y.is_zero() || x.is_infinity() => {
            if left {
                quarters(4)
            } else {
                Outcome { value: signed(F80::default(), y.is_negative()), status: 0 }
            }
        }
        _ if x.is_zero() => quarters(2),
        _ => {
            let a = Wide { negative: false, ..Wide::of(x) };
            let b = Wide { negative: false, ..Wide::of(y) };
            let flat = (b.exponent, b.significand) <= (a.exponent, a.significand);
            let fraction = if flat { b.divide(a) } else { a.divide(b) };
            let angle = arctangent_of_fraction(fraction);
            let half_pi = Wide { exponent: PI.exponent - 1, ..PI };
            let angle = match (left, flat) {
                (false, true) => angle,
                (false, false) => half_pi.add(angle.negate_if(true)),
                (true, false) => half_pi.add(angle),
                (true, true) => PI.add(angle.negate_if(true)),
            };
            angle.negate_if(y.is_negative()).round(false, control)
        }
    };
    Outcome { status: outcome.status | denormal, ..outcome }
}

/// log2(1 + f) from s = f / (2 + f), |s| <= 0.172: (2 / ln 2) * atanh(s).
fn logarithm_from(s: Wide) -> Wide {
    let square = s.multiply(s).units();
    let ratio = Wide::fraction(false, series(&ODDS, square));
    s.multiply(ratio).multiply(TWO_LOG2_E)
}

/// log2 of a positive value, and whether it is exact.
fn logarithm(v: Wide) -> (Wide, bool) {
    /// sqrt(2) in units of 2^-127.
    const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
    let above = v.significand > SQRT_2;
    let m = Wide { exponent: if above { -1 } else { 0 }, ..v };
    let whole = v.exponent - m.exponent;
    let one = Wide::of_integer(1);
    let f = m.add(one.negate_if(true));
    if f.is_zero() {
        return (Wide::of_integer(whole), true);
    }
    let fraction = logarithm_from(f.divide(m.add(one)));
    (Wide::of_integer(whole).add(fraction), false)
}

/// `y` times a logarithm that is `infinite`, zero or of the given sign, where either is special.
fn special_product(y: F80, negative: bool, zero: bool, infinite: bool) -> Option<Outcome> {
    let sign = y.is_negative() ^ negative;
    let plain = |value| Some(Outcome { value: signed(value, sign), status: 0 });
    match (y.is_infinity(), y.is_zero()) {
        (true, _) if zero => Some(INVALID),
        (_, true) if infinite => Some(INVALID),
        (true, _) => plain(INFINITY),
        (_, true) => plain(F80::default()),
        _ if infinite => plain(INFINITY),
        _ if zero => plain(F80::default()),
        _ => None,
    }
}

/// y * log2(v) for v = 0, which divides by zero unless y is zero or infinite; #Z hides #D.
fn logarithm_of_zero(y: F80) -> Outcome {
    if y.is_zero() {
        return INVALID;
    }
    let status = if y.is_infinity() { 0 } else { status::ZE };
    Outcome { value: signed(INFINITY, !y.is_negative()), status }
}

/// FYL2X: ST(1) * log2(ST(0)) (SDM vol. 2, table 3-49).
fn times_logarithm(control: u16, x: F80, y: F80) -> Outcome {
    if let Some(special) = neither_a_number(x, y) {
        return special;
    }
    let denormal = denormal_flag(&[x, y]);
    let with_denormal = |o: Outcome| Outcome { status: o.status | denormal, ..o };
    if x.is_zero() {
        return logarithm_of_zero(y);
    }
    if x.is_negative() {
        return INVALID;
    }
    let is_one = x.bits() == ONE.bits();
    let negative = x.exponent() < ONE.exponent();
    if let Some(special) = special_product(y, negative, is_one, x.is_infinity()) {
        return with_denormal(special);
    }
    let (logarithm, exact) = logarithm(Wide::of(x));
    with_denormal(logarithmic_product(y, logarithm, exact, control))
}

/// Rounds y times a logarithm. Processors report even an exact product (x a power of two) as inexact.
fn logarithmic_product(y: F80, logarithm: Wide, exact: bool, control: u16) -> Outcome {
    let outcome = Wide::of(y).multiply(logarithm).round(exact, control);
    let underflow = if outcome.value.is_denormal() { status::UE } else { 0 };
    Outcome { status: outcome.status | status::PE | underflow, ..outcome }
}

/// FYL2XP1: ST(1) * log2(ST(0) + 1) (SDM vol. 2, table 3-50).
fn times_logarithm_plus_one(control: u16, x: F80, y: F80) -> Outcome {
    if let Some(special) = neither_a_number(x, y) {
        return special;
    }
    let denormal = denormal_flag(&[x, y]);
    let with_denormal = |o: Outcome| Outcome { status: o.status | denormal, ..o };
    if x.is_negative() && x.exponent() >= ONE.exponent() {
        let minus_one = signed(ONE, true);
        return if x == minus_one { logarithm_of_zero(y) } else { INVALID };
    }
    let special = special_product(y, x.is_negative(), x.is_zero(), x.is_infinity());
    if let Some(special) = special {
        return with_denormal(special);
    }
    let x = Wide::of(x);
    // Below 1/4 the sum with 1 would lose bits, and the series is short enough.
    let (logarithm, exact) = if x.exponent < -2 {
        (logarithm_from(x.divide(Wide::of_integer(2).add(x))), false)
    } else {
        logarithm(Wide::of_integer(1).add(x))
    };
    with_denormal(logarithmic_product(y, logarithm, exact, control))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The constants against series that do not use them.
    #[test]
    fn constants_are_right_to_2_to_the_minus_115() {
        let close = |a: Wide, b: Wide| {
            let error = a.add(b.negate_if(true));
            assert!(error.is_zero() || error.exponent < a.exponent - 115, "{a:x?} {b:x?}");
        };
        // ln 2 = sum of 1 / (k * 2^k).
        let ln_2 = (1..=127u128).map(|k| (UNIT >> k) / k).sum();
        close(LN_2, Wide::fraction(false, ln_2));
        close(TWO_LOG2_E.multiply(LN_2), Wide::of_integer(2));
        // Machin: pi/4 = 4 atan(1/5) - atan(1/239).
        let inverse = |n| arctangent_of_fraction(Wide::of_integer(1).divide(Wide::of_integer(n)));
        let machin = Wide::of_integer(4).multiply(inverse(5)).add(inverse(239).negate_if(true));
        close(PI, Wide::of_integer(4).multiply(machin));
        // The table's last entry is pi/4 too, by another series.
        close(PI, Wide::fraction(false, ARCTANGENTS[16]).multiply(Wide::of_integer(4)));
        // The 66-bit pi is the true one truncated.
        assert_eq!(HALF_PI_66, PI.significand >> 62);
    }

    #[test]
    fn known_values() {
        // 2^(1/2) - 1, from sqrt(2) = 1.6a09e667f3bcc908b2fb1366ea957d3e (hexadecimal).
        let half = F80 { significand: 1 << 63, sign_exponent: 0x3ffe };
        let root = power_of_two_less_one(0x37f, half);
        assert_eq!(root.value.bits(), 0x3ffd_d413_cccf_e779_9211);
        // atan2(1, 1) = pi/4, rounded up from ...c234c4.
        assert_eq!(arctangent(0x37f, ONE, ONE).value.bits(), 0x3ffe_c90f_daa2_2168_c235);
        assert_eq!(arctangent(0xf7f, ONE, ONE).value.bits(), 0x3ffe_c90f_daa2_2168_c234);
        // log2(8) = 3, exactly.
        let eight = F80 { significand: 1 << 63, sign_exponent: 0x4002 };
        let three = times_logarithm(0x37f, eight, ONE);
        assert_eq!(three.value.bits(), 0x4000_c000_0000_0000_0000);
        assert_eq!(three.status, status::PE);
        // sin of the register nearest to pi: the 66-bit pi minus it, 4c... as Intel documents.
        let pi = F80 { significand: 0xc90f_daa2_2168_c235, sign_exponent: 0x4000 };
        let sine = Angle::of(pi).unwrap().sine(0x37f);
        // pi_66 = c90fdaa22168c234.c, so the rest is -0.4 units of 2^-62: -2^-64.
        assert_eq!(sine.value.sign_exponent, 0xbfff - 64);
    }
}
