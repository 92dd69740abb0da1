//! The chips and the wires between them.
//!
//! Whatever touches a chip (an access of the guest, an input, a deadline) ends in [`Board::settle`],
//! which looks at the chips' outputs, sets the interrupt controllers' inputs and notes when something
//! will happen next. Between two such events no output changes, so nobody has to look.

use crate::clock::{self, Clock};
use crate::config::MachineConfig;
use crate::input_output::{Input, Output, OutputQueue};
use crate::machine::End;
use crate::state::{BoardState, RestoreError};
use dejavm_devices::{Pic, Pit, Rtc, Uart16550};
use dejavm_units::{GuestNs, Position};
use std::collections::{BTreeMap, VecDeque};

/// ISA interrupt lines.
pub(crate) mod irq {
    pub(crate) const TIMER: u8 = 0;
    pub(crate) const COM1: u8 = 4;
    pub(crate) const RTC: u8 = 8;
}

/// Everything of a machine that is neither CPU nor RAM.
pub(crate) struct Board {
    pub(crate) clock: Clock,

    // The chips.
    pub(crate) pic: Pic,
    pub(crate) pit: Pit,
    pub(crate) rtc: Rtc,
    pub(crate) com1: Uart16550,
    /// Serial input that the UART has no room for yet.
    com1_waiting: VecDeque<u8>,
    /// System control port A (0x92): bit 1 lets A20 through.
    pub(crate) port_92: u8,
    /// The reset control register (0xcf9).
    pub(crate) reset_control: u8,
    /// Why the machine has ended, if it has.
    end: Option<End>,

    // Diagnostics, no part of the state.
    /// Accesses to ports where no chip answers.
    pub(crate) unknown_ports: BTreeMap<u16, u64>,

    // Derived by `settle`.
    /// Levels of the ISA interrupt lines, as the interrupt controllers were told.
    lines: u16,
    /// The earliest guest time at which a chip changes by itself.
    next_deadline: Option<GuestNs>,
    /// The CPU's INTR.
    pub(crate) interrupt: bool,

    // Transient.
    pub(crate) output: OutputQueue,
    /// Where the CPU will return at the latest.
    bound: Position,
    /// The CPU is to return at the next instruction boundary.
    pub(crate) wants_control: bool,
}

/// Port 0x92 at reset: A20 on, as the boot protocols demand.
const PORT_92_A20: u8 = 1 << 1;

impl Board {
    pub(crate) fn new(config: &MachineConfig) -> Board {
        let mut board = Board {
            clock: Clock::new(config.instructions_per_us),
            pic: Pic::new(),
            pit: Pit::new(),
            rtc: Rtc::new(config.rtc_epoch_s),
            com1: Uart16550::new(),
            com1_waiting: VecDeque::new(),
            port_92: PORT_92_A20,
            reset_control: 0,
            end: None,
            unknown_ports: BTreeMap::new(),
            lines: 0,
            next_deadline: None,
            interrupt: false,
            output: OutputQueue::default(),
            bound: Position(0),
            wants_control: false,
        };
        board.settle();
        board
    }

    /// Why the machine has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.end
    }

    /// Ends the machine; the first reason stands.
    pub(crate) fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wants_control = true;
    }

    /// Whether the A20 gate lets address bit 20 through.
    pub(crate) fn a20(&self) -> bool {
        self.port_92 & PORT_92_A20 != 0
    }

    /// The earliest guest time at which a chip changes by itself.
    pub(crate) fn next_deadline(&self) -> Option<GuestNs> {
        self.next_deadline
    }

    /// Whether a deadline is not after `now`.
    pub(crate) fn deadline_due(&self, now: GuestNs) -> bool {
        self.next_deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Fires all deadlines up to `now`, each at its own time, in order.
    pub(crate) fn fire_deadlines(&mut self, now: GuestNs) {
        while let Some(deadline) = self.next_deadline.filter(|deadline| *deadline <= now) {
            self.pit.advance(deadline);
            self.rtc.advance(deadline);
            self.settle();
            let next = self.next_deadline;
            assert!(
                next.is_none_or(|next| next > deadline),
                "a deadline passes when it is reached"
            );
        }
    }

    /// Where a run towards `until` has to stop first, because a deadline is due there.
    pub(crate) fn bound_runs(&mut self, until: Position) -> Position {
        let next = self.next_deadline.map_or(until, |at| self.clock.position_of(at));
        self.bound = next.min(until);
        self.wants_control = self.end.is_some();
        self.bound
    }

    /// Looks at the chips' outputs: see the module's documentation.
    pub(crate) fn settle(&mut self) {
        let lines = u16::from(self.pit.out(0)) << irq::TIMER
            | u16::from(self.com1.irq()) << irq::COM1
            | u16::from(self.rtc.irq()) << irq::RTC;
        let mut changed = lines ^ self.lines;
        self.lines = lines;
        while changed != 0 {
            let line = changed.trailing_zeros() as u8;
            changed &= changed - 1;
            self.pic.set_line(line, lines & 1 << line != 0);
        }
        self.interrupt = self.pic.interrupt_pending();

        let next = [self.pit.deadline(), self.rtc.deadline()].into_iter().flatten().min();
        if next != self.next_deadline {
            self.next_deadline = next;
            if next.is_some_and(|next| self.clock.position_of(next) < self.bound) {
                self.wants_control = true;
            }
        }
    }

    /// Moves serial input into the UART as far as it has room, and its output to the host.
    pub(crate) fn exchange_serial(&mut self) {
        while let Some(byte) = self.com1_waiting.front() {
            if self.com1.receive(&[*byte]) == 0 {
                break;
            }
            self.com1_waiting.pop_front();
        }
        let sent = self.com1.take_transmitted();
        if !sent.is_empty() {
            self.output.serial(0, &sent);
        }
    }

    pub(crate) fn apply(&mut self, input: &Input) {
        match input {
            Input::Serial { port: 0, bytes } => {
                self.com1_waiting.extend(bytes);
                self.exchange_serial();
            }
            Input::Serial { .. } | Input::Keyboard { .. } | Input::PowerButton => {}
        }
        self.settle();
    }

    pub(crate) fn take_output(&mut self) -> Vec<Output> {
        self.output.take()
    }
}

mod save_restore {
    use super::*;

    impl Board {
        pub(crate) fn save(&self) -> (clock::State, BoardState) {
            let Board {
                clock,
                pic,
                pit,
                rtc,
                com1,
                com1_waiting,
                port_92,
                reset_control,
                end,
                unknown_ports: _,
                lines: _,
                next_deadline: _,
                interrupt: _,
                output: _,
                bound: _,
                wants_control: _,
            } = self;
            let state = BoardState {
                pic: pic.save(),
                pit: pit.save(),
                rtc: rtc.save(),
                com1: com1.save(),
                com1_waiting: com1_waiting.iter().copied().collect(),
                port_92: *port_92,
                reset_control: *reset_control,
                end: *end,
            };
            (clock.save(), state)
        }

        pub(crate) fn restore(
            &mut self,
            clock: &clock::State,
            state: &BoardState,
        ) -> Result<(), RestoreError> {
            let BoardState { pic, pit, rtc, com1, com1_waiting, port_92, reset_control, end } =
                state.clone();
            self.clock.restore(clock);
            self.pic.restore(pic)?;
            self.pit.restore(pit)?;
            self.rtc.restore(rtc)?;
            self.com1.restore(com1)?;
            self.com1_waiting = com1_waiting.into();
            self.port_92 = port_92;
            self.reset_control = reset_control;
            self.end = end;
            self.output = OutputQueue::default();
            // A saved controller has been told these levels already, so telling it again is no edge.
            self.lines = 0;
            self.settle();
            Ok(())
        }
    }
}
