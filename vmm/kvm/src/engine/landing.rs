//! Going to a landmark by the clock of branches: [`land_from`] with the vCPU for a guest.
//!
//! The landmark lists the pages that may have been written on the way to it. A copy of them, and the state, is the checkpoint that an
//! attempt which went too far goes back to; where it wrote elsewhere, there is no going back, and the replay ends with a sentence. The devices
//! see nothing of an attempt: between two exits there is no access to them, so one that is made is behind the landmark.

use super::KvmEngine;
use crate::clock::ClockError;
use crate::error::{KvmError, refused};
use crate::exits::Exit;
use crate::guest_debug::{Kind, Stops};
use crate::pmu::landing::{Failure, Guest, Place, Report, Stop, Tries, land_from};
use crate::registers;
use dejavm_cpu::{Bus, Counted, Cpu, CpuState, Landmark, rflags};
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, Gva, PAGE_SIZE, Pfn, Position};
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// Attempts, each with a wider margin: more would take longer than to look for the landmark by software.
const ATTEMPTS: u32 = 3;
/// A landmark with more pages than that may not have all of them.
const PAGES_MAX: usize = 1 << 14;
/// DR7: breakpoints that are enabled.
const DR7_ENABLED: u64 = 0xff;

impl KvmEngine {
    /// See [`dejavm_cpu::Executor::land`]. Where it is known to have been missed, the machine is what it was; where the clock led to
    /// a place that is not the landmark, the machine is there: a landmark behind it is still found.
    pub(super) fn land_on(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        landmark: &Landmark,
        counted: Option<&Counted>,
    ) -> Result<bool, KvmError> {
        let start = cpu.state();
        // A landmark may follow the last one at once.
        self.with_the_clock(|clock, _| Ok(clock.start(start.position)?))?;
        let Some(clock) = &mut self.clock else { return Ok(false) };
        let margin = clock.branches.skid();
        let Some(zero) = clock.begin_anew() else { return Ok(false) };
        let Some(counted) = counted.filter(|counted| counted.since == zero.at) else {
            return Ok(false);
        };
        if !is_possible(&start, bus) || landmark.pages.len() >= PAGES_MAX {
            return Ok(false);
        }
        self.slots.bind(&self.vm, ram)?;
        self.slots.note_dirty(&self.vm, ram)?;
        let checkpoint = Checkpoint::of(start.clone(), ram, bus, &landmark.pages);
        let target = Place {
            exits: 0,
            branches: counted.branches,
            rip: counted.rip,
            rcx: counted.rcx,
            registers: counted.registers,
        };
        self.kicker.arm(self.turn(), self.turn())?;
        let at = start.position;
        let bus = &mut Deaf { bus, accesses: 0 };
        let mut way =
            Way { engine: self, cpu, ram, bus, at, zero: zero.reading, exits: 0, runs: false };
        let landed = way.counted_so_far().map_err(Failure::Guest).and_then(|so_far| {
            let restore = |way: &mut Way<'_>| way.restore(&checkpoint, so_far);
            let tries = Tries { margin, attempts_max: ATTEMPTS };
            land_from(&mut way, &target, tries, restore, |_| Ok(()))
        });
        way.engine.stop_at(Stops::default())?;
        way.engine.kicker.disarm();
        match landed {
            Ok(Report { attempts, effort: _, missed: _ }) => {
                way.engine.counts.retried += u64::from(attempts) - 1;
                let is_there = way.arrive(&start, landmark)?;
                let counts = &mut way.engine.counts;
                let one = if is_there { &mut counts.landed } else { &mut counts.missed };
                *one += 1;
                Ok(is_there)
            }
            Err(failure) => {
                way.engine.counts.missed += 1;
                way.go_back(&checkpoint)?;
                match failure {
                    Failure::Missed(_) => {}
                    Failure::Guest(ClockError::Kvm(error)) => return Err(error),
                    Failure::Guest(ClockError::Counter(error)) => {
                        (self.clock, self.clock_failure) = (None, Some(error));
                    }
                }
                Ok(false)
            }
        }
    }
}

/// Whether KVM could do it, and nothing else is to happen first. (An interrupt that waits, and is taken on the way, is not seen here: the landmark is
/// missed then.)
fn is_possible(state: &CpuState, bus: &dyn Bus) -> bool {
    let is_interrupted = bus.interrupt_pending() && state.rflags & rflags::IF != 0;
    registers::can_run(state)
        && !state.halted
        && !is_interrupted
        && !bus.signal_pending()
        && !bus.wants_control()
        && bus.a20_enabled()
        && state.dr[7] & DR7_ENABLED == 0
}

/// What an attempt goes back to.
struct Checkpoint {
    state: CpuState,
    cr8: u8,
    pages: BTreeMap<Pfn, Vec<u8>>,
}

impl Checkpoint {
    fn of(state: CpuState, ram: &GuestRam, bus: &mut dyn Bus, pages: &[(Pfn, u64)]) -> Checkpoint {
        let copy = |&(pfn, _): &(Pfn, u64)| {
            let mut page = vec![0; PAGE_SIZE as usize];
            ram.read(pfn.gpa(), &mut page).ok()?;
            Some((pfn, page))
        };
        Checkpoint { state, cr8: bus.cr8(), pages: pages.iter().filter_map(copy).collect() }
    }
}

/// The guest on its way.
struct Way<'a> {
    engine: &'a mut KvmEngine,
    cpu: &'a mut Cpu,
    ram: &'a mut GuestRam,
    bus: &'a mut Deaf<'a>,
    at: Position,
    /// The counter's reading where the count is 0.
    zero: u64,
    /// Exits on the way.
    exits: u64,
    /// The guest has run: there is something to go back from.
    runs: bool,
}

impl Way<'_> {
    fn counted_so_far(&mut self) -> Result<u64, ClockError> {
        let clock = self.engine.clock.as_mut().expect("it lands by the clock");
        Ok(clock.branches.read()?.wrapping_sub(self.zero))
    }

    /// Puts the guest and the count where the checkpoint is.
    fn restore(&mut self, checkpoint: &Checkpoint, so_far: u64) -> Result<(), ClockError> {
        self.go_back(checkpoint)?;
        let board = self.engine.board(self.bus, self.at);
        let vcpu = &self.engine.vcpu;
        registers::forget_translations(vcpu, &checkpoint.state, &board)?;
        registers::load(vcpu, &checkpoint.state, &board)?;
        // What was executed meanwhile is not counted.
        self.zero = self.zero.wrapping_add(self.counted_so_far()?.wrapping_sub(so_far));
        (self.exits, self.runs) = (0, true);
        Ok(())
    }

    /// Makes the machine what the checkpoint says.
    fn go_back(&mut self, checkpoint: &Checkpoint) -> Result<(), KvmError> {
        if self.runs {
            self.engine.stop_at(Stops::default())?;
            let written = self.engine.slots.note_dirty(&self.engine.vm, self.ram)?;
            if let Some(page) = written.iter().find(|&pfn| !checkpoint.pages.contains_key(pfn)) {
                return Err(KvmError::TooFar(page.gpa()));
            }
            for (pfn, page) in &checkpoint.pages {
                self.ram.write(pfn.gpa(), page).expect("it was read there");
            }
            if self.bus.cr8() != checkpoint.cr8 {
                self.bus.set_cr8(checkpoint.cr8, self.at);
            }
        }
        self.cpu.set_state(&checkpoint.state);
        Ok(())
    }

    /// From where the clock led, executes what comes before the landmark, as was done when it was recorded. Whether it is the
    /// landmark.
    fn arrive(&mut self, start: &CpuState, landmark: &Landmark) -> Result<bool, KvmError> {
        self.engine.take_out(self.cpu, self.ram, self.bus, start)?;
        self.cpu.run_to_landmark(self.ram, self.bus);
        let state = CpuState { position: self.at, deliveries: 0, ..self.cpu.state() };
        self.cpu.set_state(&state);
        Ok(landmark.is_at(self.cpu, self.ram))
    }

    /// Enters the guest until it is stopped or at an exit; `stop` is what a debug exception is.
    fn go(&mut self, stop: Stop) -> Result<Stop, ClockError> {
        loop {
            let before = self.bus.accesses;
            let exit = self.engine.enter(self.cpu, self.ram, self.bus, self.at, false)?;
            match exit {
                Exit::Debug { .. } => return Ok(stop),
                Exit::Kicked => return Ok(Stop::Interrupted),
                // Registers that the board keeps, or the software CPU.
                Exit::Done | Exit::Window if self.bus.accesses == before => {}
                // The latter end here too: whatever comes of them is behind the landmark.
                Exit::Done
                | Exit::Window
                | Exit::Halt
                | Exit::Shutdown
                | Exit::CannotEmulate
                | Exit::Failed(_) => {
                    self.exits += 1;
                    return Ok(Stop::Exit);
                }
            }
        }
    }

    fn arm(&mut self, alarm: Option<NonZeroU64>) -> Result<(), ClockError> {
        let clock = self.engine.clock.as_mut().expect("it lands by the clock");
        Ok(clock.branches.arm(alarm)?)
    }

    /// Lets the guest execute the instruction that it stands at although there is a breakpoint.
    fn pass(&mut self) -> Result<(), KvmError> {
        let vcpu = &self.engine.vcpu;
        let mut regs = vcpu.get_regs().map_err(refused("the registers"))?;
        regs.rflags |= rflags::RF;
        vcpu.set_regs(&regs).map_err(refused("the registers"))
    }
}

impl Guest for Way<'_> {
    type Error = ClockError;

    fn place(&mut self) -> Result<Place, ClockError> {
        let clock = self.engine.clock.as_mut().expect("it lands by the clock");
        Ok(Place { exits: self.exits, ..clock.place(&self.engine.vcpu, self.zero)? })
    }

    fn run(
        &mut self,
        alarm: Option<NonZeroU64>,
        breakpoint: Option<Gva>,
    ) -> Result<Stop, ClockError> {
        if breakpoint == Some(self.place()?.rip) {
            self.pass()?;
        }
        let mut stops = Stops::default();
        stops.breakpoints[0] = breakpoint.map(|at| (at, Kind::Execute));
        self.engine.stop_at(stops)?;
        self.arm(alarm)?;
        let stop = self.go(Stop::Breakpoint);
        self.arm(None)?;
        stop
    }

    fn step(&mut self) -> Result<Stop, ClockError> {
        self.engine.stop_at(Stops { step: true, ..Stops::default() })?;
        self.go(Stop::Stepped)
    }
}

/// The board, to whom accesses of an attempt do not come.
struct Deaf<'a> {
    bus: &'a mut dyn Bus,
    accesses: u64,
}

impl Bus for Deaf<'_> {
    fn port_in(&mut self, _port: u16, _size: u8, _at: Position) -> u32 {
        self.accesses += 1;
        0
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32, _at: Position) {
        self.accesses += 1;
    }
    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        self.accesses += 1;
        0
    }
    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {
        self.accesses += 1;
    }
    fn halts(&mut self, _at: Position) {
        self.accesses += 1;
    }
    fn tsc(&mut self, at: Position) -> u64 {
        self.bus.tsc(at)
    }
    fn tsc_ahead(&self) -> Option<u64> {
        self.bus.tsc_ahead()
    }
    fn msr_read(&mut self, msr: u32, at: Position) -> Option<u64> {
        self.bus.msr_read(msr, at)
    }
    fn msr_write(&mut self, msr: u32, value: u64, at: Position) -> bool {
        self.bus.msr_write(msr, value, at)
    }
    fn cr8(&mut self) -> u8 {
        self.bus.cr8()
    }
    fn set_cr8(&mut self, priority: u8, at: Position) {
        self.bus.set_cr8(priority, at);
    }
    fn exits(&self) -> u64 {
        self.bus.exits()
    }
    fn interrupt_pending(&self) -> bool {
        self.bus.interrupt_pending()
    }
    fn acknowledge_interrupt(&mut self, at: Position) -> u8 {
        self.bus.acknowledge_interrupt(at)
    }
    fn signal_pending(&self) -> bool {
        self.bus.signal_pending()
    }
    fn take_nmi(&mut self) -> bool {
        self.bus.take_nmi()
    }
    fn wants_control(&self) -> bool {
        self.bus.wants_control()
    }
    fn a20_enabled(&self) -> bool {
        self.bus.a20_enabled()
    }
}
