//! Packed integer arithmetic, comparison and shifts (SSE2, SSSE3, SSE4.1, SSE4.2).

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
        Code::Paddb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::wrapping_add)),
        Code::Paddw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::wrapping_add)),
        Code::Paddd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::wrapping_add)),
        Code::Paddq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u64::wrapping_add)),
        Code::Psubb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::wrapping_sub)),
        Code::Psubw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::wrapping_sub)),
        Code::Psubd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::wrapping_sub)),
        Code::Psubq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u64::wrapping_sub)),
        Code::Paddsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::saturating_add)),
        Code::Paddsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i16::saturating_add)),
        Code::Paddusb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::saturating_add)),
        Code::Paddusw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::saturating_add)),
        Code::Psubsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::saturating_sub)),
        Code::Psubsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i16::saturating_sub)),
        Code::Psubusb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::saturating_sub)),
        Code::Psubusw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::saturating_sub)),

        Code::Pminub_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::min)),
        Code::Pminuw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::min)),
        Code::Pminud_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::min)),
        Code::Pminsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::min)),
        Code::Pminsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i16::min)),
        Code::Pminsd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i32::min)),
        Code::Pmaxub_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u8::max)),
        Code::Pmaxuw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::max)),
        Code::Pmaxud_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::max)),
        Code::Pmaxsb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i8::max)),
        Code::Pmaxsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i16::max)),
        Code::Pmaxsd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(i32::max)),

        Code::Pavgb_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, zip(|a: u8, b: u8| ((u16::from(a) + u16::from(b) + 1) >> 1) as u8))
        },
        Code::Pavgw_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, zip(|a: u16, b: u16| ((u32::from(a) + u32::from(b) + 1) >> 1) as u16))
        },

        Code::Pcmpeqb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i8, b| -i8::from(a == b))),
        Code::Pcmpeqw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i16, b| -i16::from(a == b))),
        Code::Pcmpeqd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i32, b| -i32::from(a == b))),
        Code::Pcmpeqq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i64, b| -i64::from(a == b))),
        Code::Pcmpgtb_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i8, b| -i8::from(a > b))),
        Code::Pcmpgtw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i16, b| -i16::from(a > b))),
        Code::Pcmpgtd_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i32, b| -i32::from(a > b))),
        Code::Pcmpgtq_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(|a: i64, b| -i64::from(a > b))),

        Code::Pmullw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u16::wrapping_mul)),
        Code::Pmulld_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(u32::wrapping_mul)),
        Code::Pmulhw_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, zip(|a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16))
        },
        Code::Pmulhuw_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, zip(|a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16))
        },
        Code::Pmulhrsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, zip(multiply_round_scale)),
        Code::Pmuludq_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, zip(|a: u64, b: u64| (a & 0xffff_ffff) * (b & 0xffff_ffff)))
        }
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
        Code::Packsswb_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, pack(|word: i16| word.clamp(i8::MIN.into(), i8::MAX.into()) as u8))
        },
        Code::Packuswb_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, pack(|word: i16| word.clamp(0, u8::MAX.into()) as u8))
        }
        Code::Packssdw_xmm_xmmm128 => |cpu, i| {
            cpu.binary(i, pack(|dword: i32| dword.clamp(i16::MIN.into(), i16::MAX.into()) as u16))
        },
        Code::Packusdw_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, pack(|dword: i32| dword.clamp(0, u16::MAX.into()) as u16))
        }

        Code::Pmaddwd_xmm_xmmm128 => |cpu, i| cpu.binary(i, multiply_add_words),
        Code::Pmaddubsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, multiply_add_bytes),
        Code::Phaddw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::wrapping_add)),
        Code::Phaddd_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i32::wrapping_add)),
        Code::Phaddsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::saturating_add)),
        Code::Phsubw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::wrapping_sub)),
        Code::Phsubd_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i32::wrapping_sub)),
        Code::Phsubsw_xmm_xmmm128 => |cpu, i| cpu.binary(i, horizontal(i16::saturating_sub)),

        Code::Psadbw_xmm_xmmm128 => |cpu, i| cpu.binary(i, sum_of_differences),
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

/// PMADDWD. All four products at their most negative wrap to 0x80000000, as the manual says.
fn multiply_add_words(a: u128, b: u128) -> u128 {
    let (a, b) = (i16::split(a), i16::split(b));
    let product = |n: usize| i32::from(a[n]) * i32::from(b[n]);
    i32::join(std::array::from_fn(|n| product(2 * n).wrapping_add(product(2 * n + 1))))
}

/// PMADDUBSW: unsigned bytes of the first operand times signed bytes of the second.
fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), i8::split(b));
    let product = |n: usize| i32::from(a[n]) * i32::from(b[n]);
    let sum = |n: usize| product(2 * n) + product(2 * n + 1);
    i16::join(std::array::from_fn(|n| sum(n).clamp(i16::MIN.into(), i16::MAX.into()) as i16))
}

/// PSADBW: for each half, the sum of the absolute differences of its bytes.
fn sum_of_differences(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    let half =
        |half: usize| (half * 8..half * 8 + 8).map(|n| u64::from(a[n].abs_diff(b[n]))).sum::<u64>();
    u64::join([half(0), half(1)])
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

/// Shifts of lanes by a common count, and of the whole register by bytes.
fn shifts(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Psllw_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| left::<u16, 8>(a, b as u64)),
        Code::Pslld_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| left::<u32, 4>(a, b as u64)),
        Code::Psllq_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| left::<u64, 2>(a, b as u64)),
        Code::Psrlw_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| right::<u16, 8>(a, b as u64)),
        Code::Psrld_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| right::<u32, 4>(a, b as u64)),
        Code::Psrlq_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| right::<u64, 2>(a, b as u64)),
        Code::Psraw_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| arithmetic16(a, b as u64)),
        Code::Psrad_xmm_xmmm128 => |cpu, i| cpu.binary(i, |a, b| arithmetic32(a, b as u64)),
        Code::Psllw_xmm_imm8 => |cpu, i| by_immediate(cpu, i, left::<u16, 8>),
        Code::Pslld_xmm_imm8 => |cpu, i| by_immediate(cpu, i, left::<u32, 4>),
        Code::Psllq_xmm_imm8 => |cpu, i| by_immediate(cpu, i, left::<u64, 2>),
        Code::Psrlw_xmm_imm8 => |cpu, i| by_immediate(cpu, i, right::<u16, 8>),
        Code::Psrld_xmm_imm8 => |cpu, i| by_immediate(cpu, i, right::<u32, 4>),
        Code::Psrlq_xmm_imm8 => |cpu, i| by_immediate(cpu, i, right::<u64, 2>),
        Code::Psraw_xmm_imm8 => |cpu, i| by_immediate(cpu, i, arithmetic16),
        Code::Psrad_xmm_imm8 => |cpu, i| by_immediate(cpu, i, arithmetic32),
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

/// Shifts lanes left; a count of the lane's width or more gives zero.
#[inline(always)]
fn left<T: Lane<N> + std::ops::Shl<u32, Output = T>, const N: usize>(a: u128, count: u64) -> u128 {
    if count >= 128 / N as u64 { 0 } else { map(|lane: T| lane << count as u32)(a) }
}

/// Shifts lanes right, zeros in; a count of the lane's width or more gives zero.
#[inline(always)]
fn right<T: Lane<N> + std::ops::Shr<u32, Output = T>, const N: usize>(a: u128, count: u64) -> u128 {
    if count >= 128 / N as u64 { 0 } else { map(|lane: T| lane >> count as u32)(a) }
}

/// PSRAW: sign bits in; larger counts act as 15.
#[inline(always)]
fn arithmetic16(a: u128, count: u64) -> u128 {
    map(|lane: i16| lane >> count.min(15) as u32)(a)
}

/// PSRAD: sign bits in; larger counts act as 31.
#[inline(always)]
fn arithmetic32(a: u128, count: u64) -> u128 {
    map(|lane: i32| lane >> count.min(31) as u32)(a)
}
