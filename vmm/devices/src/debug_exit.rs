//! Exit port: a guest's way to end its machine with a status, as QEMU's `isa-debug-exit` at 0xf4.
//!
//! Writing `v` asks for the exit status `v * 2 + 1`: never 0, so that it is told from a guest that
//! powered off.

use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Register 0 is port 0xf4; the three ports after it belong to wider writes and do nothing.
pub const PORTS: [PortRange; 1] = [PortRange { first: 0xf4, count: 4, reg: 0 }];

/// Everything of the port that can change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The byte that was written and not yet acted on.
    requested: Option<u8>,
}

/// The exit port.
#[derive(Clone, Debug, Default)]
pub struct DebugExit {
    // Configuration: none.
    // Glue: none.
    state: State,
}

// Guest side.
impl DebugExit {
    /// No exit requested.
    pub fn new() -> DebugExit {
        DebugExit::default()
    }

    /// Forgets a request.
    pub fn reset(&mut self) {
        self.state = State::default();
    }

    /// Zero, as the peer's port.
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        if reg < 4 { 0 } else { 0xff }
    }

    /// Requests an exit, if `reg` is 0. A second request before the first is taken is lost.
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        if reg == 0 {
            self.state.requested.get_or_insert(value);
        }
    }
}

// Board side.
impl DebugExit {
    /// The exit status that the guest asked for since the last call.
    pub fn take_exit_status(&mut self) -> Option<u16> {
        self.state.requested.take().map(|value| u16::from(value) << 1 | 1)
    }

    /// Never.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}

    /// The state of the port.
    pub fn save(&self) -> State {
        let DebugExit { state } = self;
        state.clone()
    }

    /// Becomes `state`; any is possible.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_odd_and_taken_once() {
        let mut port = DebugExit::new();
        assert_eq!(port.take_exit_status(), None);
        port.write(0, 0x10, GuestNs(0));
        port.write(0, 0x11, GuestNs(0));
        assert_eq!(port.take_exit_status(), Some(0x21));
        assert_eq!(port.take_exit_status(), None);
    }
}
