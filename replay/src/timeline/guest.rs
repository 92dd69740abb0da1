//! What a timeline needs of a machine beyond what a replay needs.

use crate::guest::Guest;
use dejavm_machine::{Machine, MachineState};

/// A machine that can be put back.
pub trait Rewind: Guest {
    /// Becomes `state`, RAM left as it is.
    ///
    /// # Errors
    /// Why no machine can be in such a state. This one is in none then.
    fn restore(&mut self, state: &Self::State) -> Result<(), String>;
}

impl Rewind for Machine {
    fn restore(&mut self, state: &MachineState) -> Result<(), String> {
        self.restore(state).map_err(|error| error.to_string())
    }
}
