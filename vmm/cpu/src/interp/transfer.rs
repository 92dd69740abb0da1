//! Moves that widen, compute addresses or swap.

use super::alu::by_size;
use super::{access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::{Cpu, gpr};
use crate::flags::sign_extend;

/// LEA: the offset, without the segment's base.
fn lea<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let offset = cpu.effective_address(op);
    cpu.set::<S>(op.dst, offset);
    go!(cpu, op.next())
}

two_speeds! {
    /// MOVZX and MOVSX from `F` bytes to `S`.
    extend / extend_slow = extend_body [F: u64, SIGNED: bool, MEM: bool, S: u64]
}

#[inline(always)]
fn extend_body<
    const SLOW: bool,
    const F: u64,
    const SIGNED: bool,
    const MEM: bool,
    const S: u64,
>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let value = if MEM {
        let linear = cpu.effective_address(op);
        let slow = extend_slow::<F, SIGNED, MEM, S>;
        either!(cpu, op, slow, cpu.load_hit::<F>(linear), cpu.load_sized::<F>(linear))
    } else {
        cpu.get::<F>(op.src)
    };
    let value = if SIGNED { sign_extend(value, F as u32) } else { value };
    cpu.set::<S>(op.dst, value);
    go!(cpu, op.next())
}

/// MOVZX from AH, CH, DH or BH (`src` is the full register).
fn extend_high<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.gpr[usize::from(op.src & 31)] >> 8 & 0xff;
    cpu.set::<S>(op.dst, value);
    go!(cpu, op.next())
}

/// XCHG of two registers.
fn exchange<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let (a, b) = (cpu.get::<S>(op.dst), cpu.get::<S>(op.src));
    cpu.set::<S>(op.dst, b);
    cpu.set::<S>(op.src, a);
    go!(cpu, op.next())
}

/// CBW, CWDE, CDQE: sign-extends the lower half of the accumulator into its whole.
fn extend_accumulator<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = sign_extend(cpu.gpr[gpr::RAX], S as u32 / 2);
    cpu.set::<S>(gpr::RAX as u8, value);
    go!(cpu, op.next())
}

/// CWD, CDQ, CQO: fills the data register with the accumulator's sign.
fn sign_to_data<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let sign = sign_extend(cpu.gpr[gpr::RAX], S as u32) as i64 >> 63;
    cpu.set::<S>(gpr::RDX as u8, sign as u64);
    go!(cpu, op.next())
}

/// BSWAP (sizes 4 and 8).
fn byte_swap<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.get::<S>(op.dst);
    let swapped = if S == 4 { u64::from((value as u32).swap_bytes()) } else { value.swap_bytes() };
    cpu.set::<S>(op.dst, swapped);
    go!(cpu, op.next())
}

pub(super) fn load_address(size: u64) -> Handler {
    by_size!(lea, size, [], [])
}

pub(super) fn extending_move(from: u64, to: u64, signed: bool, memory: bool) -> Handler {
    match (from, signed, memory) {
        (1, false, false) => by_size!(extend, to, [1, false, false], []),
        (1, false, true) => by_size!(extend, to, [1, false, true], []),
        (1, true, false) => by_size!(extend, to, [1, true, false], []),
        (1, true, true) => by_size!(extend, to, [1, true, true], []),
        (2, false, false) => by_size!(extend, to, [2, false, false], []),
        (2, false, true) => by_size!(extend, to, [2, false, true], []),
        (2, true, false) => by_size!(extend, to, [2, true, false], []),
        (2, true, true) => by_size!(extend, to, [2, true, true], []),
        (_, _, false) => by_size!(extend, to, [4, true, false], []),
        (_, _, true) => by_size!(extend, to, [4, true, true], []),
    }
}

pub(super) fn high_byte_extension(to: u64) -> Handler {
    by_size!(extend_high, to, [], [])
}

pub(super) fn exchange_registers(size: u64) -> Handler {
    by_size!(exchange, size, [], [])
}

pub(super) fn widen_accumulator(size: u64) -> Handler {
    by_size!(extend_accumulator, size, [], [])
}

pub(super) fn accumulator_sign(size: u64) -> Handler {
    by_size!(sign_to_data, size, [], [])
}

pub(super) fn swap_bytes(size: u64) -> Handler {
    by_size!(byte_swap, size, [], [])
}
