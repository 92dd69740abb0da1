//! The run loop: the guest on the host's processor, exit by exit.
//!
//! Positions advance with the board's count of exits ([`Bus::exits`]): accesses to devices and halts. What else makes the guest leave the
//! processor (registers that the board keeps, the moment at which interrupts are taken again) moves none. A guest that executes for long without an exit is kicked out of
//! the processor, and where it was becomes a landmark, after which time passes.

mod landing;
mod stepping;

use crate::clock::{Clock, ClockError};
use crate::cpuid;
use crate::error::{KvmError, refused};
use crate::exits::{Exit, answer};
use crate::guest_debug;
use crate::host::Host;
use crate::kick::Kicker;
use crate::msrs;
use crate::pmu::{Branches, PmuError};
use crate::registers::{self, Board};
use crate::slots::Slots;
use crate::string_instruction;
use dejavm_cpu::{Bus, Counted, Cpu, CpuState, Landmark, Model, Stop, rflags};
use dejavm_memory::GuestRam;
use dejavm_units::{Pfn, Position};
use kvm_ioctls::{VcpuFd, VmFd};
use std::time::Duration;

/// IA32_APIC_BASE
const APIC_BASE: u32 = 0x1b;

/// A guest that executes for so long without an exit is kicked: so many microseconds pass for it then.
const TURN_US: u32 = 10_000;
/// Where it was kicked at a moment that cannot be told to anybody, it is kicked again after this.
const AGAIN: Duration = Duration::from_micros(100);

/// A virtual machine of the kernel's with one vCPU.
pub struct KvmEngine {
    vm: VmFd,
    vcpu: VcpuFd,
    slots: Slots,
    /// Bytes that the kernel maps for the vCPU.
    run_bytes: usize,
    model: Model,
    kicker: Kicker,
    leaves_landmarks: bool,
    landmark: Option<(Landmark, u32)>,
    clock: Option<Clock>,
    /// Where the landmark is by the clock.
    counted: Option<Counted>,
    /// Why there is no clock any more.
    clock_failure: Option<PmuError>,
    stops: guest_debug::Stops,
    counts: Counts,
}

/// What the engine did, for people: no part of any state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Times that the guest left the processor for us.
    pub exits: u64,
    /// Instructions that the software CPU executed, because KVM could not.
    pub by_software: u64,
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
            landmark: None,
            clock: None,
            counted: None,
            clock_failure: None,
            stops: guest_debug::Stops::default(),
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
        if self.leaves_landmarks {
            let turn = Duration::from_micros(TURN_US.into());
            self.kicker.arm(turn, turn)?;
        }
        let at = cpu.position();
        self.with_the_clock(|clock, _| Ok(clock.start(at)?))?;
        let stop = self.run_turns(cpu, ram, bus, limit);
        self.kicker.disarm();
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

    fn run_turns(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
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
            let happens = bus.wants_control() || interrupt && ready || state.position >= limit;
            if !(happens && accessed && string_instruction::is_next(&self.vcpu, ram)) {
                if bus.wants_control() {
                    break Stop::Board;
                }
                if state.halted && !(interrupt && state.rflags & rflags::IF != 0) {
                    break if state.position >= limit { Stop::Limit } else { Stop::Halted };
                }
                if state.position >= limit && !(interrupt && ready) {
                    break Stop::Limit;
                }
                // At the limit the interrupt is taken and nothing else: KVM would go on to the next exit.
                // And a single step would show in the flags that it pushes.
                let only_takes = state.position >= limit || interrupt && ready && self.is_stepped();
                if !registers::can_run(&state) || !bus.a20_enabled() || only_takes {
                    let count = u64::from(!only_takes);
                    let stop = self.by_software(cpu, ram, bus, &mut state, loaded, count)?;
                    (loaded, accessed) = (false, false);
                    ready = registers::takes_interrupts(&state);
                    match stop {
                        Some(stop) => {
                            state.position = Position(bus.exits().wrapping_add(ahead));
                            break stop;
                        }
                        None => continue,
                    }
                }
                if !loaded {
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
            let exit = self.enter(cpu, ram, bus, state.position, waits)?;
            self.counts.exits += 1;
            let run = self.vcpu.get_kvm_run();
            ready = run.ready_for_interrupt_injection != 0;
            accessed = exit == Exit::Done;
            match exit {
                Exit::Done => {}
                Exit::Kicked => {
                    let exits = bus.exits();
                    if !self.leaves_landmarks {
                        continue;
                    }
                    if std::mem::replace(&mut at_kick, exits) != exits {
                        continue;
                    }
                    if !self.is_between_instructions(ram)? {
                        self.kicker.arm(AGAIN, Duration::from_micros(TURN_US.into()))?;
                        continue;
                    }
                    let counted = self.with_the_clock(|clock, vcpu| clock.counted(vcpu))?;
                    let written = self.take_out(cpu, ram, bus, &state)?;
                    // Its next instruction may have begun, and have marked pages of page tables as accessed, when the kernel
                    // had to give it a page: it is completed, so that the instant is one that other engines come by.
                    let before = (bus.exits(), Position(state.position.0.saturating_add(1)));
                    let stop = cpu.run_until(ram, bus, before.1);
                    state = cpu.state();
                    state.position = Position(bus.exits().wrapping_add(ahead));
                    cpu.set_state(&state);
                    (loaded, accessed) = (false, false);
                    ready = registers::takes_interrupts(&state);
                    match stop {
                        Stop::Limit if bus.exits() == before.0 => {}
                        // It was an exit.
                        Stop::Limit | Stop::Halted => continue,
                        stop => break stop,
                    }
                    let landmark = Landmark::of(&cpu.state(), ram, written.into_iter());
                    self.landmark = Some((landmark, TURN_US));
                    self.counted = counted.flatten();
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
                Exit::Debug { .. } => {
                    return Err(KvmError::Entry("a stop that nobody asked for".into()));
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
                    Exit::Done => {}
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
        Ok(written)
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
        let stop = cpu.run_until(ram, bus, next);
        // What the kernel delivers nobody counts, so nothing is counted.
        *state = CpuState { deliveries: 0, ..cpu.state() };
        Ok(match stop {
            Stop::Limit | Stop::Halted => None,
            stop => Some(stop),
        })
    }
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
