//! Near jumps, calls and returns in flat code segments.

use super::{ANYWHERE, BASED, Exit, REGISTER, access, either, go_to_block, stack, two_speeds};
use crate::code::{Flow, Handler, OpRef, Way, leave};
use crate::cpu::{Cpu, PAGE_REG, gpr};
use crate::mmu::is_canonical;

/// Goes to a linear address.
#[inline(always)]
pub(super) fn jump(cpu: &mut Cpu, linear: u64) -> Flow {
    match target(cpu, linear) {
        Some(header) => go_to_block(cpu, header),
        None => leave!(),
    }
}

/// The block at a linear address, which is the place to go on; `None` to ask the run loop for it.
#[inline(always)]
pub(crate) fn target(cpu: &mut Cpu, linear: u64) -> Option<OpRef> {
    cpu.gpr[PAGE_REG as usize] = linear & !0xfff;
    let header = cpu.jumps.get(linear, cpu.jump_context);
    if header.is_none() {
        cpu.rip = linear;
        cpu.exit = Exit::Jump;
    }
    header
}

/// Goes a direct branch's way, whose target lies `offset` from the start of the page.
#[inline(always)]
pub(super) fn follow(cpu: &mut Cpu, op: OpRef, way: Way, offset: u64) -> Flow {
    if let Some(header) = op.links().get(way) {
        return go_to_block(cpu, header);
    }
    let linear = cpu.ip_at(offset);
    let near = match way {
        Way::Taken => op.near & 1 != 0,
        Way::Fall => op.near & 2 != 0,
    };
    if near {
        cpu.pending_link = Some((op, way));
        cpu.rip = linear;
        cpu.exit = Exit::Jump;
        leave!();
    }
    if let Some(header) = cpu.jumps.get(linear, cpu.jump_context) {
        cpu.gpr[PAGE_REG as usize] = linear & !0xfff;
        return go_to_block(cpu, header);
    }
    // No cached jump leads there, so only here it must be asked: the branch itself faults.
    if !is_canonical(linear) {
        cpu.bail_to_reference(op);
        leave!();
    }
    cpu.gpr[PAGE_REG as usize] = linear & !0xfff;
    cpu.rip = linear;
    cpu.exit = Exit::Jump;
    leave!()
}

/// JMP rel, and the seam at the end of a block that no branch ends.
pub(super) fn jmp(cpu: &mut Cpu, op: OpRef) -> Flow {
    follow(cpu, op, Way::Taken, op.imm)
}

fn jcc<const CC: u8>(cpu: &mut Cpu, op: OpRef) -> Flow {
    if cpu.arith.condition(CC) {
        follow(cpu, op, Way::Taken, op.imm)
    } else {
        follow(cpu, op, Way::Fall, u64::from(op.offset) + u64::from(op.len))
    }
}

two_speeds! {
    call / call_slow = call_body [W: u64]
}

#[inline(always)]
fn call_body<const SLOW: bool, const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let is_near = op.near & 1 != 0;
    if W == 8 && !is_near && !is_canonical(cpu.ip_at(op.imm)) {
        // Nothing may be pushed.
        cpu.bail_to_reference(op);
        leave!();
    }
    let back = cpu.ip_after(op);
    let slow = call_slow::<W>;
    either!(cpu, op, slow, stack::push_hit::<W>(cpu, back), stack::push::<W>(cpu, back));
    follow(cpu, op, Way::Taken, op.imm)
}

/// The target of an indirect branch: a register or memory.
macro_rules! target {
    ($cpu:ident, $op:ident, $slow:ident, $w:expr, $place:expr) => {{
        let target = if $place != REGISTER {
            let linear = $cpu.effective_address::<{ $place }>($op);
            either!(
                $cpu,
                $op,
                $slow,
                $cpu.load_hit::<{ $w }>(linear),
                $cpu.load_sized::<{ $w }>(linear)
            )
        } else {
            $cpu.get::<{ $w }>($op.dst)
        };
        if !is_canonical(target) {
            $cpu.bail_to_reference($op);
            leave!();
        }
        target
    }};
}

two_speeds! {
    jmp_indirect / jmp_indirect_slow = jmp_indirect_body [W: u64, PLACE: u8]
}

#[inline(always)]
fn jmp_indirect_body<const SLOW: bool, const W: u64, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let slow = jmp_indirect_slow::<W, PLACE>;
    let target = target!(cpu, op, slow, W, PLACE);
    jump(cpu, target)
}

two_speeds! {
    call_indirect / call_indirect_slow = call_indirect_body [W: u64, PLACE: u8]
}

#[inline(always)]
fn call_indirect_body<const SLOW: bool, const W: u64, const PLACE: u8>(
    cpu: &mut Cpu,
    op: OpRef,
) -> Flow {
    let slow = call_indirect_slow::<W, PLACE>;
    let target = target!(cpu, op, slow, W, PLACE);
    let back = cpu.ip_after(op);
    either!(cpu, op, slow, stack::push_hit::<W>(cpu, back), stack::push::<W>(cpu, back));
    jump(cpu, target)
}

two_speeds! {
    /// RET, with the bytes of arguments to drop in `imm`.
    ret / ret_slow = ret_body [W: u64]
}

#[inline(always)]
fn ret_body<const SLOW: bool, const W: u64>(cpu: &mut Cpu, op: OpRef) -> Flow {
    let from = cpu.get::<W>(gpr::RSP as u8);
    let slow = ret_slow::<W>;
    let target = either!(cpu, op, slow, cpu.load_hit::<W>(from), cpu.load_sized::<W>(from));
    if !is_canonical(target) {
        cpu.bail_to_reference(op);
        leave!();
    }
    cpu.set::<W>(gpr::RSP as u8, from.wrapping_add(W).wrapping_add(op.imm));
    jump(cpu, target)
}

pub(super) fn conditional(cc: u8) -> Handler {
    match cc & 15 {
        0 => jcc::<0>,
        1 => jcc::<1>,
        2 => jcc::<2>,
        3 => jcc::<3>,
        4 => jcc::<4>,
        5 => jcc::<5>,
        6 => jcc::<6>,
        7 => jcc::<7>,
        8 => jcc::<8>,
        9 => jcc::<9>,
        10 => jcc::<10>,
        11 => jcc::<11>,
        12 => jcc::<12>,
        13 => jcc::<13>,
        14 => jcc::<14>,
        _ => jcc::<15>,
    }
}

pub(super) fn near_call(wide: bool) -> Handler {
    if wide { call::<8> } else { call::<4> }
}

pub(super) fn near_return(wide: bool) -> Handler {
    if wide { ret::<8> } else { ret::<4> }
}

pub(super) fn indirect_jump(wide: bool, place: u8) -> Handler {
    match (wide, place) {
        (true, REGISTER) => jmp_indirect::<8, REGISTER>,
        (true, BASED) => jmp_indirect::<8, BASED>,
        (true, _) => jmp_indirect::<8, ANYWHERE>,
        (false, REGISTER) => jmp_indirect::<4, REGISTER>,
        (false, _) => jmp_indirect::<4, ANYWHERE>,
    }
}

pub(super) fn indirect_call(wide: bool, place: u8) -> Handler {
    match (wide, place) {
        (true, REGISTER) => call_indirect::<8, REGISTER>,
        (true, BASED) => call_indirect::<8, BASED>,
        (true, _) => call_indirect::<8, ANYWHERE>,
        (false, REGISTER) => call_indirect::<4, REGISTER>,
        (false, _) => call_indirect::<4, ANYWHERE>,
    }
}
