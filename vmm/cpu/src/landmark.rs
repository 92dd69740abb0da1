//! Instants of a run that nobody counted to, and how the software CPU finds them again.
//!
//! An engine that cannot count instructions is stopped somewhere, and notes what the machine is there. A deterministic machine that
//! shows the same state is at an equivalent instant, whatever the number of instructions: what follows is the same. So it is enough
//! to execute from the exit before until the whole state, that of memory included, is the one that was noted.

use crate::bus::Bus;
use crate::cpu::{Cpu, control};
use crate::debugger::{Breakpoint, Stops};
use crate::flags::rflags;
use crate::run::Stop;
use crate::state::CpuState;
use dejavm_memory::GuestRam;
use dejavm_units::{Gva, PAGE_SIZE, Pfn, Position};
use iced_x86::{Decoder, DecoderOptions, Mnemonic, RflagsBits};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// The state of a machine at an instant between two exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landmark {
    /// The processor's. What engines count for themselves (position, deliveries) is 0, and so is what KVM does not tell (PDPTEs, RF).
    pub cpu: Box<CpuState>,
    /// Pages that may have been written since the exit before, and what they hold: XXH3-64 of the contents.
    pub pages: Vec<(Pfn, u64)>,
}

/// Where a landmark is for who counts retired conditional branches: the instruction before it, with which an engine stopped the guest.
/// Only a shorter way there; what is found is compared with the landmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The position at which the count began: of the landmark before, after time passed there, or of the start.
    pub since: Position,
    /// Conditional branches that retired since.
    pub branches: u64,
    /// The linear address of the instruction.
    pub rip: Gva,
    /// RCX there.
    pub rcx: u64,
    /// A hash of the general registers and RFLAGS there, without RF and TF: the engine's.
    pub registers: u64,
}

/// Instructions within which a landmark is found, or is not there: far more than any processor executes in the time between two.
const INSTRUCTIONS_MAX: u64 = 1 << 30;

/// The arithmetic flags as iced-x86 numbers them.
const ARITHMETIC: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// Instructions within which a guest comes to a place that can be found again: one whose every instruction lies in another page is none.
const PLACES_MAX: u32 = 64;

/// Pages that a landmark holds at most: that registers and so many pages are equal and the others differ, no guest brings about.
const PAGES_MAX: usize = 1 << 14;

/// Why a landmark was not found: the machine does not do what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLandmark {
    /// The guest left the processor before.
    #[error(
        "an access to a device, a halt or an end comes before the recorded instant (after {0} instructions)"
    )]
    Exit(u64),
    /// It is not within reach.
    #[error("the recorded instant is not among the next {INSTRUCTIONS_MAX} instructions")]
    TooFar,
    /// Another engine failed on its way.
    #[error("{0}")]
    Engine(String),
    /// The general registers and the instruction pointer are as recorded, and something else is not.
    #[error(
        "where the general registers are as recorded, after {instructions} instructions, {what} is not"
    )]
    Differs {
        /// Executed so far.
        instructions: u64,
        /// The first thing that differs.
        what: String,
    },
}

impl Landmark {
    /// What a machine is now, if these pages may have been written since the exit before.
    pub fn of(state: &CpuState, ram: &GuestRam, pages: impl Iterator<Item = Pfn>) -> Landmark {
        let pages = pages.filter_map(|pfn| Some((pfn, hash(ram, pfn)?))).take(PAGES_MAX).collect();
        Landmark { cpu: Box::new(Landmark::comparable(state.clone())), pages }
    }

    /// A state without what engines count for themselves or do not tell.
    fn comparable(state: CpuState) -> CpuState {
        // KVM does not tell the latched directory pointers of PAE paging; RF is clear between instructions, or soon is.
        let rflags = state.rflags & !rflags::RF;
        CpuState { position: Position(0), deliveries: 0, pdpte: [0; 4], rflags, ..state }
    }

    /// Bytes that it takes up, about.
    pub fn bytes(&self) -> usize {
        size_of::<CpuState>() + self.pages.len() * size_of::<(Pfn, u64)>()
    }

    /// Whether a machine is what was noted.
    pub fn is_at(&self, cpu: &Cpu, ram: &GuestRam) -> bool {
        self.difference(cpu, ram).is_none()
    }

    /// The first thing in which a machine is not as it was noted.
    fn difference(&self, cpu: &Cpu, ram: &GuestRam) -> Option<String> {
        let (noted, now) = (&*self.cpu, Landmark::comparable(cpu.state()));
        if now != *noted {
            macro_rules! first {
                ($($field:ident)*) => {
                    $(if now.$field != noted.$field {
                        let name = stringify!($field);
                        return Some(format!("{name} ({:x?}, recorded: {:x?})", now.$field, noted.$field));
                    })*
                };
            }
            first!(gpr rip rflags seg ldtr tr gdtr idtr cpl cr0 cr2 cr3 cr4 efer xcr0 dr msr xmm mxcsr fpu halted);
            first!(interrupt_shadow nmi_blocked pending_debug a20);
            return Some("the processor's state".to_owned());
        }
        let differs = |&&(pfn, expected): &&(Pfn, u64)| hash(ram, pfn) != Some(expected);
        self.pages.iter().find(differs).map(|(pfn, _)| format!("the page at {}", pfn.gpa()))
    }
}

/// The hash of a page; `None` where no RAM is.
fn hash(ram: &GuestRam, pfn: Pfn) -> Option<u64> {
    let mut contents = [0; 4096];
    ram.read(pfn.gpa(), &mut contents).ok()?;
    Some(xxh3_64(&contents))
}

impl Cpu {
    /// Completes instructions, one at least, up to where a landmark can be left: where [`Cpu::find`] stops, and has changed nothing to do
    /// so. It fetches an instruction before it stops at it; so the next one must lie in a page that was fetched from just now, else the fetch
    /// would mark it as accessed, or would fail and the stop never be. And no stop is where interrupts are inhibited. Where there is one
    /// near, the place is behind an instruction that decides all flags, so that none is the engine's that the manuals leave undefined.
    /// `None` if the machine is there, else what came first: [`Stop::Limit`] if there is no such place near.
    pub fn run_to_landmark(&mut self, ram: &mut GuestRam, bus: &mut dyn Bus) -> Option<Stop> {
        let exits = bus.exits();
        let (mut are_decided, mut is_place) = (false, false);
        for _ in 0..PLACES_MAX {
            let fetched = self.fetches_from();
            let decides = self.decides_flags(ram);
            let next = Position(self.position().0.saturating_add(1));
            let stop = self.run_until(ram, bus, next);
            if stop != Stop::Limit || bus.exits() != exits {
                return Some(stop);
            }
            is_place = self.fetches_from() == fetched && !self.state().interrupt_shadow;
            are_decided |= decides && is_place;
            if is_place && are_decided {
                return None;
            }
        }
        (!is_place).then_some(Stop::Limit)
    }

    /// Whether the next instruction decides all arithmetic flags.
    fn decides_flags(&self, ram: &GuestRam) -> bool {
        let CpuState { seg, rip, efer, cr0, .. } = self.state();
        let cs = seg[crate::segment::SegReg::Cs as usize];
        // SDM vol. 3A, 3.4.5: L and D of the code segment.
        let bits = if efer & control::EFER_LMA != 0 && cs.rights.is_long() {
            64
        } else if cr0 & control::CR0_PE != 0 && cs.rights.is_big() {
            32
        } else {
            16
        };
        let linear = cs.base.wrapping_add(rip);
        let Some(at) = self.inspect(ram, Gva(linear), None) else { return false };
        let mut bytes = [0; 15];
        let window = bytes.len().min((PAGE_SIZE - at.page_offset()) as usize);
        if ram.read(at, &mut bytes[..window]).is_err() {
            return false;
        }
        let instruction = Decoder::new(bits, &bytes[..window], DecoderOptions::NONE).decode();
        // With a count of 0 these decide none.
        let is_counted = instruction.has_rep_prefix()
            || instruction.has_repne_prefix()
            || matches!(
                instruction.mnemonic(),
                Mnemonic::Shl
                    | Mnemonic::Sal
                    | Mnemonic::Shr
                    | Mnemonic::Sar
                    | Mnemonic::Shld
                    | Mnemonic::Shrd
            );
        !is_counted
            && !instruction.is_invalid()
            && instruction.rflags_modified() & ARITHMETIC == ARITHMETIC
    }

    /// The page of the next instruction, and what decides what it is.
    fn fetches_from(&self) -> impl PartialEq + use<> {
        let CpuState { seg, rip, cpl, cr0, cr3, cr4, efer, .. } = self.state();
        let linear = seg[crate::segment::SegReg::Cs as usize].base.wrapping_add(rip);
        (linear / PAGE_SIZE, cpl, cr0, cr3, cr4, efer)
    }

    /// Executes until the machine is what a landmark says. No exit may come before. Stops of a debugger count for nothing
    /// meanwhile.
    ///
    /// # Errors
    /// If it is not found; the machine stands somewhere behind.
    pub fn find(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        landmark: &Landmark,
    ) -> Result<(), NoLandmark> {
        if landmark.is_at(self, ram) {
            return Ok(());
        }
        let at = Gva(landmark.cpu.seg[crate::segment::SegReg::Cs as usize]
            .base
            .wrapping_add(landmark.cpu.rip));
        let stops =
            Stops { breakpoints: vec![Breakpoint { at, space: None }], watchpoints: Vec::new() };
        let before = self.stops().clone();
        self.set_stops(&stops);
        self.stop_only_with(Some(landmark.cpu.gpr));
        let found = self.find_at_breakpoint(ram, bus, landmark);
        self.stop_only_with(None);
        self.set_stops(&before);
        self.pass_stop();
        found
    }

    fn find_at_breakpoint(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        landmark: &Landmark,
    ) -> Result<(), NoLandmark> {
        let (exits, start) = (bus.exits(), self.position());
        let mut nearest = None;
        let limit = Position(start.0.saturating_add(INSTRUCTIONS_MAX));
        loop {
            self.pass_stop();
            match self.run_until(ram, bus, limit) {
                _ if bus.exits() != exits => {}
                Stop::Breakpoint { .. } => {
                    let Some(what) = landmark.difference(self, ram) else { return Ok(()) };
                    let instructions = self.position().0 - start.0;
                    nearest.get_or_insert(NoLandmark::Differs { instructions, what });
                    continue;
                }
                Stop::Limit => return Err(nearest.unwrap_or(NoLandmark::TooFar)),
                Stop::Board
                | Stop::Halted
                | Stop::Shutdown
                | Stop::Livelock
                | Stop::Watchpoint(_) => {}
            }
            return Err(nearest.unwrap_or(NoLandmark::Exit(self.position().0 - start.0)));
        }
    }
}
