//! The decoded-block interpreter: a handler for each common form of instruction, and one that hands
//! everything else to the reference semantics ([`crate::exec`]).
//!
//! Handlers exist for 64-bit mode and for 32-bit protected mode with flat segments. Where anything is
//! out of the ordinary (a fault, a device, a non-canonical address, a page table or code being
//! overwritten) a handler changes nothing and bails out; the run loop then executes the instruction
//! alone by the reference semantics, which know every special case.

#[cfg(test)]
mod agreement;
mod alu;
mod branch;
mod build;
mod fused;
mod packed;
mod select;
mod shift;
mod simd;
mod stack;
mod transfer;

use crate::code::{Flow, OpRef, go, leave};
use crate::cpu::{Cpu, PAGE_REG};

pub(crate) use branch::target;
pub(crate) use build::Built;
pub(crate) use select::{Mode, condition, general};

/// Where an operand lies, for handlers that exist once for each: in a register;
pub(crate) const REGISTER: u8 = 0;
/// in memory, in 64-bit mode, at base plus displacement, which is most of them and spares an index, a
/// segment and a mask;
pub(crate) const BASED: u8 = 1;
/// in memory at whatever address.
pub(crate) const ANYWHERE: u8 = 2;

/// Why the chain of blocks was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The next block has more instructions than may run; `rip` is its start.
    Budget,
    /// The instruction at `rip` did not complete; `Cpu::abort` says why.
    Abort,
    /// `rip` is where to go on; no block is known there yet.
    Jump,
    /// The instruction before `rip` asked that events and modes be looked at.
    Events,
    /// An operation that was interpreted for host code has completed.
    Back,
}

impl Cpu {
    /// Linear address of the page being executed.
    #[inline(always)]
    pub(crate) fn page(&self) -> u64 {
        self.gpr[PAGE_REG as usize]
    }

    /// The instruction pointer at an offset from the page being executed (flat code segments only).
    #[inline(always)]
    pub(crate) fn ip_at(&self, offset: u64) -> u64 {
        self.page().wrapping_add(offset) & self.address_mask
    }

    /// The instruction pointer after an operation.
    #[inline(always)]
    fn ip_after(&self, op: OpRef) -> u64 {
        self.ip_at(u64::from(op.offset) + u64::from(op.len))
    }

    /// Linear address of an operation's memory operand.
    #[inline(always)]
    fn effective_address<const PLACE: u8>(&self, op: OpRef) -> u64 {
        let base = self.gpr[usize::from(op.base)];
        let offset = base.wrapping_add(op.disp as i64 as u64);
        if PLACE == BASED {
            return offset;
        }
        let offset = offset.wrapping_add(self.gpr[usize::from(op.index)] << (op.scale & 3));
        (offset & self.address_mask).wrapping_add(self.seg[usize::from(op.segment & 7)].base)
    }

    /// Reads `S` bytes of a general register by index.
    #[inline(always)]
    fn get<const S: u64>(&self, register: u8) -> u64 {
        crate::flags::zero_extend(self.gpr[usize::from(register)], S as u32)
    }

    /// Writes `S` bytes of a general register by index: 4 clear the upper half, 1 and 2 keep it.
    #[inline(always)]
    fn set<const S: u64>(&mut self, register: u8, value: u64) {
        let full = &mut self.gpr[usize::from(register)];
        *full = match S {
            1 => *full & !0xff | value & 0xff,
            2 => *full & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }

    /// Gives back what the block charged for an instruction that did not complete and those after
    /// it, and leaves for the run loop.
    #[cold]
    #[inline(never)]
    fn bail(&mut self, op: OpRef) {
        self.budget += i64::from(op.rest);
        self.rip = self.ip_at(op.offset.into());
        self.exit = Exit::Abort;
    }

    /// Bails out of an instruction that the reference semantics must look at.
    #[cold]
    #[inline(never)]
    fn bail_to_reference(&mut self, op: OpRef) {
        self.abort = crate::exception::AbortReason::RetryAlone;
        self.bail(op);
    }

    /// Prepares for the reference semantics: exact position and instruction pointers.
    #[inline(always)]
    fn enter_reference(&mut self, op: OpRef) {
        self.rip = self.ip_at(op.offset.into());
        self.next_rip = self.ip_after(op);
        self.position.0 = self.limit.wrapping_sub((self.budget + i64::from(op.rest)) as u64);
    }
}

/// The value of a memory access, or out.
macro_rules! access {
    ($cpu:ident, $op:ident, $access:expr) => {
        match $access {
            Ok(value) => value,
            Err(_) => {
                $cpu.bail($op);
                leave!();
            }
        }
    };
}
use access;

/// Makes two handlers of one body: one that knows only TLB hits, keeps everything in registers that
/// need not be saved, and goes over to its `#[cold]` twin at a miss; and that twin, which can do all.
/// The body's first parameter is `SLOW`.
macro_rules! two_speeds {
    ($(#[$doc:meta])* $name:ident / $slow:ident = $body:ident [$($g:ident: $t:ty),*]) => {
        $(#[$doc])*
        fn $name<$(const $g: $t),*>(cpu: &mut Cpu, op: OpRef) -> Flow {
            $body::<false $(, $g)*>(cpu, op)
        }
        #[cold]
        #[inline(never)]
        pub(super) fn $slow<$(const $g: $t),*>(cpu: &mut Cpu, op: OpRef) -> Flow {
            $body::<true $(, $g)*>(cpu, op)
        }
    };
}
/// A memory access in a body made by `two_speeds`: `$hit` if the TLB knows, else `$full`.
macro_rules! either {
    ($cpu:ident, $op:ident, $slow:expr, $hit:expr, $full:expr) => {
        if SLOW {
            access!($cpu, $op, $full)
        } else {
            match $hit {
                Some(value) => value,
                None => return $slow($cpu, $op),
            }
        }
    };
}
use {either, two_speeds};

/// Goes on at a block's header: charges for all its instructions and starts with the first, without
/// the detour through the header's handler, unless that one has something to say.
#[inline(always)]
fn go_to_block(cpu: &mut Cpu, header: OpRef) -> Flow {
    let left = cpu.budget.wrapping_sub(header.imm as i64);
    if left < 0 {
        go!(cpu, header);
    }
    cpu.budget = left;
    go!(cpu, header.next())
}

/// Header of every block: charges for all its instructions, or refuses.
pub(crate) fn enter(cpu: &mut Cpu, op: OpRef) -> Flow {
    enter_paying(cpu, op, op.imm as i64)
}

/// Charges for `count` instructions and begins with the first, or refuses.
#[inline(always)]
pub(crate) fn enter_paying(cpu: &mut Cpu, op: OpRef, count: i64) -> Flow {
    if cpu.budget < count {
        cpu.rip = cpu.ip_at(op.offset.into());
        cpu.exit = Exit::Budget;
        leave!();
    }
    cpu.budget -= count;
    go!(cpu, op.next())
}

/// An instruction that crosses into the next page, or is none: fetched and executed by the reference
/// semantics each time, for nothing tells this block when the next page changes, or what lies there.
pub(crate) fn crossing(cpu: &mut Cpu, op: OpRef) -> Flow {
    cpu.enter_reference(op);
    if cpu.execute_fetched().is_err() {
        cpu.bail(op);
        leave!();
    }
    cpu.rip = cpu.next_rip;
    if cpu.end_of_block {
        cpu.exit = Exit::Events;
        leave!();
    }
    go!(cpu, op.next())
}

/// Goes on at `rip`: the end of a block whose instruction crosses into the next page.
pub(crate) fn onward(cpu: &mut Cpu, _: OpRef) -> Flow {
    branch::jump(cpu, cpu.rip)
}

/// Header of a block whose bytes have changed: sends those who still link to it to the run loop.
pub(crate) fn dead(cpu: &mut Cpu, op: OpRef) -> Flow {
    cpu.rip = cpu.ip_at(op.offset.into());
    cpu.jumps.forget(cpu.rip, cpu.jump_context, op);
    cpu.exit = Exit::Jump;
    leave!()
}

/// Any instruction, by its reference semantics.
pub(crate) fn reference(cpu: &mut Cpu, op: OpRef) -> Flow {
    cpu.enter_reference(op);
    let whole = op.reference();
    if (whole.exec)(cpu, &whole.instruction).is_err() {
        cpu.bail(op);
        leave!();
    }
    if cpu.end_of_block {
        cpu.budget += i64::from(op.rest) - 1;
        cpu.rip = cpu.next_rip;
        cpu.exit = Exit::Events;
        leave!();
    }
    go!(cpu, op.next())
}

/// An instruction that moves elsewhere, by its reference semantics; ends a block.
pub(crate) fn reference_branch(cpu: &mut Cpu, op: OpRef) -> Flow {
    cpu.enter_reference(op);
    let whole = op.reference();
    if (whole.exec)(cpu, &whole.instruction).is_err() {
        cpu.bail(op);
        leave!();
    }
    cpu.rip = cpu.next_rip;
    if cpu.end_of_block {
        cpu.exit = Exit::Events;
        leave!();
    }
    branch::jump(cpu, cpu.next_rip)
}

/// NOP.
fn nop(cpu: &mut Cpu, op: OpRef) -> Flow {
    go!(cpu, op.next())
}
