//! What a debugger asks of the CPU: to stop before instructions and after accesses, and to look at
//! memory. The guest sees none of it, and no state, position or digest depends on it.
//!
//! *Breakpoints.* Decoded blocks are cut at the page offsets of breakpoints, and a block that starts at
//! such an offset asks [`Debugger`] before it runs. Whether that linear address, in this address space,
//! is really meant is thus decided when the instruction is about to be executed, and one decoding
//! still serves every address that the page is mapped at.
//!
//! *Watchpoints.* Pages that a watched range touches are never entered into the TLB, so accesses to
//! them take the slow path, which compares ranges. An access that overlaps runs alone and is noted; the
//! run loop stops when the instruction has completed.

mod breakpoints;
mod inspect;
#[cfg(test)]
mod tests;
mod watchpoints;

use crate::cpu::{Cpu, control};
use breakpoints::PageOffsets;
use dejavm_units::{Gpa, Gva, Position};
use watchpoints::WatchList;

pub(crate) use breakpoints::ask_before;

/// Where to stop before an instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoint {
    /// The linear address of the instruction's first byte (the base of CS plus RIP).
    pub at: Gva,
    /// Only while this is the base of CR3 (bits 51:12; with PAE paging 31:5); `None`: in every address
    /// space.
    pub space: Option<Gpa>,
}

/// A kind of access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Stores, also of the value that is there already.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// Where to stop after memory was accessed: by instructions, by the delivery of interrupts and
/// exceptions, and by what instructions do on the side (descriptors, task states). Fetches of
/// instructions and walks of page tables are no accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// The linear address of the first byte.
    pub start: Gva,
    /// The length in bytes; ends with the address space if it is longer.
    pub bytes: u64,
    /// What accesses count.
    pub kind: WatchKind,
    /// Only while this is the base of CR3 (bits 51:12; with PAE paging 31:5); `None`: in every address
    /// space.
    pub space: Option<Gpa>,
}

/// All breakpoints and watchpoints, in any number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Where to stop before instructions.
    pub breakpoints: Vec<Breakpoint>,
    /// Where to stop after accesses.
    pub watchpoints: Vec<Watchpoint>,
}

/// An access that a watchpoint was waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchHit {
    /// Index of the watchpoint in [`Stops::watchpoints`].
    pub index: usize,
    /// The first watched byte that was accessed.
    pub address: Gva,
    /// What the access was: [`WatchKind::Write`] or [`WatchKind::Read`].
    pub kind: WatchKind,
    /// The APIC id of the vCPU that did it.
    pub processor: u8,
}

/// The bits of CR3 (and of [`Breakpoint::space`]) that name an address space: where the top table is. With
/// PAE paging it is 32 bytes long, and several lie in one page (SDM vol. 3A, 4.4.1).
const fn space_bits(pae: bool) -> u64 {
    if pae { 0xffff_ffe0 } else { 0x000f_ffff_ffff_f000 }
}

/// What the CPU keeps for a debugger.
#[derive(Default)]
pub(crate) struct Debugger {
    stops: Stops,
    /// Linear addresses and spaces of breakpoints, sorted.
    breakpoints: Vec<(u64, Option<u64>)>,
    /// Page offsets at which blocks are cut and ask. Holds all that breakpoints need, and some that
    /// they needed before: a debugger takes its breakpoints out whenever it stops.
    cuts: PageOffsets,
    /// Of `cuts`, those that decoded blocks do not know yet.
    new_cuts: PageOffsets,
    watched: WatchList,
    /// Breakpoints count only while the general registers are these: for searches, which would otherwise stop in each round of
    /// a loop.
    only_with: Option<Box<[u64; 16]>>,
    /// Where the run started: a breakpoint there has been told of.
    passed: Option<(Position, u64)>,
    /// What watchpoints saw since the run started, at most one hit for each.
    hits: Vec<Noted>,
}

/// A hit, and whether it stands although its instruction may not complete.
struct Noted {
    hit: WatchHit,
    settled: bool,
}

impl Cpu {
    /// Sets where runs stop. Cheap when nothing changed.
    pub fn set_stops(&mut self, stops: &Stops) {
        let debugger = &mut self.debugger;
        if debugger.stops == *stops {
            return;
        }
        debugger.stops = stops.clone();
        debugger.set_breakpoints();
        let fresh = debugger.watched.set(&stops.watchpoints);
        debugger.hits.clear();
        for (first, last) in fresh {
            self.mmu.forget_pages(first, last);
        }
    }

    /// Whether a space is the one in use.
    fn is_in_space(&self, space: u64) -> bool {
        let pae = self.cr4 & control::CR4_PAE != 0 && self.efer & control::EFER_LMA == 0;
        (space ^ self.cr3) & space_bits(pae) == 0
    }

    /// Lets breakpoints count only while the general registers are these.
    pub(crate) fn stop_only_with(&mut self, registers: Option<[u64; 16]>) {
        self.debugger.only_with = registers.map(Box::new);
    }

    /// Where runs stop.
    pub fn stops(&self) -> &Stops {
        &self.debugger.stops
    }

    /// Forgets the stop that was just told of: what runs next does not stop at a breakpoint on the
    /// instruction that it starts with. Else [`Cpu::run_until`] would stop there again.
    pub fn pass_stop(&mut self) {
        self.debugger.hits.clear();
        let here = self.cs_linear(self.rip);
        self.debugger.passed = Some((self.position, here));
    }

    /// Of what [`Cpu::pass_stop`] said, nothing holds any more: something was executed since, of which positions may not tell.
    pub fn forget_passed(&mut self) {
        self.debugger.passed = None;
    }

    /// Whether a breakpoint's or watchpoint's space is the one in use; `None` is always.
    pub fn is_space_in_use(&self, space: Option<Gpa>) -> bool {
        space.is_none_or(|space| self.is_in_space(space.0))
    }

    /// What watchpoints saw in the run that just stopped, in the order of the accesses: of one
    /// instruction, at most one hit for each watchpoint.
    pub fn watch_hits(&self) -> impl Iterator<Item = WatchHit> + '_ {
        self.debugger.hits.iter().map(|noted| noted.hit)
    }
}
