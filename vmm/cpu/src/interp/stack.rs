//! PUSH, POP and LEAVE on a stack pointer of the mode's own width (`W` bytes: 4 or 8).

use super::{ANYWHERE, BASED, REGISTER, access, either, two_speeds};
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::{Cpu, gpr};

const RSP: u8 = gpr::RSP as u8;
const RBP: u8 = gpr::RBP as u8;

/// Pushes `W` bytes; the stack pointer moves only if the store succeeds.
#[inline(always)]
pub(super) fn push<const W: u64>(cpu: &mut Cpu, value: u64) -> Result<(), crate::exception::Abort> {
    let to = crate::flags::zero_extend(cpu.get::<W>(RSP).wrapping_sub(W), W as u32);
    cpu.store_sized::<W>(to, value)?;
    cpu.set::<W>(RSP, to);
    Ok(())
}

/// Pushes `W` bytes if the TLB knows where.
#[inline(always)]
pub(super) fn push_hit<const W: u64>(cpu: &mut Cpu, value: u64) -> Option<()> {
    let to = crate::flags::zero_extend(cpu.get::<W>(RSP).wrapping_sub(W), W as u32);
    cpu.store_hit::<W>(to, value)?;
    cpu.set::<W>(RSP, to);
    Some(())
}

/// Where the pushed value comes from.
const REG: u8 = 0;
const IMM: u8 = 1;
const MEM: u8 = 2;

two_speeds! {
    push_op / push_slow = push_body [W: u64, FROM: u8, PLACE: u8]
}

#[inline(always)]
fn push_body<const SLOW: bool, const W: u64, const FROM: u8, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let slow = push_slow::<W, FROM, PLACE>;
    let value = match FROM {
        REG => cpu.get::<W>(op.dst),
        IMM => op.imm,
        _ => {
            let linear = cpu.effective_address::<PLACE>(op);
            either!(cpu, op, slow, cpu.load_hit::<W>(linear), cpu.load_sized::<W>(linear))
        }
    };
    either!(cpu, op, slow, push_hit::<W>(cpu, value), push::<W>(cpu, value));
    go!(cpu, op.next())
}

two_speeds! {
    pop_op / pop_slow = pop_body [W: u64]
}

#[inline(always)]
fn pop_body<const SLOW: bool, const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let from = cpu.get::<W>(RSP);
    let slow = pop_slow::<W>;
    let value = either!(cpu, op, slow, cpu.load_hit::<W>(from), cpu.load_sized::<W>(from));
    // POP RSP keeps the popped value: the increment comes first.
    cpu.set::<W>(RSP, from.wrapping_add(W));
    cpu.set::<W>(op.dst, value);
    go!(cpu, op.next())
}

two_speeds! {
    leave_op / leave_slow = leave_body [W: u64]
}

#[inline(always)]
fn leave_body<const SLOW: bool, const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let from = cpu.get::<W>(RBP);
    let slow = leave_slow::<W>;
    let value = either!(cpu, op, slow, cpu.load_hit::<W>(from), cpu.load_sized::<W>(from));
    cpu.set::<W>(RSP, from.wrapping_add(W));
    cpu.set::<W>(RBP, value);
    go!(cpu, op.next())
}

pub(super) fn push_register(wide: bool) -> Handler {
    if wide { push_op::<8, REG, REGISTER> } else { push_op::<4, REG, REGISTER> }
}

pub(super) fn push_immediate(wide: bool) -> Handler {
    if wide { push_op::<8, IMM, REGISTER> } else { push_op::<4, IMM, REGISTER> }
}

pub(super) fn push_memory(wide: bool, place: u8) -> Handler {
    match (wide, place) {
        (true, BASED) => push_op::<8, MEM, BASED>,
        (true, _) => push_op::<8, MEM, ANYWHERE>,
        (false, _) => push_op::<4, MEM, ANYWHERE>,
    }
}

pub(super) fn pop_register(wide: bool) -> Handler {
    if wide { pop_op::<8> } else { pop_op::<4> }
}

pub(super) fn leave_frame(wide: bool) -> Handler {
    if wide { leave_op::<8> } else { leave_op::<4> }
}
