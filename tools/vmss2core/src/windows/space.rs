//! Looking up linear addresses: one address space, by the root of its page tables (SDM vol. 3A, chapter 4).

use crate::guest::Guest;
use vmss::Vcpu;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const CR0_PG: u64 = 1 << 31;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE: u64 = 4096;

/// How page tables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Two levels of 32-bit entries, with 4 MiB pages or without.
    Legacy {
        /// CR4.PSE
        large: bool,
    },
    /// PAE: three levels of 64-bit entries.
    Pae,
    /// Long mode, with so many levels.
    Long {
        /// 4 or 5
        levels: u32,
    },
}

impl Mode {
    /// Of a processor; none while it has no paging.
    pub fn of(vcpu: &Vcpu) -> Option<Mode> {
        let cr4 = vcpu.cr[4];
        if vcpu.cr[0] & CR0_PG == 0 {
            None
        } else if vcpu.is_long_mode() {
            Some(Mode::Long { levels: if cr4 & CR4_LA57 != 0 { 5 } else { 4 } })
        } else if cr4 & CR4_PAE != 0 {
            Some(Mode::Pae)
        } else {
            Some(Mode::Legacy { large: cr4 & CR4_PSE != 0 })
        }
    }

    /// Whether it is that of a 64-bit system.
    pub fn is_64(self) -> bool {
        matches!(self, Mode::Long { .. })
    }

    /// The bits of CR3 that lead to the root.
    pub fn root(self, cr3: u64) -> u64 {
        match self {
            Mode::Legacy { .. } => cr3 & 0xffff_f000,
            Mode::Pae => cr3 & 0xffff_ffe0,
            Mode::Long { .. } => cr3 & ADDRESS,
        }
    }

    /// For each level from the root, log2 of the bytes that an entry leads to, and of the entries.
    pub fn levels(self) -> &'static [(u32, u32)] {
        const LONG: [(u32, u32); 5] = [(48, 9), (39, 9), (30, 9), (21, 9), (12, 9)];
        match self {
            Mode::Legacy { .. } => &[(22, 10), (12, 10)],
            Mode::Pae => &[(30, 2), (21, 9), (12, 9)],
            Mode::Long { levels: 5 } => &LONG,
            Mode::Long { .. } => &LONG[1..],
        }
    }

    /// Bytes of an entry.
    pub fn entry_bytes(self) -> u64 {
        if matches!(self, Mode::Legacy { .. }) { 4 } else { 8 }
    }

    /// What an entry of a level leads to.
    pub fn follow(self, shift: u32, entry: u64) -> Next {
        let has_pages = match self {
            Mode::Legacy { large } => shift == 12 || large,
            Mode::Pae => shift <= 21,
            Mode::Long { .. } => shift <= 30,
        };
        if entry & PRESENT == 0 {
            Next::Nothing
        } else if shift == 12 || has_pages && entry & LARGE != 0 {
            let address = match self {
                // PSE-36: bits 39:32 are in 20:13.
                Mode::Legacy { .. } if shift == 22 => {
                    entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
                }
                Mode::Legacy { .. } => entry & 0xffff_f000,
                Mode::Pae | Mode::Long { .. } => entry & ADDRESS & !((1 << shift) - 1),
            };
            Next::Page(address)
        } else {
            Next::Table(if self.entry_bytes() == 4 { entry & 0xffff_f000 } else { entry & ADDRESS })
        }
    }
}

/// What an entry of a page table leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is not present.
    Nothing,
    /// A page, with its physical address.
    Page(u64),
    /// A table of the next level, with its physical address.
    Table(u64),
}

/// An address space of the guest.
#[derive(Clone, Copy)]
pub struct Space<'a> {
    guest: &'a Guest,
    /// How its tables are read.
    pub mode: Mode,
    /// Physical address of the first table.
    pub root: u64,
}

impl<'a> Space<'a> {
    /// The address space that a value of CR3 means.
    pub fn new(guest: &'a Guest, mode: Mode, cr3: u64) -> Space<'a> {
        Space { guest, mode, root: mode.root(cr3) }
    }

    /// Where a linear address leads.
    pub fn physical(&self, linear: u64) -> Option<u64> {
        let entry_bytes = self.mode.entry_bytes();
        let mut table = self.root;
        for &(shift, bits) in self.mode.levels() {
            let index = linear >> shift & ((1 << bits) - 1);
            let mut entry = [0; 8];
            let part = &mut entry[..entry_bytes as usize];
            self.guest.memory.read(table.checked_add(index * entry_bytes)?, part).ok()?;
            match self.mode.follow(shift, u64::from_le_bytes(entry)) {
                Next::Nothing => return None,
                Next::Page(page) => return Some(page | linear & ((1 << shift) - 1)),
                Next::Table(next) => table = next,
            }
        }
        None
    }

    /// Reads from a linear address, if all of it leads to memory.
    pub fn read(&self, linear: u64, into: &mut [u8]) -> bool {
        let (mut linear, mut into) = (linear, into);
        while !into.is_empty() {
            let count = ((PAGE - linear % PAGE) as usize).min(into.len());
            let (now, rest) = into.split_at_mut(count);
            let Some(physical) = self.physical(linear) else { return false };
            if self.guest.memory.read(physical, now).is_err() {
                return false;
            }
            let Some(next) = self.wrap(linear.wrapping_add(count as u64)) else { return false };
            (linear, into) = (next, rest);
        }
        true
    }

    /// So many bytes from a linear address.
    pub fn bytes<const N: usize>(&self, linear: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(linear, &mut bytes).then_some(bytes)
    }

    /// 16 bits from a linear address.
    pub fn half(&self, linear: u64) -> Option<u16> {
        self.bytes(linear).map(u16::from_le_bytes)
    }

    /// 32 bits from a linear address.
    pub fn word(&self, linear: u64) -> Option<u32> {
        self.bytes(linear).map(u32::from_le_bytes)
    }

    /// 64 bits from a linear address.
    pub fn long(&self, linear: u64) -> Option<u64> {
        self.bytes(linear).map(u64::from_le_bytes)
    }

    /// A pointer of the system from a linear address.
    pub fn pointer(&self, linear: u64) -> Option<u64> {
        if self.mode.is_64() { self.long(linear) } else { self.word(linear).map(u64::from) }
    }

    /// Bytes of a pointer.
    pub fn pointer_bytes(&self) -> u64 {
        if self.mode.is_64() { 8 } else { 4 }
    }

    /// An address as this system has it, out of a structure that keeps it in 64 bits: 32-bit kernels extend its sign.
    pub fn address(&self, wide: u64) -> u64 {
        if self.mode.is_64() { wide } else { wide & 0xffff_ffff }
    }

    /// Whether an address is in the kernel's half.
    pub fn is_kernel(&self, linear: u64) -> bool {
        match self.mode {
            Mode::Long { .. } => linear >= 0xffff_8000_0000_0000,
            Mode::Legacy { .. } | Mode::Pae => (0x8000_0000..1 << 32).contains(&linear),
        }
    }

    /// The address itself, unless it lies behind the last.
    fn wrap(&self, linear: u64) -> Option<u64> {
        (self.mode.is_64() || linear <= 1 << 32).then_some(linear)
    }
}
