//! PUSH, POP and LEAVE on a stack pointer of the mode's own width (`W` bytes: 4 or 8).

use super::access;
use crate::code::{Flow, Handler, OpRef, go, leave};
use crate::cpu::{Cpu, gpr};

const RSP: u8 = gpr::RSP as u8;
const RBP: u8 = gpr::RBP as u8;

/// Pushes `W` bytes; the stack pointer moves only if the store succeeds.
#[inline(always)]
pub(super) fn push<const W: u64>(cpu: &mut Cpu, value: u64) -> Result<(), crate::exception::Abort> {
    let to = cpu.get::<W>(RSP).wrapping_sub(W) & cpu.address_mask;
    cpu.store_sized::<W>(to, value)?;
    cpu.set::<W>(RSP, to);
    Ok(())
}

/// Where the pushed value comes from.
const REG: u8 = 0;
const IMM: u8 = 1;
const MEM: u8 = 2;

fn push_op<const W: u64, const FROM: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let value = match FROM {
        REG => cpu.get::<W>(op.dst),
        IMM => op.imm,
        _ => {
            let linear = cpu.effective_address(op);
            access!(cpu, op, cpu.load_sized::<W>(linear))
        }
    };
    access!(cpu, op, push::<W>(cpu, value));
    go!(cpu, op.next())
}

fn pop_op<const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let from = cpu.get::<W>(RSP);
    let value = access!(cpu, op, cpu.load_sized::<W>(from));
    // POP RSP keeps the popped value: the increment comes first.
    cpu.set::<W>(RSP, from.wrapping_add(W));
    cpu.set::<W>(op.dst, value);
    go!(cpu, op.next())
}

fn leave_op<const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let from = cpu.get::<W>(RBP);
    let value = access!(cpu, op, cpu.load_sized::<W>(from));
    cpu.set::<W>(RSP, from.wrapping_add(W));
    cpu.set::<W>(RBP, value);
    go!(cpu, op.next())
}

pub(super) fn push_register(wide: bool) -> Handler {
    if wide { push_op::<8, REG> } else { push_op::<4, REG> }
}

pub(super) fn push_immediate(wide: bool) -> Handler {
    if wide { push_op::<8, IMM> } else { push_op::<4, IMM> }
}

pub(super) fn push_memory(wide: bool) -> Handler {
    if wide { push_op::<8, MEM> } else { push_op::<4, MEM> }
}

pub(super) fn pop_register(wide: bool) -> Handler {
    if wide { pop_op::<8> } else { pop_op::<4> }
}

pub(super) fn leave_frame(wide: bool) -> Handler {
    if wide { leave_op::<8> } else { leave_op::<4> }
}
