//! Debug console: a port that takes a byte and cannot fail (Bochs port 0xe9, and port 0x402 of
//! SeaBIOS and OVMF).
//!
//! Reading answers 0xe9, by which a guest finds out that the port is there.

use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Register 0 is port 0xe9, register 1 port 0x402. They are one stream.
pub const PORTS: [PortRange; 2] =
    [PortRange { first: 0xe9, count: 1, reg: 0 }, PortRange { first: 0x402, count: 1, reg: 1 }];

const PRESENT: u8 = 0xe9;

/// Everything of the console that can change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// What the guest wrote and the host has not taken.
    transmitted: Vec<u8>,
}

/// The debug console.
#[derive(Clone, Debug, Default)]
pub struct DebugConsole {
    // Configuration: none.
    // Glue: none.
    state: State,
}

// Guest side.
impl DebugConsole {
    /// An empty console.
    pub fn new() -> DebugConsole {
        DebugConsole::default()
    }

    /// Nothing to reset: what was written has left.
    pub fn reset(&mut self) {}

    /// 0xe9, "present", for both registers.
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        if reg < 2 { PRESENT } else { 0xff }
    }

    /// Writes a byte of the stream.
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        if reg < 2 {
            self.state.transmitted.push(value);
        }
    }
}

// Host side.
impl DebugConsole {
    /// What the guest has written since the last call.
    pub fn take_transmitted(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state.transmitted)
    }

    /// Moves what the guest has written since the last call to the end of `sink`.
    pub fn drain_transmitted(&mut self, sink: &mut Vec<u8>) {
        sink.append(&mut self.state.transmitted);
    }

    /// Never.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}

    /// The state of the console.
    pub fn save(&self) -> State {
        let DebugConsole { state } = self;
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
    fn both_ports_are_one_stream() {
        let mut console = DebugConsole::new();
        assert_eq!(console.read(1, GuestNs(0)), 0xe9);
        console.write(0, b'a', GuestNs(0));
        console.write(1, b'b', GuestNs(0));
        assert_eq!(console.take_transmitted(), b"ab");
        assert_eq!(console.take_transmitted(), b"");
    }
}
