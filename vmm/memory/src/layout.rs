//! Where RAM lies in the guest's physical address space.
#![forbid(unsafe_code)]

use dejavm_units::Gpa;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The legacy VGA window: addresses that never reach RAM on a PC.
pub const VGA_WINDOW: Range<u64> = 0xa_0000..0xc_0000;
/// RAM below 4 GiB ends here at the latest; PCI, the APICs and flash live above.
const LOW_RAM_MAX: u64 = 0xc000_0000;
const HIGH_RAM_BASE: u64 = 1 << 32;

/// The two pieces of RAM of a PC: below the PCI hole, and above 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamLayout {
    low_bytes: u64,
    high_bytes: u64,
}

/// A RAM size that cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RamLayoutError {
    /// Smaller than a PC can have.
    #[error("{0} bytes of RAM are too few: a guest needs at least 2 MiB")]
    TooSmall(u64),
    /// More than the board's address map carries.
    #[error("{0} bytes of RAM are too many: at most 64 GiB fit the address map")]
    TooLarge(u64),
    /// Not a whole number of MiB.
    #[error("{0} bytes of RAM are not a whole number of MiB")]
    Unaligned(u64),
}

impl RamLayout {
    /// Lays out `bytes` of RAM (2 MiB to 64 GiB, whole MiB).
    pub fn new(bytes: u64) -> Result<RamLayout, RamLayoutError> {
        if bytes < 2 << 20 {
            return Err(RamLayoutError::TooSmall(bytes));
        }
        if bytes > 64 << 30 {
            return Err(RamLayoutError::TooLarge(bytes));
        }
        if !bytes.is_multiple_of(1 << 20) {
            return Err(RamLayoutError::Unaligned(bytes));
        }
        let low_bytes = bytes.min(LOW_RAM_MAX);
        Ok(RamLayout { low_bytes, high_bytes: bytes - low_bytes })
    }

    /// Total bytes of RAM, the part hidden behind the VGA window included.
    pub fn total_bytes(self) -> u64 {
        self.low_bytes + self.high_bytes
    }

    /// Bytes of RAM below 4 GiB, from address 0.
    pub fn low_bytes(self) -> u64 {
        self.low_bytes
    }

    /// Bytes of RAM from 4 GiB upward.
    pub fn high_bytes(self) -> u64 {
        self.high_bytes
    }

    /// Byte offset of `gpa` inside the RAM file, or `None` where no RAM answers.
    #[inline]
    pub fn offset(self, gpa: Gpa) -> Option<u64> {
        let address = gpa.0;
        if address < self.low_bytes {
            if VGA_WINDOW.contains(&address) { None } else { Some(address) }
        } else if address >= HIGH_RAM_BASE && address - HIGH_RAM_BASE < self.high_bytes {
            Some(address - HIGH_RAM_BASE + self.low_bytes)
        } else {
            None
        }
    }

    /// The address of the byte at `offset` of the RAM file: the inverse of [`RamLayout::offset`].
    #[inline]
    pub fn gpa(self, offset: u64) -> Gpa {
        if offset < self.low_bytes {
            Gpa(offset)
        } else {
            Gpa(offset - self.low_bytes + HIGH_RAM_BASE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_addresses_are_inverse_and_the_holes_are_holes() {
        let layout = RamLayout::new(5 << 30).unwrap();
        assert_eq!(layout.offset(Gpa(0x1234)), Some(0x1234));
        assert_eq!(layout.offset(Gpa(0xb_8000)), None);
        assert_eq!(layout.offset(Gpa(0xbfff_ffff)), Some(0xbfff_ffff));
        assert_eq!(layout.offset(Gpa(0xc000_0000)), None);
        assert_eq!(layout.offset(Gpa(0xfee0_0000)), None);
        assert_eq!(layout.offset(Gpa(0x1_0000_0000)), Some(0xc000_0000));
        assert_eq!(layout.offset(Gpa(0x1_7fff_ffff)), Some((5 << 30) - 1));
        assert_eq!(layout.offset(Gpa(0x1_8000_0000)), None);
        assert_eq!(layout.offset(Gpa(u64::MAX)), None);
        for gpa in [0u64, 0xbfff_f000, 0x1_0000_0000, 0x1_7fff_f000] {
            assert_eq!(layout.gpa(layout.offset(Gpa(gpa)).unwrap()), Gpa(gpa));
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        assert_eq!(RamLayout::new(0), Err(RamLayoutError::TooSmall(0)));
        assert_eq!(RamLayout::new(u64::MAX), Err(RamLayoutError::TooLarge(u64::MAX)));
        assert_eq!(
            RamLayout::new((4 << 20) + 4096),
            Err(RamLayoutError::Unaligned((4 << 20) + 4096))
        );
    }
}
