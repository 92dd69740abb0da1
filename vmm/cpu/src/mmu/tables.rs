//! What page tables say (SDM vol. 3A, chapter 4): 2-level, PAE and 4-level paging. Reads RAM, changes
//! nothing: the walker sets accessed and dirty bits afterwards, a debugger does not.

use super::walk::Access;
use crate::cpu::{Cpu, control};
use crate::state::{A20_OFF, CpuState};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Physical address width of every model, as CPUID leaf 0x80000008 says.
pub(crate) const PHYSICAL_BITS: u32 = 40;
/// Address bits of an entry that must be zero.
const RESERVED_ADDRESS: u64 = ADDRESS & !((1 << PHYSICAL_BITS) - 1);

/// Everything that a translation depends on beside memory.
#[derive(Clone, Copy)]
pub(crate) struct Paging {
    /// CR0.PG.
    pub(crate) on: bool,
    /// CR0.WP.
    write_protect: bool,
    /// EFER.LMA: 4-level paging.
    pub(crate) long: bool,
    /// CR4.PAE.
    pub(crate) pae: bool,
    /// CR4.PSE.
    large_pages: bool,
    /// CR4.SMEP.
    smep: bool,
    /// EFER.NXE, where entries have the bit.
    no_execute: bool,
    pub(crate) cr3: u64,
    /// The latched page-directory-pointer entries, for PAE paging outside IA-32e mode.
    pub(crate) pdpte: [u64; 4],
    a20_mask: u64,
}

/// A page-table entry met on the way.
#[derive(Clone, Copy, Default)]
pub(crate) struct Met {
    /// Where the entry lies.
    pub(crate) gpa: Gpa,
    /// What it holds.
    pub(crate) value: u64,
    /// Its level: 1 for a page table, 4 for a PML4.
    pub(crate) level: u8,
}

/// Where a linear address leads, and who may go there.
pub(crate) struct Found {
    /// The physical address of the byte asked for.
    pub(crate) gpa: Gpa,
    writable: bool,
    user: bool,
    no_execute: bool,
    entries: [Met; 4],
    used: usize,
    /// Bytes of an entry: 4 or 8.
    pub(crate) entry_size: u8,
}

impl Found {
    /// The entries used, top first; none while paging is off.
    pub(crate) fn entries(&self) -> &[Met] {
        &self.entries[..self.used]
    }
}

/// Why a linear address leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nowhere {
    /// An entry is not present.
    NotPresent,
    /// An entry has a reserved bit set.
    Reserved,
}

impl Cpu {
    /// What translations depend on now.
    pub(crate) fn paging(&self) -> Paging {
        let pae = self.cr4 & control::CR4_PAE != 0;
        Paging {
            on: self.cr0 & control::CR0_PG != 0,
            write_protect: self.cr0 & control::CR0_WP != 0,
            long: self.is_long_mode(),
            pae,
            large_pages: self.cr4 & control::CR4_PSE != 0,
            smep: self.cr4 & control::CR4_SMEP != 0,
            no_execute: pae && self.efer & control::EFER_NXE != 0,
            cr3: self.cr3,
            pdpte: self.pdpte,
            a20_mask: self.a20_mask,
        }
    }
}

impl Paging {
    /// That of registers.
    pub(crate) fn of(registers: &CpuState) -> Paging {
        let CpuState { cr0, cr3, cr4, efer, pdpte, a20, .. } = *registers;
        let pae = cr4 & control::CR4_PAE != 0;
        Paging {
            on: cr0 & control::CR0_PG != 0,
            write_protect: cr0 & control::CR0_WP != 0,
            long: efer & control::EFER_LMA != 0,
            pae,
            large_pages: cr4 & control::CR4_PSE != 0,
            smep: cr4 & control::CR4_SMEP != 0,
            no_execute: pae && efer & control::EFER_NXE != 0,
            cr3,
            pdpte,
            a20_mask: if a20 { u64::MAX } else { A20_OFF },
        }
    }

    /// Applies the A20 gate to a physical address.
    pub(crate) fn a20(&self, gpa: u64) -> Gpa {
        Gpa(gpa & self.a20_mask)
    }

    /// Follows the tables for one byte.
    pub(crate) fn find(&self, ram: &GuestRam, linear: u64) -> Result<Found, Nowhere> {
        let mut found = Found {
            gpa: Gpa(0),
            writable: true,
            user: true,
            no_execute: false,
            entries: [Met::default(); 4],
            used: 0,
            entry_size: 8,
        };
        if !self.on {
            found.gpa = self.a20(linear & 0xffff_ffff);
            return Ok(found);
        }
        let (mut level, entry_size, index_bits) = if self.long {
            (4, 8, 9)
        } else if self.pae {
            (2, 8, 9)
        } else {
            (2, 4, 10)
        };
        found.entry_size = entry_size;
        let mut table = self.cr3 & if self.pae { ADDRESS } else { 0xffff_f000 };
        if !self.long && self.pae {
            let pdpte = self.pdpte[(linear >> 30 & 3) as usize];
            if pdpte & PRESENT == 0 {
                return Err(Nowhere::NotPresent);
            }
            table = pdpte & ADDRESS;
        }
        loop {
            let shift = 12 + index_bits * (u32::from(level) - 1);
            let index = linear >> shift & ((1 << index_bits) - 1);
            let gpa = self.a20(table + index * u64::from(entry_size));
            let entry = read_entry(ram, gpa, entry_size);
            if entry & PRESENT == 0 {
                return Err(Nowhere::NotPresent);
            }
            let leaf = level == 1 || self.may_be_large(level) && entry & LARGE != 0;
            if entry & self.reserved(level, leaf, shift) != 0 {
                return Err(Nowhere::Reserved);
            }
            found.writable &= entry & WRITABLE != 0;
            found.user &= entry & USER != 0;
            found.no_execute |= self.no_execute && entry & NO_EXECUTE != 0;
            found.entries[found.used] = Met { gpa, value: entry, level };
            found.used += 1;
            if !leaf {
                table = if entry_size == 8 { entry & ADDRESS } else { entry & 0xffff_f000 };
                level -= 1;
                continue;
            }
            let mask = (1u64 << shift) - 1;
            let base = if entry_size == 8 {
                entry & ADDRESS & !mask
            } else if level == 2 {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & 0xffff_f000
            };
            found.gpa = self.a20(base | linear & mask);
            return Ok(found);
        }
    }

    /// Whether an entry of this level may map a large page.
    fn may_be_large(&self, level: u8) -> bool {
        match (self.long, self.pae, level) {
            (_, _, 1) => false,
            (true, _, 2 | 3) | (false, true, 2) => true,
            (false, false, 2) => self.large_pages,
            _ => false,
        }
    }

    /// The bits of a present entry that must be zero.
    fn reserved(&self, level: u8, leaf: bool, shift: u32) -> u64 {
        if !self.long && !self.pae {
            // PSE-36: bits 20:13 carry address bits 39:32; bit 21 is reserved.
            return if leaf && level == 2 { 1 << 21 } else { 0 };
        }
        let mut reserved = RESERVED_ADDRESS;
        if !self.no_execute {
            reserved |= NO_EXECUTE;
        }
        if !self.long {
            // PAE entries: bits 62:52 are reserved outside long mode.
            reserved |= 0x7ff0_0000_0000_0000;
        }
        if self.long && level == 4 {
            reserved |= LARGE;
        }
        if leaf && level > 1 {
            // Address bits below the page size, PAT bit 12 excepted.
            reserved |= ((1 << shift) - 1) & !0x1fff;
        }
        reserved
    }

    /// Whether an access with user or supervisor rights is allowed where the tables lead.
    pub(crate) fn allows(&self, found: &Found, access: Access, user: bool) -> bool {
        let may_write = found.writable || !user && !self.write_protect;
        let smep = self.smep && !user && found.user;
        let forbidden = self.on
            && (user && !found.user
                || access == Access::Write && !may_write
                || access == Access::Fetch && (found.no_execute || smep));
        !forbidden
    }
}

fn read_entry(ram: &GuestRam, gpa: Gpa, size: u8) -> u64 {
    // A table outside RAM reads as the empty bus does: all ones, so reserved bits are set.
    let size = u32::from(size);
    ram.read_entry(gpa, size).unwrap_or(crate::flags::zero_extend(u64::MAX, size))
}
