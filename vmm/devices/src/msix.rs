//! MSI-X: interrupts as messages, each vector with an address and data that the guest chooses (PCI Local Bus Specification
//! 3.0, 6.8.2).
//!
//! A vector that is raised while it or the function is masked is pending, and is sent when it is unmasked; so is one that the
//! board has not taken yet. The pending bits are all there is between a card and the board.

use crate::RestoreError;
use crate::interrupt_message::InterruptMessage;
use crate::pci_header::PciHeader;
use serde::{Deserialize, Serialize};

/// The capability's id.
const ID: u8 = 0x11;
/// Message control: enable, function mask.
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
/// Vectors at most.
pub const VECTORS_MAX: usize = 64;
/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// Where the pending bits are in the window.
const PENDING: u64 = 0x800;
/// Bytes of the window with table and pending bits.
pub const WINDOW: u32 = 0x1000;

/// One entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Vector {
    address: u64,
    data: u32,
    masked: bool,
}

/// Everything of it that can change and is not in configuration space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    vectors: Vec<Vector>,
    pending: u64,
}

/// The table, the pending bits, and the capability.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsiX {
    // Configuration.
    capability: u8,
    // State.
    vectors: Vec<Vector>,
    pending: u64,
}

impl MsiX {
    /// Adds the capability to a header, with so many vectors in the window of base address register `bar`.
    pub fn new(header: &mut PciHeader, vectors: usize, bar: u8) -> MsiX {
        assert!((1..=VECTORS_MAX).contains(&vectors), "the pending bits are one word");
        let mut body = Vec::new();
        body.extend((vectors as u16 - 1).to_le_bytes());
        body.extend(u32::from(bar).to_le_bytes());
        body.extend((PENDING as u32 | u32::from(bar)).to_le_bytes());
        let capability = header.add_capability(ID, &body);
        header.allow(capability + 2, &(CONTROL_ENABLE | CONTROL_MASK).to_le_bytes());
        MsiX { capability, vectors: fresh(vectors), pending: 0 }
    }

    /// The reset pin.
    pub fn reset(&mut self) {
        self.vectors = fresh(self.vectors.len());
        self.pending = 0;
    }

    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// Whether the guest wants messages, and not INTA#.
    pub fn enabled(&self, header: &PciHeader) -> bool {
        header.word(self.capability + 2) & CONTROL_ENABLE != 0
    }

    /// Raises a vector. Nothing happens for one that there is not, or while messages are off.
    pub fn raise(&mut self, vector: u16, header: &PciHeader) {
        if self.enabled(header) && usize::from(vector) < self.vectors.len() {
            self.pending |= 1 << vector;
        }
    }

    /// To be told after each write to configuration space.
    pub fn configured(&mut self, header: &PciHeader) {
        if !self.enabled(header) {
            self.pending = 0;
        }
    }

    /// The next message that may be sent.
    pub fn take_message(&mut self, header: &PciHeader) -> Option<InterruptMessage> {
        if self.pending == 0 || header.word(self.capability + 2) & CONTROL_MASK != 0 {
            return None;
        }
        for (number, vector) in self.vectors.iter().enumerate() {
            if self.pending & 1 << number == 0 || vector.masked {
                continue;
            }
            self.pending &= !(1 << number);
            // A message to elsewhere is a write to memory that nobody has; it is lost.
            if let Some(message) = InterruptMessage::from_msi(vector.address, vector.data) {
                return Some(message);
            }
        }
        None
    }

    /// Reads a dword of the window; `offset` is a multiple of 4.
    pub fn read(&self, offset: u64) -> u32 {
        if offset >= PENDING {
            let pending = u128::from(self.pending) >> (8 * (offset - PENDING).min(15));
            return pending as u32;
        }
        let Some(vector) = self.vectors.get((offset / ENTRY) as usize) else { return 0 };
        match offset % ENTRY {
            0 => vector.address as u32,
            4 => (vector.address >> 32) as u32,
            8 => vector.data,
            _ => vector.masked.into(),
        }
    }

    /// Writes a dword of the window; `offset` is a multiple of 4. The pending bits are read-only.
    pub fn write(&mut self, offset: u64, value: u32) {
        let Some(vector) = self.vectors.get_mut((offset / ENTRY) as usize) else { return };
        if offset >= PENDING {
            return;
        }
        let high = vector.address & !0xffff_ffff;
        match offset % ENTRY {
            0 => vector.address = high | u64::from(value & !3),
            4 => vector.address = vector.address & 0xffff_ffff | u64::from(value) << 32,
            8 => vector.data = value,
            _ => vector.masked = value & 1 != 0,
        }
    }

    /// What can change.
    pub fn save(&self) -> State {
        let MsiX { capability: _, vectors, pending } = self;
        State { vectors: vectors.clone(), pending: *pending }
    }

    /// Becomes `state`, of a card called `chip`.
    pub fn restore(&mut self, state: State, chip: &'static str) -> Result<(), RestoreError> {
        let State { vectors, pending } = state;
        let count = self.vectors.len();
        RestoreError::unless(vectors.len() == count, chip, "msix.vectors")?;
        let aligned = vectors.iter().all(|vector| vector.address & 3 == 0);
        RestoreError::unless(aligned, chip, "msix.vectors")?;
        let possible = count == VECTORS_MAX || pending >> count == 0;
        RestoreError::unless(possible, chip, "msix.pending")?;
        self.vectors = vectors;
        self.pending = pending;
        Ok(())
    }
}

fn fresh(vectors: usize) -> Vec<Vector> {
    vec![Vector { address: 0, data: 0, masked: true }; vectors]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Space;
    use crate::pci::Width;

    fn enabled() -> (PciHeader, MsiX) {
        let mut header = PciHeader::new(1, 2, 0x01_00_00, 0).with_bar(1, Space::Memory, WINDOW);
        let msix = MsiX::new(&mut header, 3, 1);
        header.write(0x42, Width::Word, 0x8000);
        (header, msix)
    }

    #[test]
    fn a_masked_vector_waits() {
        let (mut header, mut msix) = enabled();
        msix.write(0x10, 0xfee0_1000);
        msix.write(0x18, 0x0041);
        msix.raise(1, &header);
        assert_eq!(msix.take_message(&header), None, "vectors are masked after reset");
        assert_eq!(msix.read(0x800), 0b10);
        msix.write(0x1c, 0);
        header.write(0x42, Width::Word, 0xc000);
        assert_eq!(msix.take_message(&header), None, "all are masked");
        header.write(0x42, Width::Word, 0x8000);
        let message = msix.take_message(&header).unwrap();
        assert_eq!((message.dest, message.vector), (1, 0x41));
        assert_eq!((msix.take_message(&header), msix.read(0x800)), (None, 0));
    }

    #[test]
    fn what_is_raised_while_messages_are_off_is_lost() {
        let (mut header, mut msix) = enabled();
        msix.raise(0, &header);
        header.write(0x42, Width::Word, 0);
        msix.configured(&header);
        msix.raise(2, &header);
        assert_eq!(msix.read(0x800), 0);
        msix.raise(99, &header);
    }
}
