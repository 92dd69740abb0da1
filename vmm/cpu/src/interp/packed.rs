//! Packed integer operations on whole XMM registers, and what moves between their lanes. Chosen under
//! the same condition as [`simd`](super::simd).

use super::{ANYWHERE, BASED, REGISTER, access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::Cpu;
use crate::exec::packed::{self, Binary, each_binary, each_shift};
use crate::exec::shuffle::{pick_dwords, shuffle_bytes};
use iced_x86::Code;

/// The second operand, 16 bytes at an aligned address if it lies in memory.
macro_rules! second {
    ($cpu:ident, $op:ident, $slow:expr) => {
        if PLACE == REGISTER {
            $cpu.xmm($op.src)
        } else {
            let linear = $cpu.effective_address::<PLACE>($op);
            if linear & 15 != 0 {
                $cpu.bail_to_reference($op);
                leave!();
            }
            either!($cpu, $op, $slow, $cpu.load_u128_hit(linear), $cpu.load_u128(linear))
        }
    };
}

fn binary<F: Binary, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    binary_body::<false, F, PLACE>(cpu, op)
}

#[cold]
#[inline(never)]
fn binary_slow<F: Binary, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    binary_body::<true, F, PLACE>(cpu, op)
}

#[inline(always)]
fn binary_body<const SLOW: bool, F: Binary, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let b = second!(cpu, op, (binary_slow::<F, PLACE>));
    let a = cpu.xmm(op.dst);
    cpu.set_xmm(op.dst, F::apply(a, b));
    go!(cpu, op.next())
}

/// A shift by an immediate count.
fn shift<F: Binary>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let a = cpu.xmm(op.dst);
    cpu.set_xmm(op.dst, F::apply(a, op.imm.into()));
    go!(cpu, op.next())
}

/// PMOVMSKB.
fn byte_mask(cpu: &mut Cpu, op: OpRef) -> Flow {
    let signs = packed::byte_signs(cpu.xmm(op.src));
    cpu.set::<8>(op.dst, signs.into());
    go!(cpu, op.next())
}

two_speeds! {
    /// PSHUFD.
    dwords / dwords_slow = dwords_body [PLACE: u8]
}

#[inline(always)]
fn dwords_body<const SLOW: bool, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let b = second!(cpu, op, dwords_slow::<PLACE>);
    cpu.set_xmm(op.dst, pick_dwords(b, b, op.imm as u8));
    go!(cpu, op.next())
}

two_speeds! {
    /// PSHUFB.
    bytes / bytes_slow = bytes_body [PLACE: u8]
}

#[inline(always)]
fn bytes_body<const SLOW: bool, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let b = second!(cpu, op, bytes_slow::<PLACE>);
    let a = cpu.xmm(op.dst);
    cpu.set_xmm(op.dst, shuffle_bytes(a, b));
    go!(cpu, op.next())
}

macro_rules! by_place {
    ($name:ident, $place:expr, [$($operation:ty)?]) => {
        match $place {
            REGISTER => $name::<$($operation,)? REGISTER> as Handler,
            BASED => $name::<$($operation,)? BASED>,
            _ => $name::<$($operation,)? ANYWHERE>,
        }
    };
}

/// The handler of an operation whose second operand is a register or memory, with an immediate at most.
pub(super) fn two_operands(code: Code, place: u8) -> Option<Handler> {
    macro_rules! choose {
        ($($name:ident = $intrinsic:ident,)*) => {
            match code {
                $(Code::$name => by_place!(binary, place, [packed::$name]),)*
                Code::Pshufd_xmm_xmmm128_imm8 => by_place!(dwords, place, []),
                Code::Pshufb_xmm_xmmm128 => by_place!(bytes, place, []),
                _ => return None,
            }
        };
    }
    Some(each_binary!(choose))
}

/// The handler of a shift of a register by an immediate.
pub(super) fn immediate_shift(code: Code) -> Option<Handler> {
    macro_rules! choose {
        ($($name:ident = $intrinsic:ident,)*) => {
            match code {
                $(Code::$name => shift::<packed::$name>,)*
                _ => return None,
            }
        };
    }
    Some(each_shift!(choose))
}

pub(super) const BYTE_MASK: Handler = byte_mask;
