//! Breakpoints on instructions.

use super::Debugger;
use crate::code::{Flow, Op, OpRef, UNPAYABLE, leave};
use crate::cpu::Cpu;
use crate::interp::{self, Exit};
use dejavm_units::{Gva, Position};

/// Cuts that no breakpoint needs any more and that are kept nevertheless, at most.
const UNUSED_CUTS_MAX: u32 = 1024;

/// A set of offsets in a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageOffsets([u64; 64]);

impl Default for PageOffsets {
    fn default() -> PageOffsets {
        PageOffsets([0; 64])
    }
}

impl PageOffsets {
    fn add(&mut self, offset: u64) {
        self.0[(offset >> 6) as usize & 63] |= 1 << (offset & 63);
    }

    /// Whether an offset is in the set; those beyond the page are not.
    #[inline]
    pub(crate) fn contains(&self, offset: u64) -> bool {
        offset < 4096 && self.0[(offset >> 6) as usize] & 1 << (offset & 63) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; 64]
    }

    fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    fn without(&self, other: &PageOffsets) -> PageOffsets {
        PageOffsets(std::array::from_fn(|n| self.0[n] & !other.0[n]))
    }

    fn union(&self, other: &PageOffsets) -> PageOffsets {
        PageOffsets(std::array::from_fn(|n| self.0[n] | other.0[n]))
    }
}

impl Debugger {
    /// Takes up the breakpoints of `stops`.
    pub(super) fn set_breakpoints(&mut self) {
        let stops = self.stops.breakpoints.iter();
        self.breakpoints = stops
            .map(|breakpoint| (breakpoint.at.0, breakpoint.space.map(|space| space.0)))
            .collect();
        self.breakpoints.sort_unstable();
        let mut needed = PageOffsets::default();
        for &(at, _) in &self.breakpoints {
            needed.add(at & 0xfff);
        }
        let new = needed.without(&self.cuts);
        self.new_cuts = self.new_cuts.union(&new);
        self.cuts = self.cuts.union(&needed);
        if self.cuts.without(&needed).len() > UNUSED_CUTS_MAX {
            // Blocks that are still cut elsewhere ask in vain; that does no harm.
            self.cuts = needed;
        }
    }

    /// Whether blocks are cut before the instruction at an offset in a page, and ask.
    #[inline]
    pub(crate) fn cuts_at(&self, offset: u64) -> bool {
        self.cuts.contains(offset)
    }

    /// The cuts that decoded blocks do not know yet; they are taken for known from now on.
    pub(crate) fn take_new_cuts(&mut self) -> Option<PageOffsets> {
        if self.new_cuts.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.new_cuts))
    }
}

impl Cpu {
    /// Whether a breakpoint is meant at a linear address in the address space in use.
    fn is_breakpoint(&self, linear: u64) -> bool {
        if let Some(registers) = &self.debugger.only_with
            && self.gpr[..16] != **registers
        {
            return false;
        }
        let breakpoints = &self.debugger.breakpoints;
        let first = breakpoints.partition_point(|&(at, _)| at < linear);
        breakpoints[first..]
            .iter()
            .take_while(|&&(at, _)| at == linear)
            .any(|&(_, space)| space.is_none_or(|space| self.is_in_space(space)))
    }

    /// The breakpoint on the next instruction, also if a run has stopped there already. An instruction
    /// that cannot be fetched is not reached: its page fault comes first.
    pub fn breakpoint_here(&self, ram: &dejavm_memory::GuestRam) -> Option<Gva> {
        let linear = self.cs_linear(self.rip);
        let here = !self.halted && self.is_breakpoint(linear) && self.is_fetchable(ram, linear);
        here.then_some(Gva(linear))
    }

    /// The breakpoint to stop at before the next instruction.
    #[inline]
    pub(crate) fn due_breakpoint(&mut self) -> Option<Gva> {
        if self.debugger.breakpoints.is_empty() {
            return None;
        }
        self.find_due_breakpoint()
    }

    #[cold]
    fn find_due_breakpoint(&mut self) -> Option<Gva> {
        let linear = self.cs_linear(self.rip);
        let due = !self.halted
            && self.is_breakpoint(linear)
            && self.debugger.passed != Some((self.position, linear));
        let (paging, user) = (self.paging(), self.cpl == 3);
        (due && paging.is_fetchable(self.ram(), linear, user)).then_some(Gva(linear))
    }

    /// As [`Cpu::due_breakpoint`], for the start of a block at `linear`, which was just fetched.
    #[cold]
    #[inline(never)]
    fn stops_before_block(&self, linear: u64) -> bool {
        let position = Position(self.limit.wrapping_sub(self.budget as u64));
        self.is_breakpoint(linear) && self.debugger.passed != Some((position, linear))
    }
}

/// Makes the header of a block that starts at a cut ask whether a breakpoint is meant.
pub(crate) fn ask_before(header: &mut Op) {
    header.handler = enter_checked;
    // Branches pass headers by that can be paid: see `interp`. What the block costs is kept here.
    header.disp = header.imm as i32;
    header.imm = UNPAYABLE;
}

/// Header of a block that starts at a cut: leaves for the run loop if a breakpoint is meant.
fn enter_checked(cpu: &mut Cpu, op: OpRef) -> Flow {
    let linear = cpu.page().wrapping_add(op.offset.into()) & cpu.address_mask;
    if cpu.stops_before_block(linear) {
        cpu.rip = linear;
        cpu.exit = Exit::Events;
        leave!();
    }
    interp::enter_paying(cpu, op, op.disp.into())
}
