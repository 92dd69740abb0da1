//! The guest's memory by linear addresses of one address space.

use crate::guest::Guest;
use dejavm_linux::{GuestView, Paging};
use dejavm_units::{Gpa, Gva};

const PAGE: u64 = 4096;

/// An address space of the guest.
#[derive(Clone, Copy)]
pub struct Space<'a> {
    guest: &'a Guest,
    /// Its page tables.
    pub tables: dejavm_linux::Space,
}

impl<'a> Space<'a> {
    /// The address space that a value of CR3 means.
    pub fn new(guest: &'a Guest, paging: Paging, cr3: u64) -> Space<'a> {
        Space { guest, tables: dejavm_linux::Space { root: paging.root(cr3), paging } }
    }

    /// Physical address of the first table.
    pub fn root(&self) -> u64 {
        self.tables.root.0
    }

    /// Whether it is that of a 64-bit system.
    pub fn is_64(&self) -> bool {
        is_64(self.tables.paging)
    }

    /// Where a linear address leads.
    pub fn physical(&self, linear: u64) -> Option<u64> {
        self.tables.translate(self.guest, Gva(linear)).map(|physical| physical.0)
    }

    /// Reads from a linear address, if all of it leads to memory.
    pub fn read(&self, linear: u64, into: &mut [u8]) -> bool {
        let (mut linear, mut into) = (linear, into);
        while !into.is_empty() {
            let count = ((PAGE - linear % PAGE) as usize).min(into.len());
            let (now, rest) = into.split_at_mut(count);
            let Some(physical) = self.physical(linear) else { return false };
            if !self.guest.read_physical(Gpa(physical), now) {
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
        if self.is_64() { self.long(linear) } else { self.word(linear).map(u64::from) }
    }

    /// Bytes of a pointer.
    pub fn pointer_bytes(&self) -> u64 {
        if self.is_64() { 8 } else { 4 }
    }

    /// An address as this system has it, out of a structure that keeps it in 64 bits: 32-bit kernels extend its sign.
    pub fn address(&self, wide: u64) -> u64 {
        if self.is_64() { wide } else { wide & 0xffff_ffff }
    }

    /// Whether an address is in the kernel's half.
    pub fn is_kernel(&self, linear: u64) -> bool {
        match self.is_64() {
            true => linear >= 0xffff_8000_0000_0000,
            false => (0x8000_0000..1 << 32).contains(&linear),
        }
    }

    /// The address itself, unless it lies behind the last.
    fn wrap(&self, linear: u64) -> Option<u64> {
        (self.is_64() || linear <= 1 << 32).then_some(linear)
    }
}

/// Whether page tables are those of a 64-bit system.
pub fn is_64(paging: Paging) -> bool {
    match paging {
        Paging::TwoLevel | Paging::Pae => false,
        Paging::FourLevel | Paging::FiveLevel => true,
    }
}
