//! What the recorder and the replayer need of a machine.

use dejavm_machine::{Idle, Input, Machine, MachineState, Output, Passed, Stop};
use dejavm_memory::GuestRam;
use dejavm_units::{GuestNs, Pfn, Position};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A deterministic machine: its state at a position is a function of its start state and of the
/// inputs applied before. See [`Machine`] for what each method promises.
#[expect(missing_docs, reason = "the methods of `Machine`")]
pub trait Guest {
    type State: Serialize + DeserializeOwned + PartialEq;

    fn position(&self) -> Position;
    fn guest_ns(&self) -> GuestNs;
    fn run(&mut self, until: Position) -> Stop;
    /// See [`Machine::step`].
    fn step(&mut self) -> Stop {
        self.run(Position(self.position().0.saturating_add(1)))
    }
    fn idle_until(&mut self, limit: GuestNs) -> Idle;
    fn apply(&mut self, input: &Input);
    fn deliveries(&self) -> u32;
    fn take_output(&mut self) -> Vec<Output>;
    fn save(&self) -> Self::State;
    fn ram(&self) -> &GuestRam;
    fn ram_mut(&mut self) -> &mut GuestRam;
    /// See [`Machine::take_landmarks`].
    fn take_landmarks(&mut self) -> Vec<Passed> {
        Vec::new()
    }
    /// See [`Machine::take_instant`].
    fn take_instant(&mut self) -> Option<Passed> {
        None
    }
    /// See [`Machine::engine_failure`].
    fn engine_failure(&self) -> Option<&str> {
        None
    }
    /// See [`Machine::frame_room`].
    fn frame_room(&self) -> usize {
        0
    }
    /// The machine itself, to be looked at, if it is one.
    fn machine(&self) -> Option<&Machine> {
        None
    }
    /// Whether pages that were not written never count as written: what executes keeps account itself.
    fn tells_exactly(&self) -> bool {
        true
    }
    /// The pages written since the last call, ascending.
    fn take_dirty(&mut self) -> Vec<Pfn> {
        self.ram_mut().take_dirty()
    }
}

impl Guest for Machine {
    type State = MachineState;

    fn position(&self) -> Position {
        self.position()
    }
    fn guest_ns(&self) -> GuestNs {
        self.guest_ns()
    }
    fn run(&mut self, until: Position) -> Stop {
        self.run(until)
    }
    fn step(&mut self) -> Stop {
        self.step()
    }
    fn idle_until(&mut self, limit: GuestNs) -> Idle {
        self.idle_until(limit)
    }
    fn apply(&mut self, input: &Input) {
        self.apply(input);
    }
    fn deliveries(&self) -> u32 {
        self.deliveries()
    }
    fn take_output(&mut self) -> Vec<Output> {
        self.take_output()
    }
    fn save(&self) -> MachineState {
        self.save()
    }
    fn ram(&self) -> &GuestRam {
        self.ram()
    }
    fn ram_mut(&mut self) -> &mut GuestRam {
        self.ram_mut()
    }
    fn take_landmarks(&mut self) -> Vec<Passed> {
        self.take_landmarks()
    }
    fn take_instant(&mut self) -> Option<Passed> {
        self.take_instant()
    }
    fn engine_failure(&self) -> Option<&str> {
        self.engine_failure()
    }
    fn frame_room(&self) -> usize {
        self.frame_room()
    }
    fn machine(&self) -> Option<&Machine> {
        Some(self)
    }
    fn tells_exactly(&self) -> bool {
        !self.counts_exits()
    }
}

impl<G: Guest> Guest for &mut G {
    type State = G::State;

    fn position(&self) -> Position {
        (**self).position()
    }
    fn guest_ns(&self) -> GuestNs {
        (**self).guest_ns()
    }
    fn run(&mut self, until: Position) -> Stop {
        (**self).run(until)
    }
    fn step(&mut self) -> Stop {
        (**self).step()
    }
    fn idle_until(&mut self, limit: GuestNs) -> Idle {
        (**self).idle_until(limit)
    }
    fn apply(&mut self, input: &Input) {
        (**self).apply(input);
    }
    fn deliveries(&self) -> u32 {
        (**self).deliveries()
    }
    fn take_output(&mut self) -> Vec<Output> {
        (**self).take_output()
    }
    fn save(&self) -> G::State {
        (**self).save()
    }
    fn ram(&self) -> &GuestRam {
        (**self).ram()
    }
    fn ram_mut(&mut self) -> &mut GuestRam {
        (**self).ram_mut()
    }
    fn take_landmarks(&mut self) -> Vec<Passed> {
        (**self).take_landmarks()
    }
    fn take_instant(&mut self) -> Option<Passed> {
        (**self).take_instant()
    }
    fn engine_failure(&self) -> Option<&str> {
        (**self).engine_failure()
    }
    fn frame_room(&self) -> usize {
        (**self).frame_room()
    }
    fn machine(&self) -> Option<&Machine> {
        (**self).machine()
    }
    fn tells_exactly(&self) -> bool {
        (**self).tells_exactly()
    }
    fn take_dirty(&mut self) -> Vec<Pfn> {
        (**self).take_dirty()
    }
}
