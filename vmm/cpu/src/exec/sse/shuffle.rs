//! Shuffles, blends, interleaving, insertion, extraction and widening of lanes.

use super::lanes::Lane;
use super::operand::is_register;
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    permutations(i.code()).or_else(|| single_lanes(i.code())).or_else(|| widenings(i.code()))
}

fn permutations(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Pshufd_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, |_, b, s| pick_dwords(b, b, s)),
        Code::Shufps_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, pick_dwords),
        Code::Shufpd_xmm_xmmm128_imm8 => |cpu, i| {
            cpu.ternary(i, |a, b, s| {
                let (a, b) = (u64::split(a), u64::split(b));
                u64::join([a[usize::from(s & 1)], b[usize::from(s >> 1 & 1)]])
            })
        },
        Code::Pshuflw_xmm_xmmm128_imm8 => {
            |cpu, i| cpu.ternary(i, |_, b, s| b & !LOW64 | u128::from(pick_words(b as u64, s)))
        }
        Code::Pshufhw_xmm_xmmm128_imm8 => |cpu, i| {
            cpu.ternary(i, |_, b, s| b & LOW64 | u128::from(pick_words((b >> 64) as u64, s)) << 64)
        },
        Code::Pshufb_xmm_xmmm128 => |cpu, i| cpu.binary(i, shuffle_bytes),
        Code::Palignr_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, align_right),

        Code::Movsldup_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |_, b| pick_dwords(b, b, 0b10_10_00_00))
        }
        Code::Movshdup_xmm_xmmm128 => {
            |cpu, i| cpu.binary(i, |_, b| pick_dwords(b, b, 0b11_11_01_01))
        }
        Code::Movddup_xmm_xmmm64 => |cpu, i| cpu.unary64(i, |b| u64::join([b, b])),

        Code::Blendps_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, blend::<u32, 4>),
        Code::Blendpd_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, blend::<u64, 2>),
        Code::Pblendw_xmm_xmmm128_imm8 => |cpu, i| cpu.ternary(i, blend::<u16, 8>),
        Code::Blendvps_xmm_xmmm128 => blend_by_sign::<i32, 4>,
        Code::Blendvpd_xmm_xmmm128 => blend_by_sign::<i64, 2>,
        Code::Pblendvb_xmm_xmmm128 => blend_by_sign::<i8, 16>,
        _ => return None,
    };
    Some(exec)
}

/// Two dwords of `a`, then two of `b`, each chosen by two bits.
pub(crate) fn pick_dwords(a: u128, b: u128, selector: u8) -> u128 {
    let (a, b) = (u32::split(a), u32::split(b));
    let at = |n: u32| usize::from(selector >> (2 * n) & 3);
    u32::join([a[at(0)], a[at(1)], b[at(2)], b[at(3)]])
}

/// Four words of `value`, each chosen by two bits.
fn pick_words(value: u64, selector: u8) -> u64 {
    (0..4).fold(0, |picked, n| {
        let from = u32::from(selector >> (2 * n) & 3);
        picked | (value >> (16 * from) & 0xffff) << (16 * n)
    })
}

/// PSHUFB: bit 7 of an index gives zero.
pub(crate) fn shuffle_bytes(a: u128, b: u128) -> u128 {
    u128::from_le_bytes(pick_bytes(&a.to_le_bytes(), &b.to_le_bytes()))
}

/// Not inlined, so that the bytes are loaded from memory: taking them out of a `u128` in registers
/// by shifts is several times slower.
#[inline(never)]
fn pick_bytes(from: &[u8; 16], indices: &[u8; 16]) -> [u8; 16] {
    indices.map(|index| if index & 0x80 != 0 { 0 } else { from[usize::from(index & 15)] })
}

/// PALIGNR: bytes `count`.. of the 32 bytes whose high half is `a` and low half `b`.
fn align_right(a: u128, b: u128, count: u8) -> u128 {
    let count = u32::from(count);
    match count {
        0 => b,
        1..16 => b >> (8 * count) | a << (128 - 8 * count),
        16..32 => a >> (8 * (count - 16)),
        _ => 0,
    }
}

/// Lanes of `b` where the selector's bit is set, of `a` elsewhere.
fn blend<T: Lane<N>, const N: usize>(a: u128, b: u128, selector: u8) -> u128 {
    let (a, b) = (T::split(a), T::split(b));
    T::join(std::array::from_fn(|n| if selector >> n & 1 != 0 { b[n] } else { a[n] }))
}

/// BLENDVPS and its kin: the selectors are the sign bits of XMM0's lanes.
fn blend_by_sign<T: Lane<N> + Default + PartialOrd, const N: usize>(
    cpu: &mut Cpu,
    i: &Instruction,
) -> Done {
    let mask = cpu.xmm[0];
    cpu.binary(i, |a, b| {
        let (a, b, mask) = (T::split(a), T::split(b), T::split(mask));
        T::join(std::array::from_fn(|n| if mask[n] < T::default() { b[n] } else { a[n] }))
    })
}

fn single_lanes(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Pextrb_r32m8_xmm_imm8 | Code::Pextrb_r64m8_xmm_imm8 => |cpu, i| extract(cpu, i, 1),
        Code::Pextrw_r32_xmm_imm8
        | Code::Pextrw_r64_xmm_imm8
        | Code::Pextrw_r32m16_xmm_imm8
        | Code::Pextrw_r64m16_xmm_imm8 => |cpu, i| extract(cpu, i, 2),
        Code::Pextrd_rm32_xmm_imm8
        | Code::Extractps_rm32_xmm_imm8
        | Code::Extractps_r64m32_xmm_imm8 => |cpu, i| extract(cpu, i, 4),
        Code::Pextrq_rm64_xmm_imm8 => |cpu, i| extract(cpu, i, 8),
        Code::Pinsrb_xmm_r32m8_imm8 | Code::Pinsrb_xmm_r64m8_imm8 => |cpu, i| insert(cpu, i, 1),
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => |cpu, i| insert(cpu, i, 2),
        Code::Pinsrd_xmm_rm32_imm8 => |cpu, i| insert(cpu, i, 4),
        Code::Pinsrq_xmm_rm64_imm8 => |cpu, i| insert(cpu, i, 8),
        Code::Insertps_xmm_xmmm32_imm8 => insert_single,
        _ => return None,
    };
    Some(exec)
}

/// Bit offset of the lane of `size` bytes that the immediate selects.
fn lane_shift(i: &Instruction, size: u32) -> u32 {
    u32::from(i.immediate8()) % (16 / size) * size * 8
}

/// A lane to a general register, zero-extended to all of it, or to memory.
#[inline(always)]
fn extract(cpu: &mut Cpu, i: &Instruction, size: u32) -> Done {
    cpu.sse()?;
    let lane = cpu.xmm_at(i, 1) >> lane_shift(i, size);
    let lane = crate::flags::zero_extend(lane as u64, size);
    if is_register(i, 0) {
        cpu.set_reg(i.op0_register(), lane);
        return Ok(());
    }
    cpu.store_operand(i, lane, size)
}

/// A general register's low bytes, or memory, to a lane.
#[inline(always)]
fn insert(cpu: &mut Cpu, i: &Instruction, size: u32) -> Done {
    cpu.sse()?;
    let value =
        if is_register(i, 1) { cpu.reg(i.op1_register()) } else { cpu.load_operand(i, size)? };
    let shift = lane_shift(i, size);
    let mask = u128::from(crate::flags::zero_extend(u64::MAX, size)) << shift;
    let kept = cpu.xmm_at(i, 0) & !mask;
    cpu.set_xmm_at(i, 0, kept | u128::from(value) << shift & mask);
    Ok(())
}

/// INSERTPS: bits 7:6 choose a lane of the source (a register only), 5:4 one of the destination,
/// 3:0 the lanes to clear.
fn insert_single(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let selector = i.immediate8();
    let value = if is_register(i, 1) {
        u32::split(cpu.xmm_at(i, 1))[usize::from(selector >> 6)]
    } else {
        cpu.load_operand(i, 4)? as u32
    };
    let mut lanes = u32::split(cpu.xmm_at(i, 0));
    lanes[usize::from(selector >> 4 & 3)] = value;
    for (n, lane) in lanes.iter_mut().enumerate() {
        if selector >> n & 1 != 0 {
            *lane = 0;
        }
    }
    cpu.set_xmm_at(i, 0, u32::join(lanes));
    Ok(())
}

fn widenings(code: Code) -> Option<Exec> {
    let exec: Exec = match code {
        Code::Pmovsxbw_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: i8| i16::from(x))),
        Code::Pmovsxbd_xmm_xmmm32 => |cpu, i| widen(cpu, i, 4, |b| wide(b, |x: i8| i32::from(x))),
        Code::Pmovsxbq_xmm_xmmm16 => |cpu, i| widen(cpu, i, 2, |b| wide(b, |x: i8| i64::from(x))),
        Code::Pmovsxwd_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: i16| i32::from(x))),
        Code::Pmovsxwq_xmm_xmmm32 => |cpu, i| widen(cpu, i, 4, |b| wide(b, |x: i16| i64::from(x))),
        Code::Pmovsxdq_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: i32| i64::from(x))),
        Code::Pmovzxbw_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: u8| u16::from(x))),
        Code::Pmovzxbd_xmm_xmmm32 => |cpu, i| widen(cpu, i, 4, |b| wide(b, |x: u8| u32::from(x))),
        Code::Pmovzxbq_xmm_xmmm16 => |cpu, i| widen(cpu, i, 2, |b| wide(b, |x: u8| u64::from(x))),
        Code::Pmovzxwd_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: u16| u32::from(x))),
        Code::Pmovzxwq_xmm_xmmm32 => |cpu, i| widen(cpu, i, 4, |b| wide(b, |x: u16| u64::from(x))),
        Code::Pmovzxdq_xmm_xmmm64 => |cpu, i| widen(cpu, i, 8, |b| wide(b, |x: u32| u64::from(x))),
        _ => return None,
    };
    Some(exec)
}

/// PMOVSX, PMOVZX: reads `size` bytes and widens their lanes.
#[inline(always)]
fn widen(cpu: &mut Cpu, i: &Instruction, size: u32, f: impl Fn(u128) -> u128) -> Done {
    cpu.sse()?;
    let b = if is_register(i, 1) { cpu.xmm_at(i, 1) as u64 } else { cpu.load_operand(i, size)? };
    cpu.set_xmm_at(i, 0, f(u128::from(b)));
    Ok(())
}

/// The low lanes of `b`, as many as fit when widened.
#[inline(always)]
fn wide<Narrow: Lane<N>, Wide: Lane<M>, const N: usize, const M: usize>(
    b: u128,
    f: impl Fn(Narrow) -> Wide,
) -> u128 {
    let lanes = Narrow::split(b);
    Wide::join(std::array::from_fn(|n| f(lanes[n])))
}
