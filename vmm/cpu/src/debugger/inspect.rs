//! Looking at memory by linear address: sets no accessed bits, fills no TLB, calls no device.

use super::SPACE;
use crate::cpu::Cpu;
use crate::mmu::{Access, Paging, is_canonical};
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, Gva};

/// Bits of CR3 that locate the page-directory-pointer table of PAE paging.
const PAE_TABLE: u64 = 0xffff_ffe0;

impl Cpu {
    /// The physical address that a linear one leads to, whatever the rights, in the current mode, in the
    /// address space of this CR3 base or the current one. `None` where the tables lead nowhere.
    pub fn inspect(&self, ram: &GuestRam, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        let paging = self.paging().in_space(ram, space)?;
        paging.accepts(at.0).then(|| paging.find(ram, at.0).ok()).flatten().map(|found| found.gpa)
    }

    /// Whether the next instruction could be fetched from a linear address at the current privilege
    /// level.
    pub(super) fn is_fetchable(&self, ram: &GuestRam, linear: u64) -> bool {
        self.paging().is_fetchable(ram, linear, self.cpl == 3)
    }
}

impl Paging {
    /// The same regime with the tables of another address space.
    fn in_space(mut self, ram: &GuestRam, space: Option<Gpa>) -> Option<Paging> {
        let Some(space) = space else { return Some(self) };
        if !self.on || (space.0 ^ self.cr3) & SPACE == 0 {
            return Some(self);
        }
        self.cr3 = space.0;
        if self.pae && !self.long {
            // Latched by MOV CR3 only: another space's are those in memory.
            let mut table = [0; 32];
            ram.read(self.a20(space.0 & PAE_TABLE), &mut table).ok()?;
            for (entry, bytes) in self.pdpte.iter_mut().zip(table.chunks_exact(8)) {
                *entry = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
            }
        }
        Some(self)
    }

    /// Whether there is such a linear address in the current mode.
    fn accepts(&self, linear: u64) -> bool {
        if self.long { is_canonical(linear) } else { linear <= 0xffff_ffff }
    }

    pub(super) fn is_fetchable(&self, ram: &GuestRam, linear: u64, user: bool) -> bool {
        self.accepts(linear)
            && self.find(ram, linear).is_ok_and(|found| self.allows(&found, Access::Fetch, user))
    }
}
