//! The run loop: the guest on the host's processor, exit by exit.
//!
//! Positions advance with the board's count of exits ([`Bus::exits`]): accesses to devices and halts. What else makes the guest leave the
//! processor (registers that the board keeps, the moment at which interrupts are taken again) moves none. A guest that executes for long without an exit is kicked out of
//! the processor, and where it was becomes a landmark, after which time passes.

mod exact;
mod landing;
mod stepping;
mod trials;
mod turn;

pub use trials::{NoClock, Ring, Stopping, Trial, TrialPlan};

use crate::clock::{Clock, ClockError};
use crate::cpuid;
use crate::debug::{self, Debugging, Plan};
use crate::error::{KvmError, refused};
use crate::exits::{Exit, answer};
use crate::guest_debug;
use crate::host::Host;
use crate::interrupt_shadow;
use crate::kick::{self, Kicker};
use crate::msrs;
use crate::pmu::{Branches, PmuError};
use crate::registers::{self, Board};
use crate::slots::Slots;
use crate::string_instruction;
use dejavm_cpu::{Bus, Counted, Cpu, CpuState, Landmark, Model, Stop, UntilExit, rflags};
use dejavm_memory::{GuestRam, PageFlags};
use dejavm_units::{Pfn, Position};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{VcpuFd, VmFd};
use std::time::Duration;
use turn::Turn;

/// IA32_APIC_BASE
const APIC_BASE: u32 = 0x1b;

/// Where it was kicked at a moment that cannot be told to anybody, it is kicked again after this.
const AGAIN: Duration = Duration::from_micros(100);
/// A debugger's stops in a row after which time passes all the same.
const STOPS_IN_A_ROW_MAX: u32 = 1000;

/// A virtual machine of the kernel's with one vCPU.
pub struct KvmEngine {
    vm: VmFd,
    pub(crate) vcpu: VcpuFd,
    slots: Slots,
    /// Bytes that the kernel maps for the vCPU.
    run_bytes: usize,
    model: Model,
    kicker: Kicker,
    pub(crate) leaves_landmarks: bool,
    turn: Turn,
    landmark: Option<(Landmark, u32)>,
    clock: Option<Clock>,
    /// Where the landmark is by the clock.
    counted: Option<Counted>,
    /// Why there is no clock any more.
    clock_failure: Option<PmuError>,
    stops: guest_debug::Stops,
    /// The state that was taken out of the vCPU last, if it was not put back.
    taken_out: Option<Box<CpuState>>,
    /// Positions are instructions.
    is_exact: bool,
    debugging: Debugging,
    /// A debugger was there since the last landmark: what the software CPU executed for it, no clock has counted.
    debugged: bool,
    /// Times in a row that a debugger stopped the guest without an exit in between.
    stops_in_a_row: u32,
    pub(crate) counts: Counts,
}

/// What the engine did, for people: no part of any state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that the guest left the processor for us.
    pub exits: u64,
    /// Instructions that the software CPU executed, because KVM could not.
    pub by_software: u64,
    /// Instructions that KVM executed by single steps, for exact positions.
    pub stepped: u64,
    /// Times that it was kicked out because it did not leave.
    pub landmarks: u64,
    /// Landmarks of a recording that it came to by the clock of branches.
    pub landed: u64,
    /// Those that it did not come to by the clock, although the recording says where they are; the software CPU looked for them.
    pub missed: u64,
    /// Attempts of landing that were too late, and went back to try again.
    pub retried: u64,
}

impl KvmEngine {
    /// A VM for processors of this model.
    ///
    /// # Errors
    /// If the host cannot be that.
    pub fn new(host: &Host, model: Model, apic_id: u8) -> Result<KvmEngine, KvmError> {
        cpuid::check(host, model, apic_id)?;
        KvmEngine::new_unchecked(host, model, apic_id)
    }

    /// A VM whose guests are told that the processor is of this model, whether or not the host can be that: for finding out
    /// what else it can.
    ///
    /// # Errors
    /// If the kernel makes none.
    pub fn new_unchecked(host: &Host, model: Model, apic_id: u8) -> Result<KvmEngine, KvmError> {
        let vm = host.kvm.create_vm().map_err(refused("a virtual machine"))?;
        // Where Intel's processors without unrestricted guests keep what they need for real mode; above all RAM below 4 GiB.
        vm.set_tss_address(0xfffb_d000).map_err(refused("a place for the TSS of real mode"))?;
        msrs::filter(&vm)?;
        let vcpu = vm.create_vcpu(apic_id.into()).map_err(refused("a vCPU"))?;
        cpuid::freeze(&vcpu, model, apic_id)?;
        let run_bytes = vm.run_size();
        Ok(KvmEngine {
            vm,
            vcpu,
            slots: Slots::default(),
            run_bytes,
            model,
            kicker: Kicker::default(),
            leaves_landmarks: false,
            turn: Turn::default(),
            landmark: None,
            clock: None,
            counted: None,
            clock_failure: None,
            stops: guest_debug::Stops::default(),
            taken_out: None,
            is_exact: false,
            debugging: Debugging::default(),
            debugged: false,
            stops_in_a_row: 0,
            counts: Counts::default(),
        })
    }

    /// For live machines: a guest that executes for long without an exit leaves a landmark there, and time passes for it. Without
    /// this the guest executes until it leaves by itself, as a replay wants.
    #[must_use]
    pub fn leaving_landmarks(mut self) -> KvmEngine {
        self.leaves_landmarks = true;
        self
    }

    /// A guest that executes for so many microseconds of processor time without an exit leaves a landmark: as many pass for it then. Few
    /// make more landmarks, for trials of them.
    ///
    /// # Panics
    /// If it is 0.
    #[must_use]
    pub fn kicked_after(mut self, us: u32) -> KvmEngine {
        self.turn = Turn::always(us);
        self
    }

    /// How long a guest executes without an exit before it is kicked.
    fn turn(&self) -> Duration {
        Duration::from_micros(self.turn.us().into())
    }

    /// With a clock of the guest's retired conditional branches: landmarks are counted then, and come to by the count. A clock that fails
    /// on the way is not used any more ([`KvmEngine::clock_failure`]); without it the software CPU looks for landmarks.
    #[must_use]
    pub fn with_clock(mut self, branches: Box<dyn Branches>) -> KvmEngine {
        self.clock = Some(Clock::new(branches));
        self
    }

    /// Why the clock is not used any more, if it had one that failed.
    pub fn clock_failure(&self) -> Option<&PmuError> {
        self.clock_failure.as_ref()
    }

    /// Executes instruction by instruction, so that positions are the software CPU's: see `engine/exact.rs`.
    #[must_use]
    pub fn counting_instructions(mut self) -> KvmEngine {
        self.is_exact = true;
        self
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Runs as [`Cpu::run_until`] does, but that positions are those that the bus counts, and that the guest may leave a landmark:
    /// it stands there then, and no time has passed for it yet. Elements of a repeated string instruction may lie beyond the limit.
    ///
    /// # Errors
    /// If the kernel refuses something. The state is that of the last exit.
    pub fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
        self.slots.bind(&self.vm, ram)?;
        if self.is_exact {
            return self.run_exactly(cpu, ram, bus, limit);
        }
        let exits = bus.exits();
        if self.stops_in_a_row >= STOPS_IN_A_ROW_MAX && cpu.position() < limit {
            // Its debugger has kept it from being kicked.
            self.leave_landmark(cpu, ram);
            return Ok(Stop::Board);
        }
        if self.leaves_landmarks {
            self.kicker.arm(self.turn(), self.turn())?;
        }
        let at = cpu.position();
        self.with_the_clock(|clock, _| Ok(clock.start(at)?))?;
        let stop = self.run_turns(cpu, ram, bus, limit);
        self.kicker.disarm();
        self.stops_in_a_row = match stop {
            Ok(Stop::Breakpoint { .. } | Stop::Watchpoint(_)) if bus.exits() == exits => {
                self.stops_in_a_row + 1
            }
            _ => 0,
        };
        stop
    }

    /// Asks the clock, if there is one. One that fails is put away, and nothing else comes of it.
    fn with_the_clock<T>(
        &mut self,
        ask: impl FnOnce(&mut Clock, &VcpuFd) -> Result<T, ClockError>,
    ) -> Result<Option<T>, KvmError> {
        let Some(clock) = &mut self.clock else { return Ok(None) };
        match ask(clock, &self.vcpu) {
            Ok(found) => Ok(Some(found)),
            Err(ClockError::Kvm(error)) => Err(error),
            Err(ClockError::Counter(error)) => {
                (self.clock, self.clock_failure) = (None, Some(error));
                Ok(None)
            }
        }
    }

    /// A landmark where the CPU, at home, is now: pages that are dirty for longer than the exit before do no harm in it.
    pub(crate) fn leave_landmark(&mut self, cpu: &Cpu, ram: &GuestRam) {
        let dirty = |pfn: &Pfn| ram.flags(*pfn).intersects(PageFlags::DIRTY);
        let landmark = Landmark::of(&cpu.state(), ram, ram.pages().filter(dirty));
        self.landmark = Some((landmark, self.turn.us()));
        (self.counted, self.debugged) = (None, false);
        self.clock.as_mut().map(Clock::begin_anew);
        self.counts.landmarks += 1;
        self.stops_in_a_row = 0;
    }

    fn run_turns(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
        let plan = self.debugging.plan(cpu.stops()).clone();
        let is_guests = debug::is_used_by_guest(cpu.state().dr[7]);
        self.debugged |= plan != Plan::Nothing;
        if plan == Plan::Software || plan != Plan::Nothing && is_guests {
            return self.run_by_software(cpu, ram, bus, limit);
        }
        let wanted = plan.request();
        if self.stops != wanted {
            self.stop_at(wanted)?;
        }
        let mut state = cpu.state();
        let ahead = state.position.0.wrapping_sub(bus.exits());
        let mut ready = registers::takes_interrupts(&state);
        let mut loaded = false;
        let mut accessed = false;
        // When the guest was kicked last, or began.
        let mut at_kick = bus.exits();
        let stop = loop {
            state.position = Position(bus.exits().wrapping_add(ahead));
            let interrupt = bus.interrupt_pending();
            let signal = bus.signal_pending();
            let happens =
                bus.wants_control() || interrupt && ready || signal || state.position >= limit;
            if !(happens && accessed && string_instruction::is_next(&self.vcpu, ram)) {
                if bus.wants_control() {
                    break Stop::Board;
                }
                if state.halted && !signal && !(interrupt && state.rflags & rflags::IF != 0) {
                    break if state.position >= limit { Stop::Limit } else { Stop::Halted };
                }
                if state.position >= limit && !signal && !(interrupt && ready) {
                    break Stop::Limit;
                }
                // At the limit the interrupt is taken and nothing else: KVM would go on to the next exit.
                // And a single step would show in the flags that it pushes.
                let only_takes = state.position >= limit || interrupt && ready && self.is_stepped();
                // An NMI that is blocked waits for an IRET, and KVM would not say when that was. So the software CPU goes on to there.
                let executes = !registers::can_run(&state) || !bus.a20_enabled() || signal;
                // A breakpoint that was told of is not told of again: past it by software.
                let is_breakpoint = !loaded && cpu.breakpoint_here(ram).is_some();
                if executes || only_takes || is_breakpoint {
                    let count = u64::from(!only_takes);
                    let stop = self.by_software(cpu, ram, bus, &mut state, loaded, count)?;
                    (loaded, accessed) = (false, false);
                    ready = registers::takes_interrupts(&state);
                    match stop {
                        Some(stop) => {
                            state.position = Position(bus.exits().wrapping_add(ahead));
                            break stop;
                        }
                        None if only_takes && bus.signal_pending() => {
                            state.position = Position(bus.exits().wrapping_add(ahead));
                            break Stop::Limit;
                        }
                        None => continue,
                    }
                }
                if !loaded {
                    self.forget_if_it_ran_elsewhere(bus, &state)?;
                    registers::load(&self.vcpu, &state, &self.board(bus, state.position))?;
                    loaded = true;
                }
                state.halted = false;
                if interrupt && ready {
                    let vector = bus.acknowledge_interrupt(state.position);
                    self.inject(vector)?;
                }
            }
            // An interrupt that the guest does not take yet: the kernel is to come back when it does.
            let waits = bus.interrupt_pending();
            let is_held_off = waits && !ready;
            let exit = self.enter(cpu, ram, bus, state.position, waits)?;
            self.counts.exits += 1;
            accessed = matches!(exit, Exit::Done | Exit::Window);
            if plan != Plan::Nothing {
                cpu.forget_passed();
                let own = self.vcpu.get_debug_regs().map_err(refused("the debug registers"))?;
                if debug::is_used_by_guest(own.dr7) && accessed {
                    state.position = Position(bus.exits().wrapping_add(ahead));
                    self.take_out(cpu, ram, bus, &state)?;
                    return self.run_by_software(cpu, ram, bus, limit);
                }
            }
            let shadow_is_lost = is_held_off
                && matches!(exit, Exit::Window | Exit::Kicked)
                && interrupt_shadow::is_lost(&self.vcpu, ram);
            let run = self.vcpu.get_kvm_run();
            ready = run.ready_for_interrupt_injection != 0;
            if ready && shadow_is_lost {
                self.take_out(cpu, ram, bus, &state)?;
                state = CpuState { deliveries: 0, interrupt_shadow: true, ..cpu.state() };
                (loaded, accessed, ready) = (false, false, false);
                continue;
            }
            match exit {
                Exit::Done | Exit::Window => {}
                Exit::Debug { dr6 } => {
                    self.take_out(cpu, ram, bus, &state)?;
                    let stop = self.debugger_stop(cpu, ram, bus, &plan, dr6)?;
                    state = CpuState { position: state.position, deliveries: 0, ..cpu.state() };
                    (loaded, accessed) = (false, false);
                    ready = registers::takes_interrupts(&state);
                    if let Some(stop) = stop {
                        break stop;
                    }
                }
                Exit::Kicked => {
                    let exits = bus.exits();
                    if !self.leaves_landmarks {
                        continue;
                    }
                    if std::mem::replace(&mut at_kick, exits) != exits {
                        continue;
                    }
                    if !self.is_between_instructions(ram)? {
                        self.kicker.arm(AGAIN, self.turn())?;
                        continue;
                    }
                    let began = kick::processor_time();
                    let counted = self.with_the_clock(|clock, vcpu| clock.counted(vcpu))?;
                    let written = self.take_out(cpu, ram, bus, &state)?;
                    // Its next instruction may have begun, and have marked pages of page tables as accessed, when the kernel
                    // had to give it a page: it is completed, so that the instant is one that other engines come by.
                    let stop = cpu.run_to_landmark(ram, bus);
                    state = cpu.state();
                    state.position = Position(bus.exits().wrapping_add(ahead));
                    cpu.set_state(&state);
                    (loaded, accessed) = (false, false);
                    ready = registers::takes_interrupts(&state);
                    match stop {
                        None => {}
                        // It was an exit, or no such instant was near.
                        Some(Stop::Limit | Stop::Halted) => continue,
                        Some(stop) => break stop,
                    }
                    let landmark = Landmark::of(&cpu.state(), ram, written.into_iter());
                    self.landmark = Some((landmark, self.turn.us()));
                    let spent = kick::processor_time().saturating_sub(began);
                    self.turn.ended(spent);
                    self.counted = counted.flatten().filter(|_| !self.debugged);
                    self.debugged = false;
                    self.clock.as_mut().map(Clock::begin_anew);
                    self.counts.landmarks += 1;
                    return Ok(Stop::Board);
                }
                Exit::Halt => {
                    bus.halts(state.position);
                    state.halted = true;
                    state.rflags =
                        state.rflags & !rflags::IF | if run.if_flag != 0 { rflags::IF } else { 0 };
                    ready = run.if_flag != 0;
                }
                Exit::Shutdown => break Stop::Shutdown,
                Exit::CannotEmulate => {
                    let stop = self.by_software(cpu, ram, bus, &mut state, true, 1)?;
                    (loaded, ready) = (false, registers::takes_interrupts(&state));
                    if let Some(stop) = stop {
                        state.position = Position(bus.exits().wrapping_add(ahead));
                        break stop;
                    }
                }
                Exit::Failed(what) => return Err(KvmError::Entry(what)),
            }
        };
        if loaded {
            self.take_out(cpu, ram, bus, &state)?;
        } else {
            cpu.set_state(&state);
        }
        Ok(stop)
    }

    /// Whether a guest that was kicked stands where any engine could: nothing is being delivered to it, and no repeated
    /// instruction is under way.
    fn is_between_instructions(&self, ram: &GuestRam) -> Result<bool, KvmError> {
        let events = self.vcpu.get_vcpu_events().map_err(refused("pending events"))?;
        let delivers = [
            events.interrupt.injected,
            events.exception.injected,
            events.exception.pending,
            events.nmi.injected,
            events.nmi.pending,
            // No breakpoint stops behind MOV SS.
            events.interrupt.shadow,
        ];
        Ok(delivers == [0; 6] && !string_instruction::is_next(&self.vcpu, ram))
    }

    /// What a debug register stopped the guest for; it has left KVM. `None` if it is none of the debugger's: an address in another address
    /// space.
    fn debugger_stop(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        plan: &Plan,
        dr6: u64,
    ) -> Result<Option<Stop>, KvmError> {
        let Plan::Registers(registers) = plan else {
            return Err(KvmError::Entry("a breakpoint that nobody set".to_owned()));
        };
        if let Some(hit) = registers.hit(dr6, cpu) {
            // It may have been an element of a repeated instruction; where that ends, others can stop too. And what is due comes
            // before the stop, as a landmark here must be found.
            let within = string_instruction::is_next(&self.vcpu, ram);
            let mut state = cpu.state();
            self.by_software(cpu, ram, bus, &mut state, false, u64::from(within))?;
            return Ok(Some(Stop::Watchpoint(hit)));
        }
        if let Some(at) = cpu.breakpoint_here(ram) {
            return Ok(Some(Stop::Breakpoint { at }));
        }
        let mut state = cpu.state();
        self.by_software(cpu, ram, bus, &mut state, false, 1)
    }

    fn board(&self, bus: &mut dyn Bus, at: Position) -> Board {
        Board {
            apic_base: bus.msr_read(APIC_BASE, at).unwrap_or(0),
            cr8: bus.cr8(),
            has_xsave: self.model.cpuid(1, 0, 0, false).ecx >> 26 & 1 != 0,
            has_long_mode: self.model.has_long_mode(),
        }
    }

    /// Makes the kernel deliver an interrupt when the guest is entered next.
    fn inject(&self, vector: u8) -> Result<(), KvmError> {
        let mut events = self.vcpu.get_vcpu_events().map_err(refused("pending events"))?;
        events.flags = 0;
        (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
        self.vcpu.set_vcpu_events(&events).map_err(refused("an interrupt"))
    }

    /// Enters the guest until it needs us, and gives it what it needs. An access to a device is complete when this returns: its
    /// instruction is behind us.
    fn enter(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        at: Position,
        wants_window: bool,
    ) -> Result<Exit, KvmError> {
        let cr8 = u64::from(bus.cr8());
        let run = self.vcpu.get_kvm_run();
        run.request_interrupt_window = wants_window.into();
        run.cr8 = cr8;
        let kicks = Kicker::count();
        let mut outcome = loop {
            let is_branch = self.prepare_step(ram)?;
            match answer(&mut self.vcpu, self.run_bytes, cpu, ram, bus, at)? {
                Some(Exit::Debug { dr6 }) if is_branch.is_some() => {
                    if let Some(exit) = self.stepped(dr6, is_branch == Some(true)) {
                        break exit;
                    }
                }
                None if Kicker::count() != kicks => break Exit::Kicked,
                // Another signal for this thread: no business of the guest's.
                None => {}
                Some(exit) => break exit,
            }
        };
        if outcome == Exit::Done {
            // The kernel completes the access when it is called next: at once, so that no state is taken in between.
            self.vcpu.set_kvm_immediate_exit(1);
            while let Some(exit) = answer(&mut self.vcpu, self.run_bytes, cpu, ram, bus, at)? {
                match exit {
                    Exit::Done | Exit::Window => {}
                    // The access was the step.
                    Exit::Debug { .. } => break,
                    exit => {
                        outcome = exit;
                        break;
                    }
                }
            }
            self.vcpu.set_kvm_immediate_exit(0);
        }
        let now = self.vcpu.get_kvm_run().cr8;
        if now != cr8 {
            bus.set_cr8(now as u8 & 0xf, at);
        }
        Ok(outcome)
    }

    /// Takes the state out of the vCPU into the CPU that is its home. Returns the pages that were written since it was last taken out.
    fn take_out(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        state: &CpuState,
    ) -> Result<Vec<Pfn>, KvmError> {
        // Registers that are not the processor's own may have been written meanwhile: they are at home already.
        let mut whole = CpuState {
            deliveries: 0,
            position: state.position,
            halted: state.halted,
            ..cpu.state()
        };
        let board = self.board(bus, state.position);
        registers::store(&self.vcpu, &mut whole, &board)?;
        let written = self.slots.note_dirty(&self.vm, ram)?;
        cpu.set_state(&whole);
        self.taken_out = Some(Box::new(cpu.state()));
        Ok(written)
    }

    /// What the software CPU executed, this vCPU's TLB was not told of.
    fn forget_if_it_ran_elsewhere(
        &mut self,
        bus: &mut dyn Bus,
        state: &CpuState,
    ) -> Result<(), KvmError> {
        let is_as_left = self.taken_out.take().is_some_and(|left| {
            let CpuState { position, deliveries, halted, .. } = *state;
            CpuState { position, deliveries, halted, ..*left } == *state
        });
        match is_as_left {
            true => Ok(()),
            false => {
                let board = self.board(bus, state.position);
                registers::forget_translations(&self.vcpu, state, &board)
            }
        }
    }

    /// Lets the software CPU execute `count` instructions that KVM cannot, or with 0 take what is due; `Some` if the run ends with it.
    /// The position is left to the caller.
    fn by_software(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        state: &mut CpuState,
        loaded: bool,
        count: u64,
    ) -> Result<Option<Stop>, KvmError> {
        if loaded {
            self.take_out(cpu, ram, bus, state)?;
        } else {
            cpu.set_state(state);
        }
        self.counts.by_software += count;
        let next = Position(state.position.0.saturating_add(count));
        let counter = || time_stamp_counter(&self.vcpu);
        let stop = cpu.run_until(ram, &mut UntilExit::counting(bus, &counter), next);
        if cpu.position() > state.position {
            cpu.forget_passed();
        }
        // What the kernel delivers nobody counts, so nothing is counted.
        *state = CpuState { deliveries: 0, ..cpu.state() };
        Ok(match stop {
            Stop::Limit | Stop::Halted => None,
            // There was an exit.
            Stop::Board if !bus.wants_control() => None,
            stop => Some(stop),
        })
    }
}

/// The guest's, which is the host's, for what the software CPU executes in between.
pub(crate) fn time_stamp_counter(vcpu: &VcpuFd) -> u64 {
    const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
    let entry = kvm_msr_entry { index: IA32_TIME_STAMP_COUNTER, ..Default::default() };
    let mut msrs = Msrs::from_entries(&[entry]).expect("one");
    let read = vcpu.get_msrs(&mut msrs);
    msrs.as_slice().first().filter(|_| read.is_ok()).map_or(0, |entry| entry.data)
}

impl dejavm_cpu::Executor for KvmEngine {
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, String> {
        KvmEngine::run_until(self, cpu, ram, bus, limit).map_err(|error| error.to_string())
    }

    fn counts_instructions(&self) -> bool {
        self.is_exact
    }

    fn step(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
    ) -> Result<Stop, String> {
        self.debugged = true;
        if self.is_exact {
            let next = Position(cpu.position().0.saturating_add(1));
            return dejavm_cpu::Executor::run_until(self, cpu, ram, bus, next);
        }
        Ok(dejavm_cpu::step_by_software(cpu, ram, bus))
    }

    fn take_landmark(&mut self) -> Option<(Landmark, u32)> {
        self.landmark.take()
    }

    fn take_counted(&mut self) -> Option<Counted> {
        self.counted.take()
    }

    fn land(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        landmark: &Landmark,
        counted: Option<&Counted>,
    ) -> Result<bool, String> {
        self.land_on(cpu, ram, bus, landmark, counted).map_err(|error| error.to_string())
    }
}
