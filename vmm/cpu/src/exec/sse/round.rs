//! ROUNDPS, ROUNDPD, ROUNDSS, ROUNDSD: rounding to an integral value in the same format.

use super::compare::{Real, without_denormal};
use super::float::Format;
use super::lanes::Lane;
use super::mxcsr::{IE, PE, ROUNDING_SHIFT};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

const LOW32: u128 = 0xffff_ffff;
const LOW64: u128 = 0xffff_ffff_ffff_ffff;
/// Immediate: take the rounding mode from MXCSR.
const BY_MXCSR: u8 = 1 << 2;
/// Immediate: do not report an inexact result.
const SUPPRESS_PRECISION: u8 = 1 << 3;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Roundps_xmm_xmmm128_imm8 => |cpu, i| {
            cpu.sse()?;
            let b = u32::split(cpu.source128(i, 1)?);
            let mut flags = 0;
            let lanes = b.map(|lane| round_single(lane, mode(cpu, i), cpu.mxcsr, &mut flags));
            finish(cpu, i, flags, u32::join(lanes))
        },
        Code::Roundpd_xmm_xmmm128_imm8 => |cpu, i| {
            cpu.sse()?;
            let b = u64::split(cpu.source128(i, 1)?);
            let mut flags = 0;
            let lanes = b.map(|lane| round_double(lane, mode(cpu, i), cpu.mxcsr, &mut flags));
            finish(cpu, i, flags, u64::join(lanes))
        },
        Code::Roundss_xmm_xmmm32_imm8 => |cpu, i| {
            cpu.sse()?;
            let b = cpu.source32(i, 1)?;
            let mut flags = 0;
            let lane = round_single(b, mode(cpu, i), cpu.mxcsr, &mut flags);
            finish(cpu, i, flags, cpu.xmm_at(i, 0) & !LOW32 | u128::from(lane))
        },
        Code::Roundsd_xmm_xmmm64_imm8 => |cpu, i| {
            cpu.sse()?;
            let b = cpu.source64(i, 1)?;
            let mut flags = 0;
            let lane = round_double(b, mode(cpu, i), cpu.mxcsr, &mut flags);
            finish(cpu, i, flags, cpu.xmm_at(i, 0) & !LOW64 | u128::from(lane))
        },
        _ => return None,
    };
    Some(exec)
}

fn finish(cpu: &mut Cpu, i: &Instruction, flags: u32, result: u128) -> Done {
    let suppressed = if i.immediate8() & SUPPRESS_PRECISION != 0 { PE } else { 0 };
    cpu.signal(flags & !suppressed)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// Rounding modes as MXCSR and the immediate encode them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    NearestEven,
    Down,
    Up,
    Zero,
}

fn mode(cpu: &Cpu, i: &Instruction) -> Mode {
    let immediate = i.immediate8();
    let by_mxcsr = immediate & BY_MXCSR != 0;
    let code = if by_mxcsr { cpu.mxcsr >> ROUNDING_SHIFT } else { immediate.into() };
    match code & 3 {
        0 => Mode::NearestEven,
        1 => Mode::Down,
        2 => Mode::Up,
        _ => Mode::Zero,
    }
}

fn round_single(lane: u32, mode: Mode, mxcsr: u32, flags: &mut u32) -> u32 {
    let lane = without_denormal(lane, mxcsr);
    if Real::is_nan(lane) {
        *flags |= if lane.is_signaling() { IE } else { 0 };
        return lane | 1 << 22;
    }
    let sign = lane & 1 << 31;
    sign | round(Format::SINGLE, u64::from(lane ^ sign), sign != 0, mode, flags) as u32
}

fn round_double(lane: u64, mode: Mode, mxcsr: u32, flags: &mut u32) -> u64 {
    let lane = without_denormal(lane, mxcsr);
    if Real::is_nan(lane) {
        *flags |= if lane.is_signaling() { IE } else { 0 };
        return lane | 1 << 51;
    }
    let sign = lane & 1 << 63;
    sign | round(Format::DOUBLE, lane ^ sign, sign != 0, mode, flags)
}

/// Rounds a magnitude, given as the bits of a nonnegative number, to an integral one.
fn round(format: Format, magnitude: u64, negative: bool, mode: Mode, flags: &mut u32) -> u64 {
    let (exponent, fraction_bits) = (format.exponent(magnitude), format.fraction_bits);
    if magnitude == 0 || exponent >= format.bias + u64::from(fraction_bits) {
        return magnitude;
    }
    // The bits below the units' place, and those that stay.
    let (fraction, half, integral, is_odd, one);
    if exponent < format.bias {
        // Below 1: the number itself is the fraction; one half compares as its bits do.
        fraction = magnitude;
        half = (format.bias - 1) << fraction_bits;
        (integral, is_odd, one) = (0, false, format.bias << fraction_bits);
    } else {
        // Adding the units' place to the bits carries into the exponent when it must. At exponent 0
        // the units' place is the hidden bit, always set, and so is the lowest exponent bit there.
        let dropped = fraction_bits - (exponent - format.bias) as u32;
        one = 1 << dropped;
        fraction = magnitude & (one - 1);
        half = one >> 1;
        integral = magnitude & !(one - 1);
        is_odd = magnitude & one != 0;
    }
    if fraction == 0 {
        return magnitude;
    }
    *flags |= PE;
    let away = match mode {
        Mode::NearestEven => fraction > half || fraction == half && is_odd,
        Mode::Down => negative,
        Mode::Up => !negative,
        Mode::Zero => false,
    };
    if away { integral + one } else { integral }
}
