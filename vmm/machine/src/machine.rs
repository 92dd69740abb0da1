//! The machine: the run loop that steps CPU and chips to exact positions.

use crate::board::Board;
use crate::boot::{self, Boot, BootError, Module};
use crate::cards::VIRTIO_CONSOLE;
use crate::config::{MachineConfig, TimeBase};
use crate::debugger_write::{Register, write_register};
use crate::display::{self, Console};
use crate::firmware;
use crate::input_output::{Input, Output};
use crate::processors::Processors;
use crate::shadow;
use crate::state::{MachineState, MoreState, RestoreError};
use crate::storage::{Drive, Storages};
use dejavm_cpu::{Counted, Cpu, CpuState, Executor, Landmark, NoLandmark, WatchHit, WatchKind};
use dejavm_memory::{GuestRam, PageFlags, RamError};
use dejavm_units::{Gpa, GuestNs, Gva, PAGE_SIZE, Pfn, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why [`Machine::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The position asked for was reached.
    Limit,
    /// The CPU is halted and nothing is pending: only time or an input can go on.
    Idle {
        /// When a chip will change something by itself; `None`: only an input can go on.
        wake: Option<GuestNs>,
    },
    /// The machine has ended; running it again returns the same.
    End(End),
    /// The next instruction has a breakpoint ([`Machine::set_stops`]). It has not been executed.
    Breakpoint {
        /// The linear address of the instruction.
        at: Gva,
    },
    /// Watched memory was accessed. The instruction that did it has completed, so the position is
    /// after it; where an interrupt or an exception was delivered, the access may have been that.
    Watchpoint {
        /// Index in [`Stops::watchpoints`](crate::Stops::watchpoints).
        index: usize,
        /// The first watched byte that was accessed.
        address: Gva,
        /// What the access was: [`WatchKind::Write`] or [`WatchKind::Read`].
        kind: WatchKind,
    },
}

/// How a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// The guest switched the power off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset, and the machine does not start again: see [`OnReset`](crate::OnReset).
    Reset,
    /// The guest wrote this value to the debug exit port.
    DebugExit(u32),
    /// An exception could not be delivered, not even as a double fault: a reset too, as far as the machine is concerned.
    TripleFault,
    /// Interrupts or exceptions follow one another without end and no instruction completes.
    Livelock,
    /// The CPU is halted with interrupts off: nothing can wake it.
    HaltedForever,
    /// The engine could not go on: [`Machine::engine_failure`] says why. No guest did that.
    EngineFailed,
}

/// What [`Machine::idle_until`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// The CPU can go on: an interrupt waits for it, or it was not halted at all.
    Runnable,
    /// The CPU still waits; guest time is now the limit or the time of a deadline that fired before
    /// it without waking the CPU.
    Waiting,
}

/// One machine. See the crate's documentation.
pub struct Machine {
    pub(crate) cpu: Cpu,
    pub(crate) ram: GuestRam,
    pub(crate) board: Board,
    pub(crate) console: Console,
    pub(crate) processors: Processors,
    /// What executes instead of the CPU's own run loop.
    executor: Option<Box<dyn Executor>>,
    engine_failure: Option<String>,
    /// What the executor left since somebody asked.
    landmarks: Vec<Passed>,
    /// Where the landmark is that comes next, if somebody said.
    counted: Option<Counted>,
    /// The executor stopped somewhere between two exits, which its position does not tell, and nobody asked where.
    between_exits: bool,
}

/// A landmark that a machine came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The position, before time passed there.
    pub position: Position,
    /// Guest time, before.
    pub guest_ns: GuestNs,
    /// The [`Input::Landmark`] that makes another machine pass it.
    pub input: Input,
}

impl Machine {
    /// A machine that is about to execute the first instruction of the image.
    pub fn boot(config: &MachineConfig, boot: &Boot<'_>) -> Result<Machine, BootError> {
        Machine::boot_with_modules(config, boot, &[])
    }

    /// As [`Machine::boot`], for a Multiboot kernel with modules.
    pub fn boot_with_modules(
        config: &MachineConfig,
        boot: &Boot<'_>,
        modules: &[Module<'_>],
    ) -> Result<Machine, BootError> {
        config.check()?;
        let mut ram = ram_of(config)?;
        let start = boot::load(config, boot, modules, &mut ram)?;
        let mut machine = Machine::of(config, ram, &start);
        machine.cpu.set_state(&start);
        machine.board.set_up_cards();
        machine.begin_first_turn();
        Ok(machine)
    }

    /// A machine that is about to execute the first instruction of its firmware.
    ///
    /// # Panics
    /// If the configuration has none.
    pub fn power_on(config: &MachineConfig) -> Result<Machine, BootError> {
        config.check()?;
        let start = CpuState::reset();
        let mut machine = Machine::of(config, ram_of(config)?, &start);
        machine.cpu.set_state(&start);
        let firmware = machine.board.firmware.as_ref().expect("the machine starts with firmware");
        firmware.shadow.power_on(&mut machine.ram);
        machine.begin_first_turn();
        Ok(machine)
    }

    /// `start`: the first processor's registers, by which those that wait for it are set up.
    fn of(config: &MachineConfig, ram: GuestRam, start: &CpuState) -> Machine {
        Machine {
            cpu: Cpu::shared(config.cpu, config.hardware.processors),
            ram,
            board: Board::new(config),
            console: Console::new(&config.hardware),
            processors: Processors::new(config, start),
            executor: None,
            engine_failure: None,
            landmarks: Vec::new(),
            counted: None,
            between_exits: false,
        }
    }

    /// Chooses what executes; `None` is the software CPU. The state stays what it is, but positions are exits from now on, and not
    /// instructions: guest time must pass by exits ([`TimeBase::Exits`](crate::TimeBase)).
    pub fn set_executor(&mut self, executor: Option<Box<dyn Executor>>) {
        let counts_exits = self.board.clock.base() == TimeBase::Exits;
        assert!(
            executor.as_ref().is_none_or(|executor| executor.counts_instructions() != counts_exits),
            "an executor counts what time passes by"
        );
        self.executor = executor;
    }

    /// Whether positions are exits: something executes that does not count instructions.
    pub fn counts_exits(&self) -> bool {
        self.executor.as_ref().is_some_and(|executor| !executor.counts_instructions())
    }

    /// Whether something else than the software CPU executes.
    pub fn has_executor(&self) -> bool {
        self.executor.is_some()
    }

    /// Landmarks that the machine came by since the last call, in order.
    pub fn take_landmarks(&mut self) -> Vec<Passed> {
        std::mem::take(&mut self.landmarks)
    }

    /// Brings what the machine's drives held when it was started, in the order of [`Hardware::drives`](crate::Hardware). A
    /// machine that reads a drive without an image fails.
    pub fn set_storages(&mut self, storages: Storages) {
        self.board.cards.drives.storages = storages;
    }

    /// As set by [`Machine::set_storages`].
    pub fn storages(&self) -> &Storages {
        &self.board.cards.drives.storages
    }

    /// The blocks of 4096 bytes of a drive that the guest has written, ascending.
    pub fn written_blocks(&self, drive: usize) -> Vec<u64> {
        self.board.cards.drives.written(drive, &self.ram)
    }

    /// Reads a drive as it stands: its image, and over it what the guest has written. No guest sees it.
    ///
    /// # Errors
    /// A sentence: the image could not be read. The machine goes on.
    ///
    /// # Panics
    /// Where there is no such drive.
    pub fn read_drive(&self, drive: usize, offset: u64, into: &mut [u8]) -> Result<(), String> {
        self.board.cards.drives.look(drive, offset, into, &self.ram)
    }

    /// Why the machine has ended with [`End::EngineFailed`].
    pub fn engine_failure(&self) -> Option<&str> {
        self.engine_failure.as_deref().or(self.board.cards.drives.failure.as_deref())
    }

    /// A machine in a saved state, with RAM of zeros: the caller writes the pages that are not zero
    /// through [`Machine::ram_mut`] before it runs.
    pub fn from_state(
        config: &MachineConfig,
        state: &MachineState,
    ) -> Result<Machine, RestoreError> {
        config.check()?;
        let mut machine = Machine::of(config, ram_of(config)?, &state.cpu);
        machine.restore(state)?;
        Ok(machine)
    }

    /// Exits since the machine started, where guest time passes by them: see [`TimeBase::Exits`](crate::TimeBase).
    pub fn exits(&self) -> u64 {
        self.board.clock.exits()
    }

    /// Lets runs end with [`Stop::Limit`] as soon as there were so many exits, as they end at a position.
    pub fn set_exits_max(&mut self, exits: Option<u64>) {
        self.board.set_exits_max(exits.unwrap_or(u64::MAX));
    }

    /// The state at this position, RAM and output not yet taken left out.
    pub fn save(&self) -> MachineState {
        let (clock, board) = self.board.save();
        let (processors, schedule) = self.save_processors();
        let more = MoreState {
            processors,
            schedule,
            cards: self.board.cards.save(),
            firmware: self.board.firmware.as_ref().map(firmware::Served::save),
            serial: self.board.save_serial(),
        };
        MachineState { cpu: self.processor_state(0), clock, board, more }
    }

    /// Becomes `state`, RAM left as it is. A refused state leaves the machine unusable.
    pub fn restore(&mut self, state: &MachineState) -> Result<(), RestoreError> {
        let MachineState { cpu, clock, board, more } = state;
        let MoreState { processors, schedule, cards, firmware, serial } = more;
        self.board.cards.restore(cards)?;
        self.display_was_restored();
        self.board.restore_serial(serial)?;
        self.board.restore(clock, board)?;
        self.board.restore_firmware(firmware.as_ref(), &mut self.ram)?;
        self.restore_processors(cpu, processors, schedule)
    }

    /// Guest RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Guest RAM, to write.
    pub fn ram_mut(&mut self) -> &mut GuestRam {
        &mut self.ram
    }

    /// Instructions completed since the machine started.
    pub fn position(&self) -> Position {
        self.cpu.position()
    }

    /// Guest time.
    pub fn guest_ns(&self) -> GuestNs {
        self.board.clock.at(self.position())
    }

    /// Runs until exactly `until` instructions have completed since the machine started, or until
    /// the CPU halts with nothing pending (also if that is just there), or the machine ends. All deadlines up to the position
    /// reached have fired and the interrupts that the CPU takes there are taken, so that the state at
    /// a position does not depend on where earlier runs stopped. That holds at breakpoints and
    /// watchpoints too.
    ///
    /// Where idle time was skipped, the interrupt that ends it is delivered at the position at which the
    /// CPU halted: a stop in its handler, or for what its delivery stored, has the position of the rest
    /// before the jump, and another guest time.
    ///
    /// Arriving at a breakpoint comes before arriving at `until`; a breakpoint where the run starts does
    /// not stop it. So slices of a run meet each arrival once.
    pub fn run(&mut self, until: Position) -> Stop {
        self.go(Some(until))
    }

    /// Runs until one instruction has completed, as a run to the next position does where positions are instructions.
    pub fn step(&mut self) -> Stop {
        match self.counts_exits() {
            false => self.run(Position(self.position().0.saturating_add(1))),
            true => self.go(None),
        }
    }

    /// Runs until a position; with `None` until an instruction has completed on the executor.
    fn go(&mut self, until: Option<Position>) -> Stop {
        self.follow_display();
        let stop = self.go_on(until);
        self.keep_display();
        stop
    }

    fn go_on(&mut self, until: Option<Position>) -> Stop {
        self.cpu.pass_stop();
        loop {
            if self.board.reset_due() {
                self.reset();
            }
            if let Some(end) = self.board.end() {
                return Stop::End(end);
            }
            let now = self.guest_ns();
            self.board.fire_deadlines(now, &mut self.ram);
            self.pass_turn();
            let short = self.board.exits_reached();
            let steps = until.is_none();
            let until = until.unwrap_or(Position(u64::MAX));
            let until = if short { until.min(self.position()) } else { until };
            let turn_end = self.turn_end().unwrap_or(until);
            let bound = self.board.bound_runs(until.min(turn_end));
            let stop = self.execute((!steps).then_some(bound));
            self.board.serve_memory_wishes(&mut self.ram);
            match stop {
                dejavm_cpu::Stop::Limit if steps => return Stop::Limit,
                // Whether the CPU noticed that it halts, or stopped at the bound first, depends on where
                // the run was cut: it must make no difference here.
                dejavm_cpu::Stop::Limit | dejavm_cpu::Stop::Halted => {
                    if self.board.deadline_due(self.guest_ns()) || self.turn_is_over() {
                        continue;
                    }
                    if !self.cpu.is_halted() {
                        if self.position() >= until {
                            return Stop::Limit;
                        }
                    } else if self.can_be_woken() {
                        return Stop::Idle { wake: self.board.next_deadline() };
                    } else {
                        self.board.finish(End::HaltedForever);
                    }
                }
                dejavm_cpu::Stop::Board => {}
                // What is due here comes first: it may lead elsewhere, and is no other instruction's.
                dejavm_cpu::Stop::Breakpoint { .. } | dejavm_cpu::Stop::Watchpoint(_)
                    if self.board.deadline_due(self.guest_ns()) => {}
                stop @ (dejavm_cpu::Stop::Breakpoint { .. } | dejavm_cpu::Stop::Watchpoint(_)) => {
                    return debugger_stop(stop);
                }
                dejavm_cpu::Stop::Shutdown => self.board.finish(End::TripleFault),
                dejavm_cpu::Stop::Livelock => self.board.finish(End::Livelock),
            }
        }
    }

    /// What the reset line does where the machine starts again: it is about to execute its firmware's first instruction, at the
    /// position and the guest time at which it is. It counts as a delivery: no instruction may have completed.
    fn reset(&mut self) {
        let (position, deliveries) = (self.position(), self.deliveries());
        let now = self.guest_ns();
        self.board.reset(now, &mut self.ram);
        self.processors.reset();
        self.board.run_processor(0);
        let deliveries = deliveries.saturating_add(1);
        let state = CpuState { position, deliveries, ..CpuState::reset() };
        self.cpu.become_other(0, &state);
        self.cpu.set_state(&state);
        self.begin_first_turn();
    }

    fn execute(&mut self, bound: Option<Position>) -> dejavm_cpu::Stop {
        let (cpu, ram, board) = (&mut self.cpu, &mut self.ram, &mut self.board);
        let Some(executor) = &mut self.executor else {
            let bound = bound.expect("without an executor an instruction is a position");
            return cpu.run_until(ram, board, bound);
        };
        let exits = board.clock.exits();
        let stop = match bound {
            Some(bound) => executor.run_until(cpu, ram, board, bound),
            None => executor.step(cpu, ram, board),
        };
        let stop = match stop {
            Ok(stop) => stop,
            Err(sentence) => {
                self.fail(sentence);
                return dejavm_cpu::Stop::Board;
            }
        };
        let no_exit = board.clock.exits() == exits;
        self.between_exits = match stop {
            _ if executor.counts_instructions() => false,
            dejavm_cpu::Stop::Breakpoint { .. } | dejavm_cpu::Stop::Watchpoint(_) => true,
            dejavm_cpu::Stop::Limit if bound.is_none() => no_exit,
            _ => self.between_exits && no_exit,
        };
        if let Some((landmark, us)) = executor.take_landmark() {
            self.between_exits = false;
            let counted = executor.take_counted();
            let (position, guest_ns) = (self.position(), self.guest_ns());
            let counted = counted.map(|counted| Input::Counted { counted });
            let inputs = counted.into_iter().chain([Input::Landmark { landmark, us }]);
            let passed = inputs.map(|input| Passed { position, guest_ns, input });
            self.landmarks.extend(passed);
            self.pass_time(us);
        }
        stop
    }

    fn fail(&mut self, sentence: String) {
        self.engine_failure = Some(sentence);
        self.board.finish(End::EngineFailed);
    }

    /// Time passes between two exits, and the position with it if it counts them.
    fn pass_time(&mut self, us: u32) {
        self.board.count_exits(us.into());
        if self.executor.is_some() {
            let mut state = self.cpu.state();
            state.position = Position(state.position.0.saturating_add(us.into()));
            self.cpu.set_state(&state);
        }
    }

    /// Where positions are exits and a debugger stopped the machine between two of them: what makes another machine come there,
    /// which has no other way to. To be logged before anything enters or is compared here. Told once for each such place.
    pub fn take_instant(&mut self) -> Option<Passed> {
        if !std::mem::take(&mut self.between_exits) {
            return None;
        }
        // Nobody who comes here by the landmark has counted them.
        let state = CpuState { deliveries: 0, ..self.cpu.state() };
        self.cpu.set_state(&state);
        let dirty = |pfn: &Pfn| self.ram.flags(*pfn).intersects(PageFlags::DIRTY);
        let landmark = Landmark::of(&state, &self.ram, self.ram.pages().filter(dirty));
        let (position, guest_ns) = (self.position(), self.guest_ns());
        Some(Passed { position, guest_ns, input: Input::Landmark { landmark, us: 0 } })
    }

    /// Goes on to where a landmark says: by the executor, if it counts branches and comes there, else by software. The position is that
    /// of the exit before, if it counts exits.
    ///
    /// # Errors
    /// If it is not there: a machine that does not do what was recorded.
    pub fn find(&mut self, landmark: &Landmark) -> Result<(), NoLandmark> {
        self.follow_display();
        let here = self.position();
        let counted = self.counted.take();
        let Machine { cpu, ram, board, executor, .. } = self;
        let now = board.clock.at(here);
        board.fire_deadlines(now, ram);
        board.bound_runs(Position(u64::MAX));
        if let Some(executor) = executor {
            let landed = executor.land(cpu, ram, board, landmark, counted.as_ref());
            if landed.map_err(NoLandmark::Engine)? {
                assert!(landmark.is_at(cpu, ram), "an executor that has landed is there");
                self.keep_display();
                return Ok(());
            }
        }
        // The first exit is one too many.
        let before = board.set_exits_max(board.clock.exits().saturating_add(1));
        let found = cpu.find(ram, board, landmark);
        board.set_exits_max(before);
        if executor.is_some() {
            let state = CpuState { position: here, deliveries: 0, ..cpu.state() };
            cpu.set_state(&state);
        }
        self.keep_display();
        found
    }

    /// While the CPU is halted: lets guest time jump to the next deadline or to `limit`, whichever
    /// is earlier, and fires what is due then. Time never moves backwards; a CPU that can run keeps
    /// it where it is.
    pub fn idle_until(&mut self, limit: GuestNs) -> Idle {
        if self.can_run() {
            return Idle::Runnable;
        }
        let target = self.board.next_deadline().map_or(limit, |deadline| deadline.min(limit));
        let position = self.position();
        self.board.clock.skip_to(target, position);
        let now = self.guest_ns();
        self.board.fire_deadlines(now, &mut self.ram);
        if self.can_run() { Idle::Runnable } else { Idle::Waiting }
    }

    /// Lets an input enter at this position and guest time.
    pub fn apply(&mut self, input: &Input) {
        match input {
            Input::WriteRegisters { values } => self.write_registers(0, values),
            Input::WriteRegistersOf { processor, values } => {
                self.write_registers(usize::from(*processor), values);
            }
            Input::WriteMemory { at, bytes } => self.write_memory(*at, bytes),
            Input::Deliveries { count } => while self.take_deliveries(*count).is_some() {},
            Input::Landmark { landmark, us } => match self.find(landmark) {
                Ok(()) => self.pass_time(*us),
                Err(error) => self.fail(error.to_string()),
            },
            Input::Counted { counted } => self.counted = Some(*counted),
            Input::Frames { card, frames } => {
                let now = self.guest_ns();
                self.board.receive_frames(*card, frames, now);
            }
            Input::Link { card, up } => {
                let now = self.guest_ns();
                self.board.set_link(*card, *up, now);
            }
            Input::Serial { port: VIRTIO_CONSOLE, bytes } => {
                let now = self.guest_ns();
                self.board.receive_on_console(bytes, now);
            }
            Input::Serial { .. }
            | Input::Key { .. }
            | Input::Mouse { .. }
            | Input::PowerButton
            | Input::Time { .. } => self.board.apply(input),
        }
    }

    /// Interrupts and exceptions delivered since an instruction completed. Runs that end at a position
    /// stop before its instruction; a debugger's stop, or the end of the machine, may come after its
    /// exceptions, at the same position.
    pub fn deliveries(&self) -> u32 {
        self.cpu.deliveries()
    }

    /// As [`Input::Deliveries`] enters; stops on the way as a run does, and goes on when called again.
    pub fn take_deliveries(&mut self, count: u32) -> Option<Stop> {
        self.cpu.pass_stop();
        let here = self.position();
        while self.board.end().is_none() && self.position() == here {
            if self.board.reset_due() {
                self.reset();
            }
            let now = self.guest_ns();
            self.board.fire_deadlines(now, &mut self.ram);
            self.pass_turn();
            self.board.bound_runs(Position(here.0.saturating_add(1)));
            let before = self.deliveries();
            if let Some(stop) = self.cpu.take_deliveries(&mut self.ram, &mut self.board, count) {
                return Some(debugger_stop(stop));
            }
            if self.cpu.has_shut_down() && self.deliveries() < count {
                self.board.finish(End::TripleFault);
            } else if self.deliveries() == before {
                return None;
            }
        }
        None
    }

    fn write_registers(&mut self, processor: usize, values: &[(Register, u128)]) {
        if processor >= self.processors() {
            return;
        }
        let mut state = self.processor_state(processor);
        for &(register, value) in values {
            // The debugger was told when it tried; only a recording that nobody recorded gets here.
            let _refused = write_register(&mut state, register, value);
        }
        self.set_processor_state(processor, &state);
    }

    fn write_memory(&mut self, at: Gpa, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let Some(page) = at.0.checked_add(done as u64) else { return };
            let room = (PAGE_SIZE - page % PAGE_SIZE) as usize;
            let piece = &bytes[done..bytes.len().min(done + room)];
            let _outside = self.ram.write(Gpa(page), piece);
            done += piece.len();
        }
    }

    /// The bytes of frames that every network card of the machine's surely has room for, frames shorter than 64 bytes counted as
    /// such: what arrives beyond that may be lost. 0 if there is none.
    pub fn frame_room(&self) -> usize {
        self.board.frame_room()
    }

    /// Keys that surely have room in the guest's keyboard: what is typed beyond that may be lost.
    pub fn key_room(&self) -> usize {
        self.board.i8042.key_room()
    }

    /// Whether the guest was told of the mouse's buttons: a change before that may be lost.
    pub fn buttons_told(&self) -> bool {
        self.board.i8042.buttons_told()
    }

    /// What the guest emitted since the last call, in order.
    pub fn take_output(&mut self) -> Vec<Output> {
        self.board.take_output()
    }

    /// Sizes and disturbs the CPU's TLB, chooses what executes: no guest can see it.
    pub fn set_tuning(&mut self, tuning: dejavm_cpu::Tuning) {
        self.cpu.set_tuning(tuning);
    }

    /// As set by [`Machine::set_tuning`].
    pub fn tuning(&self) -> dejavm_cpu::Tuning {
        self.cpu.tuning()
    }

    /// How often the guest used ports where no chip answers, since this object was made: a diagnostic
    /// for people, no part of the state.
    pub fn unknown_ports(&self) -> &BTreeMap<u16, u64> {
        &self.board.unknown_ports
    }
}

/// RAM with a volume for each drive, and for what lies behind ROM.
fn ram_of(config: &MachineConfig) -> Result<GuestRam, RamError> {
    let mut ram = GuestRam::new(config.ram)?;
    let mut pages: Vec<u64> = config.hardware.drives.iter().map(Drive::pages).collect();
    if config.hardware.firmware.is_some() {
        pages.push(shadow::PAGES);
    }
    if config.hardware.display {
        pages.push(display::PAGES);
    }
    ram.set_volumes(&pages);
    Ok(ram)
}

/// What a debugger asked for, as the machine tells it.
fn debugger_stop(stop: dejavm_cpu::Stop) -> Stop {
    match stop {
        dejavm_cpu::Stop::Breakpoint { at } => Stop::Breakpoint { at },
        dejavm_cpu::Stop::Watchpoint(WatchHit { index, address, kind, processor: _ }) => {
            Stop::Watchpoint { index, address, kind }
        }
        dejavm_cpu::Stop::Limit
        | dejavm_cpu::Stop::Halted
        | dejavm_cpu::Stop::Board
        | dejavm_cpu::Stop::Shutdown
        | dejavm_cpu::Stop::Livelock => unreachable!("these are no debugger's stops"),
    }
}

#[cfg(test)]
mod landmark_tests;
#[cfg(test)]
mod reset_tests;
#[cfg(test)]
mod stops_tests;
#[cfg(test)]
mod tests;
