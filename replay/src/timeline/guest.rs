//! What a timeline needs of a machine beyond what a replay needs.

use crate::guest::Guest;
use dejavm_machine::{Machine, MachineState, Stop, Stops};
use dejavm_units::Gva;

/// A machine that can be put back.
pub trait Rewind: Guest {
    /// Becomes `state`, RAM left as it is.
    ///
    /// # Errors
    /// Why no machine can be in such a state. This one is in none then.
    fn restore(&mut self, state: &Self::State) -> Result<(), String>;
    /// Sets where runs stop; see [`Machine::set_stops`].
    fn set_stops(&mut self, stops: &Stops);
    /// See [`Machine::breakpoint_here`].
    fn breakpoint_here(&self) -> Option<Gva>;
    /// See [`Machine::take_deliveries`].
    fn take_deliveries(&mut self, count: u32) -> Option<Stop>;
}

impl Rewind for Machine {
    fn restore(&mut self, state: &MachineState) -> Result<(), String> {
        self.restore(state).map_err(|error| error.to_string())
    }
    fn set_stops(&mut self, stops: &Stops) {
        self.set_stops(stops);
    }
    fn breakpoint_here(&self) -> Option<Gva> {
        self.breakpoint_here()
    }
    fn take_deliveries(&mut self, count: u32) -> Option<Stop> {
        self.take_deliveries(count)
    }
}
