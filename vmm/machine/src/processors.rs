//! Whose turn it is.
//!
//! The processors of a machine take turns on one thread and one [`Cpu`](dejavm_cpu::Cpu). The position is the sum of what all have
//! executed. A turn ends at a position that is known when it begins, or before it when its processor halts or spins (PAUSE). What
//! follows is a function of the machine's state there, so turns fall at the same positions however a run is cut into pieces, and
//! at a position it is always the processor that goes on there whose turn it is: the turn is passed on by arriving at its end,
//! before interrupts and stops are looked at.
//!
//! INIT and start-up messages for other processors take effect when a turn is passed on.

use crate::board::interrupts;
use crate::config::MachineConfig;
use crate::hardware::Hardware;
use crate::machine::{End, Machine};
use crate::state::{ProcessorState, RestoreError, ScheduleState};
use dejavm_cpu::CpuState;
use dejavm_units::Position;

/// The processors that are not running, and how turns are dealt.
pub(crate) struct Processors {
    // Configuration.
    slice: u32,
    seed: Option<u64>,
    // State.
    /// Whose turn it is.
    running: usize,
    /// All by number, if there are several; that of the running one is out of date.
    parked: Vec<Parked>,
}

/// A processor between two turns.
#[derive(Clone)]
struct Parked {
    registers: CpuState,
    /// It does nothing until a start-up message comes.
    waits_for_startup: bool,
}

impl Processors {
    /// The first is about to run, the others wait for it to start them. `start`: how firmware left the first.
    pub(crate) fn new(config: &MachineConfig, start: &CpuState) -> Processors {
        let Hardware { processors, slice, schedule_seed, .. } = config.hardware;
        let first = Parked { registers: start.clone(), waits_for_startup: false };
        // Firmware gives all the same memory types.
        let mut reset = CpuState::reset().after_init();
        reset.msr.mtrr_def_type = start.msr.mtrr_def_type;
        let other = Parked { registers: reset, waits_for_startup: true };
        let parked = match processors {
            0 | 1 => Vec::new(),
            several => std::iter::once(first)
                .chain(std::iter::repeat_n(other, usize::from(several) - 1))
                .collect(),
        };
        Processors { slice, seed: schedule_seed, running: 0, parked }
    }

    /// As at power-on.
    pub(crate) fn reset(&mut self) {
        self.running = 0;
        for (number, parked) in self.parked.iter_mut().enumerate() {
            let reset = CpuState::reset();
            *parked = match number {
                0 => Parked { registers: reset, waits_for_startup: false },
                _ => Parked { registers: reset.after_init(), waits_for_startup: true },
            };
        }
    }

    fn several(&self) -> bool {
        !self.parked.is_empty()
    }

    fn count(&self) -> usize {
        self.parked.len().max(1)
    }

    /// Instructions of a turn that begins at a position. With a seed: for an epoch about as many as without, for another a
    /// fraction of that, down to some dozen. What goes wrong between two processors needs one to be held up between two instructions
    /// while the other goes far enough: how far that is, nobody knows.
    fn length(&self, begin: Position) -> u64 {
        let slice = u64::from(self.slice);
        let Some(seed) = self.seed else { return slice };
        let shift = SHIFTS[(self.epoch(begin, seed) >> 32) as usize % SHIFTS.len()];
        let mean = (slice >> shift).max(1);
        1 + mixed(seed, begin.0) % (2 * mean)
    }

    /// What follows from the seed for all turns of an epoch.
    fn epoch(&self, here: Position, seed: u64) -> u64 {
        mixed(!seed, here.0 >> EPOCH_SHIFT)
    }

    /// Who is next of those who can run (bit n: number n); with a seed, one of them, and at times somebody only if nobody else can.
    fn choose(&self, here: Position, able: u32) -> Option<usize> {
        let count = self.count() as u32;
        let Some(seed) = self.seed else {
            let after = self.running as u32 + 1;
            let in_turn = (0..count).map(|n| (after + n) % count);
            return in_turn.map(|n| n as usize).find(|n| able & 1 << n != 0);
        };
        let epoch = self.epoch(here, seed);
        let starved = if epoch & 1 == 0 { 1 << ((epoch as u32 >> 1) % count) } else { 0 };
        let able = if able & !starved == 0 { able } else { able & !starved };
        let random = mixed(seed.rotate_left(32), here.0);
        let which = random.checked_rem(able.count_ones().into())?;
        (0..count as usize).filter(|n| able & 1 << n != 0).nth(which as usize)
    }
}

/// An epoch is so many instructions, as a power of two: half a millisecond by default.
const EPOCH_SHIFT: u32 = 20;
/// What slices are divided by in an epoch, as powers of two: by default turns are of 50 000 instructions, 6 250, 781, 97, 24.
const SHIFTS: [u32; 5] = [0, 3, 6, 9, 11];

/// A number that follows from two others and looks like chance: the finalizer of SplitMix64.
fn mixed(seed: u64, place: u64) -> u64 {
    let mut z = seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Machine {
    /// How many processors there are.
    pub fn processors(&self) -> usize {
        self.processors.count()
    }

    /// The processor that executes the next instruction.
    pub fn running_processor(&self) -> usize {
        self.processors.running
    }

    /// Where the turn of that processor ends at the latest; `None` on a machine with one.
    pub fn turn_end(&self) -> Option<Position> {
        self.processors.several().then(|| self.cpu.turn().0)
    }

    /// The registers of a processor; of one that does not exist, those of the first.
    pub fn processor_state(&self, number: usize) -> CpuState {
        match self.processors.parked.get(number) {
            Some(parked) if number != self.processors.running => {
                let CpuState { position, deliveries, a20, .. } = self.cpu.state();
                CpuState { position, deliveries, a20, ..parked.registers.clone() }
            }
            _ => self.cpu.state(),
        }
    }

    /// Sets them, behind the back of any recorder.
    pub fn set_processor_state(&mut self, number: usize, state: &CpuState) {
        match self.processors.parked.get_mut(number) {
            Some(parked) if number != self.processors.running => parked.registers = state.clone(),
            _ => self.cpu.set_state(state),
        }
    }

    /// Deals turns as that hardware has it (slice and seed) from the next one on. A recording that begins here says so.
    pub fn deal_turns(&mut self, hardware: &Hardware) {
        (self.processors.slice, self.processors.seed) = (hardware.slice, hardware.schedule_seed);
    }

    /// Whether a processor waits for a start-up message.
    pub fn waits_for_startup(&self, number: usize) -> bool {
        self.processors.parked.get(number).is_some_and(|parked| parked.waits_for_startup)
    }

    /// Whether a processor executes, or would if it were its turn.
    fn is_able(&self, number: usize) -> bool {
        let lapic = &self.board.lapics[number];
        if self.waits_for_startup(number) {
            return lapic.startup_pending();
        }
        let (halted, interruptible, takes_nmi) = match self.processors.parked.get(number) {
            Some(Parked { registers, .. }) if number != self.processors.running => {
                (registers.halted, registers.interrupts_enabled(), registers.takes_nmi())
            }
            _ => (self.cpu.is_halted(), self.cpu.interrupts_enabled(), self.cpu.takes_nmi()),
        };
        !halted || interruptible && interrupts(lapic) || takes_nmi && lapic.nmi_pending()
    }

    /// Whether somebody can go on.
    pub(crate) fn can_run(&self) -> bool {
        if self.processors.several() {
            return (0..self.processors()).any(|number| self.is_able(number));
        }
        !self.cpu.is_halted() || self.cpu.interrupts_enabled() && self.board.interrupt
    }

    /// Whether an interrupt could wake somebody, be it one that cannot be turned off.
    pub(crate) fn can_be_woken(&self) -> bool {
        let nmis = self.board.makes_nmis();
        if self.processors.several() {
            return (0..self.processors()).any(|number| {
                let state = self.processor_state(number);
                !self.waits_for_startup(number)
                    && (state.interrupts_enabled() || nmis && state.takes_nmi())
            });
        }
        self.cpu.interrupts_enabled() || nmis && self.cpu.takes_nmi()
    }

    /// Whether it is another one's turn.
    pub(crate) fn turn_is_over(&self) -> bool {
        self.processors.several()
            && (self.cpu.turn_is_over() || !self.is_able(self.processors.running))
            && self.can_run()
    }

    /// The first processor's first turn.
    pub(crate) fn begin_first_turn(&mut self) {
        if self.processors.several() {
            let here = self.position();
            let end = here.0.saturating_add(self.processors.length(here));
            self.cpu.begin_turn(Position(end), 0);
        }
    }

    /// Passes the turn on if it is over. Where nobody can run, the one whose turn it is keeps it.
    pub(crate) fn pass_turn(&mut self) {
        let running = self.processors.running;
        if !self.processors.several() || !self.cpu.turn_is_over() && self.is_able(running) {
            return;
        }
        if !self.can_run() {
            return;
        }
        self.take_signals();
        let able =
            (0..self.processors()).filter(|n| self.is_able(*n)).fold(0, |able, n| able | 1 << n);
        let here = self.position();
        let next = self.processors.choose(here, able).unwrap_or(running);
        if next != running {
            self.processors.parked[running].registers = self.cpu.state();
            self.resume(next);
        }
        let end = here.0.saturating_add(self.processors.length(here));
        self.cpu.begin_turn(Position(end), 0);
    }

    /// The CPU becomes a processor.
    fn resume(&mut self, number: usize) {
        self.cpu.become_other(number as u8, &self.processors.parked[number].registers);
        self.processors.running = number;
        self.board.run_processor(number);
    }

    /// INIT and start-up messages.
    fn take_signals(&mut self) {
        for number in 0..self.processors() {
            if !self.board.lapics[number].signal_pending() {
                continue;
            }
            let mut registers = self.processor_state(number);
            let mut waits = self.waits_for_startup(number);
            let lapic = &mut self.board.lapics[number];
            lapic.take_smi();
            // A start-up message that waits came after it.
            let (init, startup) = (lapic.take_init(), lapic.take_startup());
            if init && number == 0 {
                self.board.finish(End::Reset);
                return;
            }
            if init {
                lapic.reset_by_init();
                (registers, waits) = (registers.after_init(), true);
            }
            if let Some(page) = startup
                && waits
            {
                (registers, waits) = (registers.started_at(page), false);
            }
            let parked = &mut self.processors.parked[number];
            *parked = Parked { registers, waits_for_startup: waits };
            if number == self.processors.running && init {
                self.resume(number);
            }
        }
    }

    /// What of the state is not the first processor's.
    pub(crate) fn save_processors(&self) -> (Vec<ProcessorState>, ScheduleState) {
        if !self.processors.several() {
            return Default::default();
        }
        let others = (1..self.processors()).map(|number| ProcessorState {
            cpu: self.processor_state(number),
            lapic: self.board.lapics[number].save(),
            waits_for_startup: self.waits_for_startup(number),
        });
        let (turn_end, pauses) = self.cpu.turn();
        let running = self.processors.running as u8;
        (others.collect(), ScheduleState { running, turn_end, pauses })
    }

    /// Puts it in, and the first processor's registers.
    pub(crate) fn restore_processors(
        &mut self,
        first: &CpuState,
        others: &[ProcessorState],
        schedule: &ScheduleState,
    ) -> Result<(), RestoreError> {
        let ScheduleState { running, turn_end, pauses } = *schedule;
        let (running, count) = (usize::from(running), self.processors());
        if others.len() + 1 != count || running >= count {
            return Err(RestoreError::Processors { has: others.len() + 1, wants: count });
        }
        self.cpu.set_state(first);
        if !self.processors.several() {
            return Ok(());
        }
        self.processors.parked[0] = Parked { registers: first.clone(), waits_for_startup: false };
        for (number, other) in (1..).zip(others) {
            let ProcessorState { cpu, lapic, waits_for_startup } = other.clone();
            self.processors.parked[number] = Parked { registers: cpu, waits_for_startup };
            self.board.lapics[number].restore(lapic)?;
        }
        self.resume(running);
        self.cpu.begin_turn(turn_end, pauses);
        self.board.settle();
        Ok(())
    }
}
