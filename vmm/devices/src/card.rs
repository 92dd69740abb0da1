//! The contract between the board and a card: a function on the PCI bus with registers of its own, interrupts, and access to
//! guest memory and to drives.
//!
//! * *Configuration*: the board sends accesses by mechanism 1 that are for the card's function to `config_read` and
//!   `config_write`.
//! * *Registers*: `windows` says where the guest has placed them (or where they always are); the board asks again after each
//!   write to configuration space and after `restore`. Where RAM answers, no window does.
//! * *Interrupts*: `interrupt` is the level of INTA#, `isa_lines` of lines that bypass PCI; `take_message` hands out messages
//!   (MSI-X) until there is none. The board asks after each access, each `service` and each input.
//! * *Time and memory*: a card never touches memory or a drive while an instruction executes. A guest's access makes it set a
//!   `deadline`; when that is reached the processors stand still between two instructions, and the board calls `service` with
//!   all that the card can reach. So whatever a card does happens at a position that follows from guest time alone. After
//!   `service(now)` the deadline is later than `now`. One call does a bounded amount of work, whatever the guest has prepared:
//!   what is left gets a later deadline.
//! * *State*: as with all chips, see the crate's documentation; memory and drives are not in it.

use crate::interrupt_message::InterruptMessage;
use crate::pci::Width;
use dejavm_units::{Gpa, GuestNs};

/// Which addresses a window is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Guest physical addresses.
    Memory,
    /// I/O ports.
    Ports,
}

/// Where a card's registers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Memory or ports.
    pub space: Space,
    /// First address or port.
    pub first: u64,
    /// Number of bytes or ports.
    pub bytes: u64,
    /// Which of the card's sets of registers this is: what `read` and `write` are told.
    pub region: u8,
}

/// The host could not do what the card needed: the machine ends at once, and nothing that the card does afterwards matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostFailed;

/// What a card reaches while the processors stand still.
///
/// Memory is that of the guest as a bus master sees it. Where no RAM is, reads give ones and writes are lost; a range may
/// begin in RAM and end outside.
pub trait Surroundings {
    /// Reads memory.
    fn read_memory(&self, at: Gpa, into: &mut [u8]);
    /// Writes memory.
    fn write_memory(&mut self, at: Gpa, from: &[u8]);

    /// Bytes of the card's drive `drive` (0 for a card with one); `None` if there is no such drive.
    fn drive_bytes(&self, drive: usize) -> Option<u64>;
    /// Reads a drive. The range lies within it.
    fn read_drive(&mut self, drive: usize, offset: u64, into: &mut [u8]) -> Result<(), HostFailed>;
    /// Writes a drive. The range lies within it.
    fn write_drive(&mut self, drive: usize, offset: u64, from: &[u8]) -> Result<(), HostFailed>;

    /// Sends a frame to the network that the card is on.
    fn send_frame(&mut self, frame: Vec<u8>);
}

impl dyn Surroundings + '_ {
    /// Reads 16 bits, little-endian.
    pub fn read_u16(&self, at: Gpa) -> u16 {
        let mut bytes = [0; 2];
        self.read_memory(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Copies from a drive to memory.
    pub fn drive_to_memory(
        &mut self,
        drive: usize,
        mut offset: u64,
        mut at: Gpa,
        bytes: u32,
    ) -> Result<(), HostFailed> {
        let mut piece = vec![0; (bytes as usize).min(PIECE)];
        let mut left = bytes as usize;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE)];
            self.read_drive(drive, offset, piece)?;
            self.write_memory(at, piece);
            left -= piece.len();
            offset += piece.len() as u64;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Copies from memory to a drive.
    pub fn memory_to_drive(
        &mut self,
        drive: usize,
        mut offset: u64,
        mut at: Gpa,
        bytes: u32,
    ) -> Result<(), HostFailed> {
        let mut piece = vec![0; (bytes as usize).min(PIECE)];
        let mut left = bytes as usize;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE)];
            self.read_memory(at, piece);
            self.write_drive(drive, offset, piece)?;
            left -= piece.len();
            offset += piece.len() as u64;
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }
}

/// Bytes that are copied at a time.
const PIECE: usize = 128 << 10;

/// A function on the PCI bus. See the module's documentation.
pub trait Card {
    /// Reads `width` at `offset` of configuration space; never beyond its end.
    fn config_read(&mut self, offset: u8, width: Width, now: GuestNs) -> u32;
    /// Writes `width` at `offset` of configuration space; never beyond its end.
    fn config_write(&mut self, offset: u8, width: Width, value: u32, now: GuestNs);
    /// Where the registers are now. An access that is not wholly in one window reaches none.
    fn windows(&self) -> Vec<Window>;
    /// Reads `size` (1, 2, 4 or 8) bytes at `offset` of a window with this `region`.
    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64;
    /// Writes `size` (1, 2, 4 or 8) bytes at `offset` of a window with this `region`.
    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs);
    /// Whether INTA# is asserted.
    fn interrupt(&self) -> bool {
        false
    }
    /// ISA interrupt lines that the card drives high, bit n for line n.
    fn isa_lines(&self) -> u16 {
        0
    }
    /// The next interrupt message; `None`: there is none now.
    fn take_message(&mut self) -> Option<InterruptMessage> {
        None
    }
    /// When the card wants `service`.
    fn deadline(&self) -> Option<GuestNs>;
    /// Does what is due at `now`.
    fn service(&mut self, now: GuestNs, around: &mut dyn Surroundings);
    /// The reset pin.
    fn reset(&mut self);
}
