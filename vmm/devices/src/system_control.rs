//! System control port A (0x92) and the reset control register (0xcf9) (82371SB, "PIIX3", and PS/2
//! conventions).
//!
//! Data path: port 0x92 bit 1 is one of the two sources of the A20 gate (the i8042 is the other) and
//! its bit 0 resets the processor; 0xcf9 resets the processor or the whole machine. A reset is a
//! request that the board takes.
//!
//! Port 0xcf9 lies inside PCI's 0xcf8: the board sends byte accesses here and dword accesses there.

use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Register 0 is port 0x92, register 1 port 0xcf9.
pub const PORTS: [PortRange; 2] =
    [PortRange { first: 0x92, count: 1, reg: 0 }, PortRange { first: 0xcf9, count: 1, reg: 1 }];

const PORT_92_INIT_NOW: u8 = 1 << 0;
const PORT_92_A20: u8 = 1 << 1;
const PORT_92_WRITABLE: u8 = PORT_92_INIT_NOW | PORT_92_A20;
/// SRST: bit 2 resets everything, else the processor alone.
const RC_SYSTEM_RESET: u8 = 1 << 1;
/// RCPU: its rising edge resets.
const RC_RESET_CPU: u8 = 1 << 2;
/// Full reset (power cycle), kept for reading.
const RC_FULL_RESET: u8 = 1 << 3;
const RC_WRITABLE: u8 = RC_SYSTEM_RESET | RC_RESET_CPU | RC_FULL_RESET;

/// What a guest asked to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ResetKind {
    /// The processor (INIT); chips and memory keep their state.
    Processor,
    /// The machine: processors and chips.
    System,
}

/// Everything of the ports that can change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    port_92: u8,
    reset_control: u8,
    requested: Option<ResetKind>,
}

/// Ports 0x92 and 0xcf9.
#[derive(Clone, Debug, Default)]
pub struct SystemControl {
    // Configuration: none.
    // Glue: none.
    state: State,
}

// Guest side.
impl SystemControl {
    /// The ports at power-on, all bits zero.
    pub fn new() -> SystemControl {
        SystemControl::default()
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.state = State::default();
    }

    /// Reads register `reg` (see [`PORTS`]).
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        match reg {
            0 => self.state.port_92,
            1 => self.state.reset_control,
            _ => 0xff,
        }
    }

    /// Writes register `reg` (see [`PORTS`]).
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        let state = &mut self.state;
        match reg {
            0 => {
                let rising = value & !state.port_92;
                state.port_92 = value & PORT_92_WRITABLE;
                if rising & PORT_92_INIT_NOW != 0 {
                    state.requested.get_or_insert(ResetKind::Processor);
                }
            }
            1 => {
                let rising = value & !state.reset_control;
                state.reset_control = value & RC_WRITABLE;
                if rising & RC_RESET_CPU != 0 {
                    state.requested = Some(if value & RC_SYSTEM_RESET != 0 {
                        ResetKind::System
                    } else {
                        state.requested.unwrap_or(ResetKind::Processor)
                    });
                }
            }
            _ => {}
        }
    }
}

// Board side.
impl SystemControl {
    /// This port's wish for the A20 gate. The line is high if this or the i8042 wants it high.
    pub fn a20(&self) -> bool {
        self.state.port_92 & PORT_92_A20 != 0
    }

    /// The reset that was asked for since the last call.
    pub fn take_reset(&mut self) -> Option<ResetKind> {
        self.state.requested.take()
    }

    /// Never.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}

    /// The state of the ports.
    pub fn save(&self) -> State {
        let SystemControl { state } = self;
        state.clone()
    }

    /// Becomes `state`. Refuses bits that do not exist.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let check = |valid, field| RestoreError::unless(valid, "system control", field);
        check(state.port_92 & !PORT_92_WRITABLE == 0, "port_92")?;
        check(state.reset_control & !RC_WRITABLE == 0, "reset_control")?;
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);

    #[test]
    fn fast_a20_and_fast_reset() {
        let mut ports = SystemControl::new();
        ports.write(0, 0x02, T);
        assert!(ports.a20());
        assert_eq!(ports.read(0, T), 0x02);
        assert_eq!(ports.take_reset(), None);
        ports.write(0, 0x03, T);
        assert_eq!(ports.take_reset(), Some(ResetKind::Processor));
        ports.write(0, 0x03, T);
        assert_eq!(ports.take_reset(), None, "only the edge resets");
    }

    /// What Linux does for `reboot=pci`: mode first, then the edge.
    #[test]
    fn reset_control() {
        let mut ports = SystemControl::new();
        ports.write(1, 0x02, T);
        assert_eq!(ports.take_reset(), None);
        ports.write(1, 0x06, T);
        assert_eq!(ports.take_reset(), Some(ResetKind::System));
        ports.reset();
        ports.write(1, 0x04, T);
        assert_eq!(ports.take_reset(), Some(ResetKind::Processor));
    }
}
