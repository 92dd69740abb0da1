//! Floating-point comparison, minimum and maximum (SDM vol. 2: CMPPS, COMISS, UCOMISS, MINPS, MAXPS).

use super::lanes::Lane;
use super::mxcsr::{DAZ, DE, IE};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use crate::flags::rflags;
use iced_x86::{Code, Instruction};
use std::cmp::Ordering;

const LOW32: u128 = 0xffff_ffff;
const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Cmpps_xmm_xmmm128_imm8 => |cpu, i| packed::<u32, 4>(cpu, i, Predicate),
        Code::Cmppd_xmm_xmmm128_imm8 => |cpu, i| packed::<u64, 2>(cpu, i, Predicate),
        Code::Cmpss_xmm_xmmm32_imm8 => |cpu, i| single(cpu, i, Predicate),
        Code::Cmpsd_xmm_xmmm64_imm8 => |cpu, i| double(cpu, i, Predicate),
        Code::Minps_xmm_xmmm128 => |cpu, i| packed::<u32, 4>(cpu, i, Minimum),
        Code::Minpd_xmm_xmmm128 => |cpu, i| packed::<u64, 2>(cpu, i, Minimum),
        Code::Minss_xmm_xmmm32 => |cpu, i| single(cpu, i, Minimum),
        Code::Minsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Minimum),
        Code::Maxps_xmm_xmmm128 => |cpu, i| packed::<u32, 4>(cpu, i, Maximum),
        Code::Maxpd_xmm_xmmm128 => |cpu, i| packed::<u64, 2>(cpu, i, Maximum),
        Code::Maxss_xmm_xmmm32 => |cpu, i| single(cpu, i, Maximum),
        Code::Maxsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Maximum),
        Code::Comiss_xmm_xmmm32 => |cpu, i| to_flags_single(cpu, i, true),
        Code::Ucomiss_xmm_xmmm32 => |cpu, i| to_flags_single(cpu, i, false),
        Code::Comisd_xmm_xmmm64 => |cpu, i| to_flags_double(cpu, i, true),
        Code::Ucomisd_xmm_xmmm64 => |cpu, i| to_flags_double(cpu, i, false),
        _ => return None,
    };
    Some(exec)
}

/// The bits of a float.
pub(super) trait Real: Copy {
    /// Positive zero.
    const ZERO: Self;
    /// All bits set.
    const ONES: Self;
    fn is_nan(self) -> bool;
    /// A NaN whose top fraction bit is clear.
    fn is_signaling(self) -> bool;
    /// Not zero, but the exponent is.
    fn is_denormal(self) -> bool;
    /// The zero of the same sign.
    fn zero_of_sign(self) -> Self;
    /// Compares values, none of them NaN.
    fn order(self, other: Self) -> Ordering;
}

macro_rules! real {
    ($bits:ty, $float:ty, $fraction_bits:literal) => {
        impl Real for $bits {
            const ZERO: Self = 0;
            const ONES: Self = <$bits>::MAX;
            #[inline(always)]
            fn is_nan(self) -> bool {
                <$float>::from_bits(self).is_nan()
            }
            #[inline(always)]
            fn is_signaling(self) -> bool {
                Real::is_nan(self) && self >> ($fraction_bits - 1) & 1 == 0
            }
            #[inline(always)]
            fn is_denormal(self) -> bool {
                let magnitude = self & (<$bits>::MAX >> 1);
                magnitude != 0 && magnitude >> $fraction_bits == 0
            }
            #[inline(always)]
            fn zero_of_sign(self) -> Self {
                self & !(<$bits>::MAX >> 1)
            }
            #[inline(always)]
            fn order(self, other: Self) -> Ordering {
                let (a, b) = (<$float>::from_bits(self), <$float>::from_bits(other));
                a.partial_cmp(&b).expect("the caller has dealt with NaNs")
            }
        }
    };
}

real!(u32, f32, 23);
real!(u64, f64, 52);

/// Compares two floats as the hardware does, given MXCSR: the exception flags detected, and the
/// order, `None` if unordered. A quiet NaN is invalid only if `signaling`; a denormal operand is
/// noticed only if neither operand is a NaN.
#[inline(always)]
fn order<T: Real>(a: T, b: T, mxcsr: u32, signaling: bool) -> (u32, Option<Ordering>) {
    if a.is_nan() || b.is_nan() {
        let invalid = signaling || a.is_signaling() || b.is_signaling();
        return (if invalid { IE } else { 0 }, None);
    }
    if !a.is_denormal() && !b.is_denormal() {
        return (0, Some(a.order(b)));
    }
    if mxcsr & DAZ == 0 {
        return (DE, Some(a.order(b)));
    }
    (0, Some(without_denormal(a, mxcsr).order(without_denormal(b, mxcsr))))
}

/// An operand as DAZ leaves it.
#[inline(always)]
pub(super) fn without_denormal<T: Real>(value: T, mxcsr: u32) -> T {
    if mxcsr & DAZ != 0 && value.is_denormal() { value.zero_of_sign() } else { value }
}

/// A function of two floats, the immediate and MXCSR that gives the exception flags and the result:
/// one for singles and doubles.
trait Compare {
    fn run<T: Real>(self, a: T, b: T, immediate: u8, mxcsr: u32) -> (u32, T);
}

/// CMPPS: bits 2:0 of the immediate are the predicate; bit 2 negates, LT and LE are signaling.
#[derive(Clone, Copy)]
struct Predicate;
impl Compare for Predicate {
    #[inline(always)]
    fn run<T: Real>(self, a: T, b: T, immediate: u8, mxcsr: u32) -> (u32, T) {
        let signaling = matches!(immediate & 3, 1 | 2);
        let (flags, order) = order(a, b, mxcsr, signaling);
        let holds = match immediate & 3 {
            0 => order == Some(Ordering::Equal),
            1 => order == Some(Ordering::Less),
            2 => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            _ => order.is_none(),
        };
        (flags, if holds != (immediate & 4 != 0) { T::ONES } else { T::ZERO })
    }
}

/// MINPS: the second operand if either is a NaN (which is invalid) or both are zeros.
#[derive(Clone, Copy)]
struct Minimum;
impl Compare for Minimum {
    #[inline(always)]
    fn run<T: Real>(self, a: T, b: T, _immediate: u8, mxcsr: u32) -> (u32, T) {
        let (flags, order) = order(a, b, mxcsr, true);
        let chosen = if order == Some(Ordering::Less) { a } else { b };
        (flags, without_denormal(chosen, mxcsr))
    }
}

/// MAXPS: the second operand if either is a NaN (which is invalid) or both are zeros.
#[derive(Clone, Copy)]
struct Maximum;
impl Compare for Maximum {
    #[inline(always)]
    fn run<T: Real>(self, a: T, b: T, _immediate: u8, mxcsr: u32) -> (u32, T) {
        let (flags, order) = order(a, b, mxcsr, true);
        let chosen = if order == Some(Ordering::Greater) { a } else { b };
        (flags, without_denormal(chosen, mxcsr))
    }
}

#[inline(always)]
fn packed<T: Real + Lane<N>, const N: usize>(
    cpu: &mut Cpu,
    i: &Instruction,
    f: impl Compare + Copy,
) -> Done {
    cpu.sse()?;
    let b = T::split(cpu.source128(i, 1)?);
    let a = T::split(cpu.xmm_at(i, 0));
    let (immediate, mxcsr) = (i.immediate8(), cpu.mxcsr);
    let mut flags = 0;
    let lanes = std::array::from_fn(|n| {
        let (raised, lane) = f.run(a[n], b[n], immediate, mxcsr);
        flags |= raised;
        lane
    });
    cpu.signal(flags)?;
    cpu.set_xmm_at(i, 0, T::join(lanes));
    Ok(())
}

#[inline(always)]
fn single(cpu: &mut Cpu, i: &Instruction, f: impl Compare) -> Done {
    cpu.sse()?;
    let b = cpu.source32(i, 1)?;
    let a = cpu.xmm_at(i, 0);
    let (flags, lane) = f.run(a as u32, b, i.immediate8(), cpu.mxcsr);
    cpu.signal(flags)?;
    cpu.set_xmm_at(i, 0, a & !LOW32 | u128::from(lane));
    Ok(())
}

#[inline(always)]
fn double(cpu: &mut Cpu, i: &Instruction, f: impl Compare) -> Done {
    cpu.sse()?;
    let b = cpu.source64(i, 1)?;
    let a = cpu.xmm_at(i, 0);
    let (flags, lane) = f.run(a as u64, b, i.immediate8(), cpu.mxcsr);
    cpu.signal(flags)?;
    cpu.set_xmm_at(i, 0, a & !LOW64 | u128::from(lane));
    Ok(())
}

fn to_flags_single(cpu: &mut Cpu, i: &Instruction, signaling: bool) -> Done {
    cpu.sse()?;
    let b = cpu.source32(i, 1)?;
    let a = cpu.xmm_at(i, 0) as u32;
    let outcome = order(a, b, cpu.mxcsr, signaling);
    to_flags(cpu, outcome)
}

fn to_flags_double(cpu: &mut Cpu, i: &Instruction, signaling: bool) -> Done {
    cpu.sse()?;
    let b = cpu.source64(i, 1)?;
    let a = cpu.xmm_at(i, 0) as u64;
    let outcome = order(a, b, cpu.mxcsr, signaling);
    to_flags(cpu, outcome)
}

/// COMISS and its kin: ZF, PF and CF tell the order; OF, SF and AF are cleared.
#[inline(always)]
fn to_flags(cpu: &mut Cpu, (flags, order): (u32, Option<Ordering>)) -> Done {
    cpu.signal(flags)?;
    cpu.arith.set_bits(match order {
        None => rflags::ZF | rflags::PF | rflags::CF,
        Some(Ordering::Less) => rflags::CF,
        Some(Ordering::Equal) => rflags::ZF,
        Some(Ordering::Greater) => 0,
    });
    Ok(())
}
