//! The chips and the wires between them.

use crate::clock::{self, Clock};
use crate::config::MachineConfig;
use crate::input_output::{Input, Output, OutputQueue};
use crate::machine::End;
use crate::state::{BoardState, RestoreError};
use dejavm_units::{GuestNs, Position};

/// Everything of a machine that is neither CPU nor RAM.
pub(crate) struct Board {
    pub(crate) clock: Clock,
    a20: bool,
    end: Option<End>,

    // Transient.
    pub(crate) output: OutputQueue,
    /// Where the CPU will return at the latest.
    bound: Position,
    /// The CPU is to return at the next instruction boundary.
    pub(crate) wants_control: bool,
}

impl Board {
    pub(crate) fn new(config: &MachineConfig) -> Board {
        Board {
            clock: Clock::new(config.instructions_per_us),
            a20: true,
            end: None,
            output: OutputQueue::default(),
            bound: Position(0),
            wants_control: false,
        }
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

    pub(crate) fn a20(&self) -> bool {
        self.a20
    }

    /// The earliest guest time at which a chip changes by itself.
    pub(crate) fn next_deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Whether a deadline is not after `now`.
    pub(crate) fn deadline_due(&self, now: GuestNs) -> bool {
        self.next_deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Fires all deadlines up to `now`, each at its own time, in order.
    pub(crate) fn fire_deadlines(&mut self, _now: GuestNs) {}

    /// Where a run towards `until` has to stop first, because a deadline is due there.
    pub(crate) fn bound_runs(&mut self, until: Position) -> Position {
        let next = self.next_deadline().map_or(until, |at| self.clock.position_of(at));
        self.bound = next.min(until);
        self.wants_control = self.end.is_some();
        self.bound
    }

    pub(crate) fn apply(&mut self, input: &Input, _now: GuestNs) {
        match input {
            Input::Serial { .. } | Input::Keyboard { .. } | Input::PowerButton => {}
        }
    }

    pub(crate) fn take_output(&mut self) -> Vec<Output> {
        self.output.take()
    }

    pub(crate) fn save(&self) -> (clock::State, BoardState) {
        let Board { clock, a20, end, output: _, bound: _, wants_control: _ } = self;
        (clock.save(), BoardState { a20: *a20, end: *end })
    }

    pub(crate) fn restore(
        &mut self,
        clock: &clock::State,
        state: &BoardState,
    ) -> Result<(), RestoreError> {
        let BoardState { a20, end } = state.clone();
        self.clock.restore(clock);
        self.a20 = a20;
        self.end = end;
        self.output = OutputQueue::default();
        Ok(())
    }
}
