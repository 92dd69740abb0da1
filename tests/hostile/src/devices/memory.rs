//! What a card reaches: memory from address 0 on, and four drives that are one. Whatever lies elsewhere is nobody's.

use dejavm_devices::card::{HostFailed, Surroundings};
use dejavm_units::Gpa;
use std::cell::Cell;

/// Bytes of memory.
pub const MEMORY_BYTES: usize = 64 << 10;
/// Bytes of the drive: disks of 512-byte sectors and discs of 2048-byte sectors fit.
pub const DRIVE_BYTES: usize = 64 << 10;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    drive: Vec<u8>,
    /// Bytes that were moved: the work that a card made.
    pub(super) moved: u64,
    /// Bytes of memory that were read.
    read: Cell<u64>,
    /// Hash over the frames that were sent, in order.
    sent: u64,
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory {
            bytes: vec![0; MEMORY_BYTES],
            drive: vec![0xd5; DRIVE_BYTES],
            moved: 0,
            read: Cell::new(0),
            sent: 0,
        }
    }

    /// What a card had to do, in bytes.
    pub(super) fn work(&self) -> u64 {
        self.moved + self.read.get()
    }

    /// The guest reads 16 bits.
    pub(super) fn word(&self, at: u16) -> u16 {
        let at = usize::from(at);
        self.bytes.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The guest writes.
    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        for (index, byte) in (0..).zip(bytes) {
            let at = usize::try_from(at.wrapping_add(index)).unwrap_or(usize::MAX);
            if let Some(to) = self.bytes.get_mut(at) {
                *to = *byte;
            }
        }
    }

    /// Where a drive's bytes are. The contract promises that they are there.
    fn range(offset: u64, bytes: usize) -> std::ops::Range<usize> {
        let end = offset.checked_add(bytes as u64).expect("no drive is so large");
        assert!(end <= DRIVE_BYTES as u64, "{offset:#x} to {end:#x} are beyond the drive's end");
        offset as usize..end as usize
    }
}

impl Surroundings for Memory {
    fn read_memory(&self, at: Gpa, into: &mut [u8]) {
        let there = self.bytes.get(usize::try_from(at.0).unwrap_or(usize::MAX)..).unwrap_or(&[]);
        let bytes = there.len().min(into.len());
        into[..bytes].copy_from_slice(&there[..bytes]);
        into[bytes..].fill(0xff);
        self.read.set(self.read.get() + into.len() as u64);
    }

    fn write_memory(&mut self, at: Gpa, from: &[u8]) {
        self.moved += from.len() as u64;
        let at = usize::try_from(at.0).unwrap_or(usize::MAX);
        let there = self.bytes.get_mut(at..).unwrap_or(&mut []);
        let bytes = there.len().min(from.len());
        there[..bytes].copy_from_slice(&from[..bytes]);
    }

    fn drive_bytes(&self, _drive: usize) -> Option<u64> {
        Some(DRIVE_BYTES as u64)
    }

    fn read_drive(
        &mut self,
        _drive: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), HostFailed> {
        self.moved += into.len() as u64;
        into.copy_from_slice(&self.drive[Memory::range(offset, into.len())]);
        Ok(())
    }

    fn write_drive(&mut self, _drive: usize, offset: u64, from: &[u8]) -> Result<(), HostFailed> {
        self.moved += from.len() as u64;
        self.drive[Memory::range(offset, from.len())].copy_from_slice(from);
        Ok(())
    }

    fn send_frame(&mut self, frame: Vec<u8>) {
        self.moved += frame.len() as u64;
        let sum = frame.iter().fold(self.sent, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.sent = sum.rotate_left(1) ^ frame.len() as u64;
    }
}
