//! The SSE moves and logic that compilers emit everywhere. Chosen only while SSE instructions need no
//! check (CR0.EM = CR0.TS = 0, CR4.OSFXSR = 1 are part of the decoding mode).

use super::{access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::Cpu;

impl Cpu {
    #[inline(always)]
    fn xmm(&self, register: u8) -> u128 {
        self.xmm[usize::from(register & 15)]
    }
    #[inline(always)]
    fn set_xmm(&mut self, register: u8, value: u128) {
        self.xmm[usize::from(register & 15)] = value;
    }
}

fn move_register(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = cpu.xmm(op.src);
    cpu.set_xmm(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    load / load_slow = load_body [ALIGNED: bool]
}

#[inline(always)]
fn load_body<const SLOW: bool, const ALIGNED: bool>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let linear = cpu.effective_address(op);
    if ALIGNED && linear & 15 != 0 {
        cpu.bail_to_reference(op);
        leave!();
    }
    let slow = load_slow::<ALIGNED>;
    let value = either!(cpu, op, slow, cpu.load_u128_hit(linear), cpu.load_u128(linear));
    cpu.set_xmm(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    store / store_slow = store_body [ALIGNED: bool]
}

#[inline(always)]
fn store_body<const SLOW: bool, const ALIGNED: bool>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let linear = cpu.effective_address(op);
    if ALIGNED && linear & 15 != 0 {
        cpu.bail_to_reference(op);
        leave!();
    }
    let value = cpu.xmm(op.src);
    let slow = store_slow::<ALIGNED>;
    either!(cpu, op, slow, cpu.store_u128_hit(linear, value), cpu.store_u128(linear, value));
    go!(cpu, op.next())
}

two_speeds! {
    /// MOVQ, MOVD, MOVSS, MOVSD from memory: the rest of the register clears.
    load_scalar / load_scalar_slow = load_scalar_body [S: u64]
}

#[inline(always)]
fn load_scalar_body<const SLOW: bool, const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let linear = cpu.effective_address(op);
    let slow = load_scalar_slow::<S>;
    let value = either!(cpu, op, slow, cpu.load_hit::<S>(linear), cpu.load_sized::<S>(linear));
    cpu.set_xmm(op.dst, value.into());
    go!(cpu, op.next())
}

two_speeds! {
    store_scalar / store_scalar_slow = store_scalar_body [S: u64]
}

#[inline(always)]
fn store_scalar_body<const SLOW: bool, const S: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let linear = cpu.effective_address(op);
    let value = cpu.xmm(op.src) as u64;
    let slow = store_scalar_slow::<S>;
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
    logic / logic_slow = logic_body [OP: u8, MEM: bool]
}

#[inline(always)]
fn logic_body<const SLOW: bool, const OP: u8, const MEM: bool>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let b = if MEM {
        let linear = cpu.effective_address(op);
        if linear & 15 != 0 {
            cpu.bail_to_reference(op);
            leave!();
        }
        let slow = logic_slow::<OP, MEM>;
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

pub(super) fn load_whole(aligned: bool) -> Handler {
    if aligned { load::<true> } else { load::<false> }
}

pub(super) fn store_whole(aligned: bool) -> Handler {
    if aligned { store::<true> } else { store::<false> }
}

pub(super) fn load_low(size: u64) -> Handler {
    if size == 8 { load_scalar::<8> } else { load_scalar::<4> }
}

pub(super) fn store_low(size: u64) -> Handler {
    if size == 8 { store_scalar::<8> } else { store_scalar::<4> }
}

pub(super) fn general_to_xmm(size: u64) -> Handler {
    if size == 8 { from_general::<8> } else { from_general::<4> }
}

pub(super) fn xmm_to_general(size: u64) -> Handler {
    if size == 8 { to_general::<8> } else { to_general::<4> }
}

pub(super) fn logic_operation(op: u8, memory: bool) -> Handler {
    match (op, memory) {
        (AND, false) => logic::<AND, false>,
        (AND, true) => logic::<AND, true>,
        (OR, false) => logic::<OR, false>,
        (OR, true) => logic::<OR, true>,
        (XOR, false) => logic::<XOR, false>,
        (XOR, true) => logic::<XOR, true>,
        (_, false) => logic::<AND_NOT, false>,
        (_, true) => logic::<AND_NOT, true>,
    }
}
