//! The SSE moves and logic that compilers emit everywhere. Chosen only while SSE instructions need no
//! check (CR0.EM = CR0.TS = 0, CR4.OSFXSR = 1 are part of the decoding mode).

use super::{ANYWHERE, BASED, REGISTER, access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::Cpu;

impl Cpu {
    #[inline(always)]
    pub(super) fn xmm(&self, register: u8) -> u128 {
        self.xmm[usize::from(register & 15)]
    }
    #[inline(always)]
    pub(super) fn set_xmm(&mut self, register: u8, value: u128) {
        self.xmm[usize::from(register & 15)] = value;
    }
}

fn move_register(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.xmm(op.src);
    cpu.set_xmm(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    load / load_slow = load_body [ALIGNED: bool, PLACE: u8]
}

#[inline(always)]
fn load_body<const SLOW: bool, const ALIGNED: bool, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let linear = cpu.effective_address::<PLACE>(op);
    if ALIGNED && linear & 15 != 0 {
        cpu.bail_to_reference(op);
        leave!();
    }
    let slow = load_slow::<ALIGNED, PLACE>;
    let value = either!(cpu, op, slow, cpu.load_u128_hit(linear), cpu.load_u128(linear));
    cpu.set_xmm(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    store / store_slow = store_body [ALIGNED: bool, PLACE: u8]
}

#[inline(always)]
fn store_body<const SLOW: bool, const ALIGNED: bool, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let linear = cpu.effective_address::<PLACE>(op);
    if ALIGNED && linear & 15 != 0 {
        cpu.bail_to_reference(op);
        leave!();
    }
    let value = cpu.xmm(op.src);
    let slow = store_slow::<ALIGNED, PLACE>;
    either!(cpu, op, slow, cpu.store_u128_hit(linear, value), cpu.store_u128(linear, value));
    go!(cpu, op.next())
}

two_speeds! {
    /// MOVQ, MOVD, MOVSS, MOVSD from memory: the rest of the register clears.
    load_scalar / load_scalar_slow = load_scalar_body [S: u64, PLACE: u8]
}

#[inline(always)]
fn load_scalar_body<const SLOW: bool, const S: u64, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let linear = cpu.effective_address::<PLACE>(op);
    let slow = load_scalar_slow::<S, PLACE>;
    let value = either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear));
    cpu.set_xmm(op.dst, value.into());
    go!(cpu, op.next())
}

two_speeds! {
    store_scalar / store_scalar_slow = store_scalar_body [S: u64, PLACE: u8]
}

#[inline(always)]
fn store_scalar_body<const SLOW: bool, const S: u64, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let linear = cpu.effective_address::<PLACE>(op);
    let value = cpu.xmm(op.src) as u64;
    let slow = store_scalar_slow::<S, PLACE>;
    either!(cpu, op, slow, cpu.store_hit::<S>(linear, value), cpu.store_sized::<S>(linear, value));
    go!(cpu, op.next())
}

/// MOVD/MOVQ between a general register and an XMM register.
fn from_general<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.get::<S>(op.src);
    cpu.set_xmm(op.dst, value.into());
    go!(cpu, op.next())
}

fn to_general<const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.xmm(op.src) as u64;
    cpu.set::<S>(op.dst, value);
    go!(cpu, op.next())
}

pub(super) const AND: u8 = 0;
pub(super) const OR: u8 = 1;
pub(super) const XOR: u8 = 2;
pub(super) const AND_NOT: u8 = 3;

two_speeds! {
    logic / logic_slow = logic_body [OP: u8, PLACE: u8]
}

#[inline(always)]
fn logic_body<const SLOW: bool, const OP: u8, const PLACE: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let b = if PLACE != REGISTER {
        let linear = cpu.effective_address::<PLACE>(op);
        if linear & 15 != 0 {
            cpu.bail_to_reference(op);
            leave!();
        }
        let slow = logic_slow::<OP, PLACE>;
        either!(cpu, op, slow, cpu.load_u128_hit(linear), cpu.load_u128(linear))
    } else {
        cpu.xmm(op.src)
    };
    let a = cpu.xmm(op.dst);
    let result = match OP {
        AND => a & b,
        OR => a | b,
        XOR => a ^ b,
        _ => !a & b,
    };
    cpu.set_xmm(op.dst, result);
    go!(cpu, op.next())
}

pub(super) const MOVE_REGISTER: Handler = move_register;

/// By place in memory, which comes last.
macro_rules! in_memory {
    ($name:ident, $place:expr, [$($before:expr),*]) => {
        match $place {
            BASED => $name::<$({ $before },)* BASED> as Handler,
            _ => $name::<$({ $before },)* ANYWHERE>,
        }
    };
}

pub(super) fn load_whole(aligned: bool, place: u8) -> Handler {
    if aligned { in_memory!(load, place, [true]) } else { in_memory!(load, place, [false]) }
}

pub(super) fn store_whole(aligned: bool, place: u8) -> Handler {
    if aligned { in_memory!(store, place, [true]) } else { in_memory!(store, place, [false]) }
}

pub(super) fn load_low(size: u64, place: u8) -> Handler {
    if size == 8 {
        in_memory!(load_scalar, place, [8])
    } else {
        in_memory!(load_scalar, place, [4])
    }
}

pub(super) fn store_low(size: u64, place: u8) -> Handler {
    if size == 8 {
        in_memory!(store_scalar, place, [8])
    } else {
        in_memory!(store_scalar, place, [4])
    }
}

pub(super) fn general_to_xmm(size: u64) -> Handler {
    if size == 8 { from_general::<8> } else { from_general::<4> }
}

pub(super) fn xmm_to_general(size: u64) -> Handler {
    if size == 8 { to_general::<8> } else { to_general::<4> }
}

pub(super) fn logic_operation(op: u8, place: u8) -> Handler {
    macro_rules! by_place {
        ($op:expr) => {
            match place {
                REGISTER => logic::<$op, REGISTER> as Handler,
                _ => in_memory!(logic, place, [$op]),
            }
        };
    }
    match op {
        AND => by_place!(AND),
        OR => by_place!(OR),
        XOR => by_place!(XOR),
        _ => by_place!(AND_NOT),
    }
}
