//! The first four bytes.

/// What a checkpoint says of itself in its first four bytes, by the names in crash's `vmware_vmss.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// `0xbed2bed2`: what is usual.
    Normal,
    /// `0xbed3bed3`
    Partial,
    /// `0xbad1bad1`: a machine was resumed from it.
    Restored,
    /// `0xbad2bad2`
    NoRestore,
    /// `0xbed0bed0`, `0xbed2bed0`, `0xbad0bad0`: with sizes of 32 bits. No public source describes it whole.
    Old(u32),
}

impl Magic {
    /// The magic with this value, if it is one.
    pub fn of(value: u32) -> Option<Magic> {
        Some(match value {
            0xbed2_bed2 => Magic::Normal,
            0xbed3_bed3 => Magic::Partial,
            0xbad1_bad1 => Magic::Restored,
            0xbad2_bad2 => Magic::NoRestore,
            0xbed0_bed0 | 0xbed2_bed0 | 0xbad0_bad0 => Magic::Old(value),
            _ => return None,
        })
    }

    /// The value in the file.
    pub fn value(self) -> u32 {
        match self {
            Magic::Normal => 0xbed2_bed2,
            Magic::Partial => 0xbed3_bed3,
            Magic::Restored => 0xbad1_bad1,
            Magic::NoRestore => 0xbad2_bad2,
            Magic::Old(value) => value,
        }
    }
}
