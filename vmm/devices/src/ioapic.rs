//! Intel 82093AA IO-APIC (datasheet 290566-001).
//!
//! Data path: a pin that is asserted, and not masked, becomes a message by its redirection entry. A
//! level-triggered pin then waits (Remote IRR) until the end of its vector is broadcast.
//!
//! The board polls `take_message` after each change of a line, guest write and end of interrupt.
//!
//! Decided where documents leave room:
//! * `set_line` speaks of "asserted", so the polarity bit is stored and has no effect, as in other
//!   virtual machines: what firmware tables say of polarity is about wires that are not there.
//! * An edge on a masked pin is lost, as the datasheet has it.
//! * Writing a redirection entry as edge-triggered clears its Remote IRR; Linux relies on it.

use crate::RestoreError;
use crate::interrupt_message::{DeliveryMode, DestinationMode, InterruptMessage, TriggerMode};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Number of input pins.
pub const PINS: usize = 24;
/// Where a PC has its first IO-APIC: guest physical address.
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// Size of the register window, in bytes.
pub const WINDOW_SIZE: u64 = 0x1000;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;
/// Version 0x11, highest entry 23.
const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;

const ENTRY_VECTOR: u64 = 0xff;
const ENTRY_DELIVERY_MODE_SHIFT: u32 = 8;
const ENTRY_LOGICAL: u64 = 1 << 11;
const ENTRY_DELIVERY_STATUS: u64 = 1 << 12;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;
const ENTRY_DEST_SHIFT: u32 = 56;
/// Vector to mask bit, and the destination; the rest is reserved.
const ENTRY_BITS: u64 = 0xff00_0000_0001_ffff;

/// Everything of the chip that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The four bits of the identification register.
    id: u8,
    /// IOREGSEL.
    selected: u8,
    redirection: [u64; PINS],
    /// Levels of the pins, one bit each.
    lines: u32,
    /// Edge-triggered pins whose message has not been taken.
    edges: u32,
}

/// The IO-APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    // Configuration.
    id: u8,
    // Glue: none.
    state: State,
}

// Guest side.
impl IoApic {
    /// The chip at power-on, all pins masked, with identification `id` (0..16).
    pub fn new(id: u8) -> IoApic {
        assert!(id < 16, "an IO-APIC id has four bits");
        let redirection = [ENTRY_MASKED; PINS];
        IoApic { id, state: State { id, selected: 0, redirection, lines: 0, edges: 0 } }
    }

    /// The reset pin. Line levels are the devices' and stay.
    pub fn reset(&mut self) {
        let lines = self.state.lines;
        *self = IoApic::new(self.id);
        self.state.lines = lines;
    }

    /// Reads the 32 bits at `offset` from the base; zero where nothing is.
    pub fn read(&mut self, offset: u64, _now: GuestNs) -> u32 {
        match offset {
            IOREGSEL => u32::from(self.state.selected),
            IOWIN => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes the 32 bits at `offset` from the base.
    pub fn write(&mut self, offset: u64, value: u32, _now: GuestNs) {
        match offset {
            IOREGSEL => self.state.selected = value as u8,
            IOWIN => self.write_selected(value),
            _ => {}
        }
    }

    /// The redirection entry that the selected register is half of, and whether it is the high half.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let half = self.state.selected.checked_sub(IOREDTBL)?;
        let pin = usize::from(half / 2);
        (pin < PINS).then_some((pin, half % 2 == 1))
    }

    fn read_selected(&self) -> u32 {
        match self.state.selected {
            // The arbitration id follows the id (datasheet, 3.2.3).
            IOAPICID | IOAPICARB => u32::from(self.state.id) << 24,
            IOAPICVER => VERSION,
            _ => match self.selected_entry() {
                Some((pin, false)) => self.state.redirection[pin] as u32,
                Some((pin, true)) => (self.state.redirection[pin] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.state.selected == IOAPICID {
            self.state.id = (value >> 24) as u8 & 0xf;
        }
        let Some((pin, high)) = self.selected_entry() else { return };
        let entry = &mut self.state.redirection[pin];
        let written = if high {
            *entry & 0xffff_ffff | u64::from(value) << 32
        } else {
            *entry & !0xffff_ffff | u64::from(value)
        };
        let read_only = ENTRY_DELIVERY_STATUS | ENTRY_REMOTE_IRR;
        *entry = (written & !read_only | *entry & ENTRY_REMOTE_IRR) & ENTRY_BITS;
        if *entry & ENTRY_LEVEL == 0 {
            *entry &= !ENTRY_REMOTE_IRR;
        } else {
            self.state.edges &= !(1 << pin);
        }
    }
}

// Board side.
impl IoApic {
    /// Sets the level of `pin` (0..24); `true` is asserted.
    pub fn set_line(&mut self, pin: u8, level: bool) {
        assert!(usize::from(pin) < PINS, "the IO-APIC has no pin {pin}");
        let bit = 1 << pin;
        let rising = level && self.state.lines & bit == 0;
        if level {
            self.state.lines |= bit;
        } else {
            self.state.lines &= !bit;
        }
        let entry = self.state.redirection[usize::from(pin)];
        if rising && entry & (ENTRY_LEVEL | ENTRY_MASKED) == 0 {
            self.state.edges |= bit;
        }
    }

    /// The next message to deliver, lowest pin first. A level-triggered pin has then been answered
    /// until the end of its interrupt.
    pub fn take_message(&mut self) -> Option<InterruptMessage> {
        // Most calls find nothing on any line.
        if self.state.lines | self.state.edges == 0 {
            return None;
        }
        (0..PINS).find_map(|pin| self.take_message_of(pin))
    }

    fn take_message_of(&mut self, pin: usize) -> Option<InterruptMessage> {
        let State { redirection, lines, edges, .. } = &mut self.state;
        let entry = &mut redirection[pin];
        let bit = 1 << pin;
        let level = *entry & ENTRY_LEVEL != 0;
        let requested = if level {
            *lines & bit != 0 && *entry & ENTRY_REMOTE_IRR == 0
        } else {
            *edges & bit != 0
        };
        if !requested || *entry & ENTRY_MASKED != 0 {
            return None;
        }
        *edges &= !bit;
        let delivery_mode = DeliveryMode::from_bits((*entry >> ENTRY_DELIVERY_MODE_SHIFT) as u8)?;
        if level {
            *entry |= ENTRY_REMOTE_IRR;
        }
        let logical = *entry & ENTRY_LOGICAL != 0;
        Some(InterruptMessage {
            dest: (*entry >> ENTRY_DEST_SHIFT) as u8,
            dest_mode: if logical { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery_mode,
            vector: (*entry & ENTRY_VECTOR) as u8,
            trigger: if level { TriggerMode::Level } else { TriggerMode::Edge },
        })
    }

    /// Whether a pin's signal would become an NMI: it wakes a processor that takes no other interrupts.
    pub fn makes_nmis(&self) -> bool {
        self.state.redirection.iter().any(|entry| {
            let mode = DeliveryMode::from_bits((entry >> ENTRY_DELIVERY_MODE_SHIFT) as u8);
            entry & ENTRY_MASKED == 0 && mode == Some(DeliveryMode::Nmi)
        })
    }

    /// A local APIC has broadcast the end of `vector`: its level-triggered pins may ask again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.state.redirection {
            if *entry & ENTRY_VECTOR == u64::from(vector) && *entry & ENTRY_LEVEL != 0 {
                *entry &= !ENTRY_REMOTE_IRR;
            }
        }
    }

    /// Never: the chip changes only when something is done to it.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}
}

mod save_restore {
    use super::*;

    impl IoApic {
        /// The state of the chip.
        pub fn save(&self) -> State {
            let IoApic { id: _, state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses pins and bits that do not exist.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the IO-APIC", field);
            check(state.id < 16, "id")?;
            check(state.lines >> PINS == 0, "lines")?;
            check(state.edges >> PINS == 0, "edges")?;
            let entry_valid = |&entry: &u64| {
                entry & (!ENTRY_BITS | ENTRY_DELIVERY_STATUS) == 0
                    && (entry & ENTRY_LEVEL != 0 || entry & ENTRY_REMOTE_IRR == 0)
            };
            check(state.redirection.iter().all(entry_valid), "redirection")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);

    fn select_write(ioapic: &mut IoApic, register: u32, value: u32) {
        ioapic.write(0x00, register, T);
        ioapic.write(0x10, value, T);
    }

    fn select_read(ioapic: &mut IoApic, register: u32) -> u32 {
        ioapic.write(0x00, register, T);
        ioapic.read(0x10, T)
    }

    fn route(ioapic: &mut IoApic, pin: u32, low: u32, dest: u32) {
        select_write(ioapic, 0x11 + 2 * pin, dest << 24);
        select_write(ioapic, 0x10 + 2 * pin, low);
    }

    #[test]
    fn identification_and_reset_values() {
        let mut ioapic = IoApic::new(2);
        assert_eq!(select_read(&mut ioapic, 0), 0x0200_0000);
        assert_eq!(select_read(&mut ioapic, 1), 0x0017_0011);
        select_write(&mut ioapic, 0, 0xff00_0000);
        assert_eq!(select_read(&mut ioapic, 0), 0x0f00_0000);
        assert_eq!(select_read(&mut ioapic, 0x10 + 46), 0x0001_0000);
        assert_eq!(select_read(&mut ioapic, 0x40), 0);
    }

    #[test]
    fn edges_become_one_message_each() {
        let mut ioapic = IoApic::new(0);
        route(&mut ioapic, 2, 0x0030, 1);
        ioapic.set_line(2, true);
        let message = ioapic.take_message().unwrap();
        assert_eq!((message.dest, message.vector), (1, 0x30));
        assert_eq!(message.dest_mode, DestinationMode::Physical);
        assert_eq!(message.delivery_mode, DeliveryMode::Fixed);
        assert_eq!(message.trigger, TriggerMode::Edge);
        assert_eq!(ioapic.take_message(), None);
        ioapic.set_line(2, true);
        assert_eq!(ioapic.take_message(), None);
        ioapic.set_line(2, false);
        ioapic.set_line(2, true);
        assert!(ioapic.take_message().is_some());
    }

    #[test]
    fn edges_on_masked_pins_are_lost_and_levels_are_not() {
        let mut ioapic = IoApic::new(0);
        route(&mut ioapic, 4, 0x1_0034, 0);
        route(&mut ioapic, 11, 0x1_803b, 0);
        ioapic.set_line(4, true);
        ioapic.set_line(11, true);
        route(&mut ioapic, 4, 0x34, 0);
        assert_eq!(ioapic.take_message(), None);
        route(&mut ioapic, 11, 0x803b, 0);
        assert_eq!(ioapic.take_message().unwrap().vector, 0x3b);
    }

    #[test]
    fn level_waits_for_the_end_of_interrupt() {
        let mut ioapic = IoApic::new(0);
        route(&mut ioapic, 10, 0x893a, 0x03);
        ioapic.set_line(10, true);
        let message = ioapic.take_message().unwrap();
        assert_eq!(message.dest_mode, DestinationMode::Logical);
        assert_eq!(message.delivery_mode, DeliveryMode::LowestPriority);
        assert_eq!(message.trigger, TriggerMode::Level);
        assert_eq!(select_read(&mut ioapic, 0x24) & 0x4000, 0x4000, "Remote IRR");
        assert_eq!(ioapic.take_message(), None);
        ioapic.end_of_interrupt(0x39);
        assert_eq!(ioapic.take_message(), None);
        ioapic.end_of_interrupt(0x3a);
        assert!(ioapic.take_message().is_some());
        ioapic.set_line(10, false);
        ioapic.end_of_interrupt(0x3a);
        assert_eq!(ioapic.take_message(), None);
    }

    #[test]
    fn rewriting_as_edge_clears_remote_irr() {
        let mut ioapic = IoApic::new(0);
        route(&mut ioapic, 9, 0x8039, 0);
        ioapic.set_line(9, true);
        ioapic.take_message().unwrap();
        route(&mut ioapic, 9, 0x1_8039, 0);
        assert_eq!(select_read(&mut ioapic, 0x22) & 0x4000, 0x4000, "read-only");
        route(&mut ioapic, 9, 0x1_0039, 0);
        route(&mut ioapic, 9, 0x8039, 0);
        assert!(ioapic.take_message().is_some());
    }
}
