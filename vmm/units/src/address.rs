//! Guest addresses.

use serde::{Deserialize, Serialize};
use std::fmt;

/// log2 of the x86 base page size.
pub const PAGE_SHIFT: u32 = 12;
/// The x86 base page size, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A guest linear ("virtual") address: after segmentation, before paging (SDM vol. 3A, 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Gva(pub u64);

/// A guest physical address: after paging, before the board decides RAM, ROM or device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Gpa(pub u64);

/// A guest physical page frame number: a [`Gpa`] divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Pfn(pub u64);

impl Gva {
    /// Offset of the byte within its 4 KiB page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
    /// The address of the page that holds the byte.
    #[inline]
    pub const fn page_base(self) -> Gva {
        Gva(self.0 & !(PAGE_SIZE - 1))
    }
}

impl Gpa {
    /// The page frame that holds the byte.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
    /// Offset of the byte within its 4 KiB page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
    /// The address `bytes` further on, wrapping at 2^64.
    #[inline]
    pub const fn wrapping_add(self, bytes: u64) -> Gpa {
        Gpa(self.0.wrapping_add(bytes))
    }
}

impl Pfn {
    /// The address of the first byte of the page.
    #[inline]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}

macro_rules! hexadecimal {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    )*};
}
hexadecimal!(Gva, Gpa, Pfn);
