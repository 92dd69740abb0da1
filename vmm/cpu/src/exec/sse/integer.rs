//! Packed integer arithmetic and comparison of SSSE3, SSE4.1 and SSE4.2, and shifts of whole registers;
//! SSE2's share is in [`packed`](super::packed).

use super::lanes::{Lane, map, zip};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use crate::flags::rflags;
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    lanewise(i.code()).or_else(|| across_lanes(i.code())).or_else(|| shifts(i.code()))
}

/// Operations on each lane or pair of lanes by itself.
fn lanewise(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Pminuw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::min)),
        Code::Pminud_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::min)),
        Code::Pminsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::min)),
        Code::Pminsd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i32::min)),
        Code::Pmaxuw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::max)),
        Code::Pmaxud_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::max)),
        Code::Pmaxsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::max)),
        Code::Pmaxsd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i32::max)),

        Code::Pcmpeqq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i64, b| -i64::from(a == b))),
        Code::Pcmpgtq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i64, b| -i64::from(a > b))),

        Code::Pmulld_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::wrapping_mul)),
        Code::Pmulhrsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(multiply_round_scale)),
        Code::Pmuldq_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, zip(|a: i64, b: i64| i64::from(a as i32) * i64::from(b as i32)))
        }

        Code::Psignb_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, zip(|a: i8, b: i8| a.wrapping_mul(b.signum())))
        }
        Code::Psignw_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, zip(|a: i16, b: i16| a.wrapping_mul(b.signum())))
        }
        Code::Psignd_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, zip(|a: i32, b: i32| a.wrapping_mul(b.signum())))
        }
        Code::Pabsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, |_, b| map(i8::wrapping_abs)(b)),
        Code::Pabsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, |_, b| map(i16::wrapping_abs)(b)),
        Code::Pabsd_xmm_xmmm128 => |cpu, i| cpu.binary(i, |_, b| map(i32::wrapping_abs)(b)),
        _ => return None,
    };
    Some(exec)
}

/// PMULHRSW: bits 30:15 of the product, rounded by half a unit.
fn multiply_round_scale(a: i16, b: i16) -> i16 {
    ((((i32::from(a) * i32::from(b)) >> 14) + 1) >> 1) as i16
}

/// Operations whose result lanes depend on several source lanes.
fn across_lanes(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Packusdw_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, pack(|dword: i32| dword.clamp(0, u16::MAX.into()) as u16))
        }

        Code::Pmaddubsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, multiply_add_bytes),
        Code::Phaddw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::wrapping_add)),
        Code::Phaddd_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i32::wrapping_add)),
        Code::Phaddsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::saturating_add)),
        Code::Phsubw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::wrapping_sub)),
        Code::Phsubd_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i32::wrapping_sub)),
        Code::Phsubsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::saturating_sub)),

        Code::Mpsadbw_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, sums_of_differences),
        Code::Phminposuw_xmm_xmmm128 => |cpu, i| cpu.binary(i, |_, b| least_word(b)),
        Code::Ptest_xmm_xmmm128 => test,
        _ => return None,
    };
    Some(exec)
}

/// Narrows the lanes of both operands, the first operand's into the low half.
#[inline(always)]
fn pack<Wide: Lane<N>, Narrow: Lane<M> + Default, const N: usize, const M: usize>(
    narrow: impl Fn(Wide) -> Narrow,
) -> impl Fn(u128, u128) -> u128 {
    move |a, b| {
        let (a, b) = (Wide::split(a), Wide::split(b));
        let mut lanes = [Narrow::default(); M];
        for (to, from) in lanes.iter_mut().zip(a.into_iter().chain(b)) {
            *to = narrow(from);
        }
        Narrow::join(lanes)
    }
}

/// Combines neighbours: those of the first operand into the low half of the result.
#[inline(always)]
fn horizontal<T: Lane<N> + Default, const N: usize>(
    f: impl Fn(T, T) -> T,
) -> impl Fn(u128, u128) -> u128 {
    move |a, b| {
        let (a, b) = (T::split(a), T::split(b));
        let pair = |n: usize| {
            let from = if n < N / 2 { &a } else { &b };
            let n = n % (N / 2) * 2;
            f(from[n], from[n + 1])
        };
        T::join(std::array::from_fn(pair))
    }
}

/// PMADDUBSW: unsigned bytes of the first operand times signed bytes of the second.
fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), i8::split(b));
    let product = |n: usize| i32::from(a[n]) * i32::from(b[n]);
    let sum = |n: usize| product(2 * n) + product(2 * n + 1);
    i16::join(std::array::from_fn(|n| sum(n).clamp(i16::MIN.into(), i16::MAX.into()) as i16))
}

/// MPSADBW: eight sums of four absolute differences, of a sliding window of the first operand with
/// one group of four bytes of the second.
fn sums_of_differences(a: u128, b: u128, selector: u8) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    let window = usize::from(selector >> 2 & 1) * 4;
    let group = usize::from(selector & 3) * 4;
    let sum = |at: usize| {
        (0..4).map(|n| u16::from(a[window + at + n].abs_diff(b[group + n]))).sum::<u16>()
    };
    u16::join(std::array::from_fn(sum))
}

/// PHMINPOSUW: the least word, and in bits 18:16 the lowest index at which it stands.
fn least_word(b: u128) -> u128 {
    let words = u16::split(b);
    let mut least = 0;
    for n in 1..8 {
        if words[n] < words[least] {
            least = n;
        }
    }
    u128::from(words[least]) | (least as u128) << 16
}

/// PTEST: ZF if no bit is common, CF if all bits of the second operand are in the first.
fn test(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let b = cpu.source128(i, 1)?;
    let a = cpu.xmm_at(i, 0);
    let zf = if a & b == 0 { rflags::ZF } else { 0 };
    let cf = if !a & b == 0 { rflags::CF } else { 0 };
    cpu.arith.set_bits(zf | cf);
    Ok(())
}

/// Shifts of the whole register by bytes.
fn shifts(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Pslldq_xmm_imm8 => {
            |cpu, i| by_immediate(cpu, i, |a, n| if n < 16 { a << (8 * n) } else { 0 })
        }
        Code::Psrldq_xmm_imm8 => {
            |cpu, i| by_immediate(cpu, i, |a, n| if n < 16 { a >> (8 * n) } else { 0 })
        }
        _ => return None,
    };
    Some(exec)
}

#[inline(always)]
fn by_immediate(cpu: &mut Cpu, i: &Instruction, f: impl Fn(u128, u64) -> u128) -> Done {
    cpu.sse()?;
    let value = f(cpu.xmm_at(i, 0), i.immediate8().into());
    cpu.set_xmm_at(i, 0, value);
    Ok(())
}
