//! Receiving: which frames the guest wants, and where they go (software developer's manual, 3.2).

use super::registers::{MTA, RAH0, RAL0, RECEIVE_ADDRESSES, rctl};
use super::{E1000, Ring};
use crate::card::Surroundings;
use dejavm_units::Gpa;

/// Status of a descriptor: done, end of the frame, no checksum was looked at.
const DD: u8 = 1 << 0;
const EOP: u8 = 1 << 1;
const IXSM: u8 = 1 << 2;

/// Shorter frames are filled up, on the wire already.
const FRAME_BYTES_MIN: usize = 60;
/// Without long frames: 1518 bytes with the check sequence, and a VLAN tag.
const SHORT_BYTES_MAX: usize = 1518;
const CHECK_BYTES: usize = 4;

impl E1000 {
    fn buffer_bytes(&self) -> usize {
        let size = 2048 >> (self.rctl >> rctl::BSIZE_SHIFT & 3);
        match self.rctl & rctl::BSEX != 0 {
            // Reserved with the largest size: as without.
            true if size < 2048 => size * 16,
            _ => size,
        }
    }

    /// Whether a frame, which has at least a header, is for the guest.
    pub(super) fn wants(&self, frame: &[u8]) -> bool {
        let Some((to, _)) = frame.split_first_chunk::<6>() else { return false };
        if frame.len() > SHORT_BYTES_MAX && self.rctl & rctl::LPE == 0 {
            return false;
        }
        if *to == [0xff; 6] && self.rctl & rctl::BAM != 0 {
            return true;
        }
        let [a, b, c, d, e, f] = *to;
        let (low, high) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0]));
        let one_of_ours = (0..RECEIVE_ADDRESSES).any(|n| {
            let valid_high = 1 << 31 | high;
            self.plain(RAL0 + 8 * n) == low && self.plain(RAH0 + 8 * n) & 0x8000_ffff == valid_high
        });
        if one_of_ours {
            return true;
        }
        if a & 1 == 0 {
            return self.rctl & rctl::UPE != 0;
        }
        if self.rctl & rctl::MPE != 0 {
            return true;
        }
        // 13.4.22: which twelve bits of the address.
        let last = u32::from(e) | u32::from(f) << 8;
        let shift = [4, 3, 2, 0][(self.rctl >> rctl::MO_SHIFT & 3) as usize];
        let hash = last >> shift & 0xfff;
        self.plain(MTA + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0
    }

    /// Moves a frame into the driver's buffers; whether there was room.
    pub(super) fn deliver(&mut self, frame: &[u8], around: &mut dyn Surroundings) -> bool {
        let mut bytes = frame.to_vec();
        bytes.resize(bytes.len().max(FRAME_BYTES_MIN), 0);
        if self.rctl & rctl::SECRC == 0 {
            bytes.resize(bytes.len() + CHECK_BYTES, 0);
        }
        let buffer = self.buffer_bytes();
        let needed = bytes.len().div_ceil(buffer);
        if self.receive.handed() < needed as u32 {
            return false;
        }
        let pieces = bytes.chunks(buffer);
        for (piece, left) in pieces.zip((0..needed).rev()) {
            let at = self.receive.descriptor(self.receive.head);
            let mut address = [0; 8];
            around.read_memory(at, &mut address);
            around.write_memory(Gpa(u64::from_le_bytes(address)), piece);
            let status = if left == 0 { DD | EOP | IXSM } else { DD };
            let [length_low, length_high] = (piece.len() as u16).to_le_bytes();
            around.write_memory(
                at.wrapping_add(8),
                &[length_low, length_high, 0, 0, status, 0, 0, 0],
            );
            self.receive.advance();
        }
        true
    }
}

/// How many descriptors the driver has handed over.
impl Ring {
    pub(super) fn handed(&self) -> u32 {
        let entries = self.entries();
        if self.head >= entries || self.tail >= entries {
            return 0;
        }
        (self.tail + entries - self.head) % entries
    }

    pub(super) fn advance(&mut self) {
        self.head = (self.head + 1) % self.entries().max(1);
    }
}
