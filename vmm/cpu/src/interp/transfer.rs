//! Moves that widen, compute addresses or swap.

use super::alu::by_size;
use super::{ANYWHERE, BASED, REGISTER, access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::{Cpu, gpr};
use crate::flags::sign_extend;

/// LEA: the offset, without the segment's base.
fn lea<const S: u64, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let offset = cpu.effective_address::<PLACE>(op);
    cpu.set::<S>(op.dst, offset);
    go!(cpu, op.next())
}

two_speeds! {
    /// MOVZX and MOVSX from `F` bytes to `S`.
    extend / extend_slow = extend_body [F: u64, SIGNED: bool, PLACE: u8, S: u64]
}

#[inline(always)]
fn extend_body<
    const SLOW: bool,
    const F: u64,
    const SIGNED: bool,
    const PLACE: u8,
    const S: u64,
>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let value = if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        let slow = extend_slow::<F, SIGNED, PLACE, S>;
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
    let value = cpu.gpr[usize::from(op.src)] >> 8 & 0xff;
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

pub(super) fn load_address(size: u64, place: u8) -> Handler {
    match place {
        BASED => by_size!(lea, size, [], [BASED]),
        _ => by_size!(lea, size, [], [ANYWHERE]),
    }
}

pub(super) fn extending_move(from: u64, to: u64, signed: bool, place: u8) -> Handler {
    macro_rules! from {
        ($from:expr, $signed:expr) => {
            match place {
                REGISTER => by_size!(extend, to, [$from, $signed, REGISTER], []),
                BASED => by_size!(extend, to, [$from, $signed, BASED], []),
                _ => by_size!(extend, to, [$from, $signed, ANYWHERE], []),
            }
        };
    }
    match (from, signed) {
        (1, false) => from!(1, false),
        (1, true) => from!(1, true),
        (2, false) => from!(2, false),
        (2, true) => from!(2, true),
        _ => from!(4, true),
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
