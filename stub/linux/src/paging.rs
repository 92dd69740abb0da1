//! A pure page walk (SDM vol. 3A, chapter 4): 2-level, PAE, 4-level and 5-level paging. Sets no bit, checks no right.

use crate::view::GuestView;
use dejavm_cpu::{CpuState, control};
use dejavm_units::{Gpa, Gva};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Address bits of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How linear addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// 32-bit, two levels of 4-byte entries (4 MiB pages with CR4.PSE).
    TwoLevel,
    /// 32-bit with physical address extension: three levels of 8-byte entries.
    Pae,
    /// 64-bit, four levels.
    FourLevel,
    /// 64-bit, five levels (CR4.LA57).
    FiveLevel,
}

impl Paging {
    /// The paging of a vCPU; `None` while CR0.PG is clear.
    pub fn of(cpu: &CpuState) -> Option<Paging> {
        if cpu.cr0 & control::CR0_PG == 0 {
            None
        } else if cpu.efer & control::EFER_LMA != 0 {
            let five = cpu.cr4 & control::CR4_LA57 != 0;
            Some(if five { Paging::FiveLevel } else { Paging::FourLevel })
        } else if cpu.cr4 & control::CR4_PAE != 0 {
            Some(Paging::Pae)
        } else {
            Some(Paging::TwoLevel)
        }
    }

    /// Where the top table begins, of a CR3 value: flags, PCID and reserved bits removed.
    pub fn root(self, cr3: u64) -> Gpa {
        match self {
            Paging::TwoLevel => Gpa(cr3 & 0xffff_f000),
            Paging::Pae => Gpa(cr3 & 0xffff_ffe0),
            Paging::FourLevel | Paging::FiveLevel => Gpa(cr3 & ADDRESS),
        }
    }
}

/// An address space: page tables and how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// The top table.
    pub root: Gpa,
    /// Its kind.
    pub paging: Paging,
}

/// What a walk found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    /// Mapped: the byte's physical address and the page.
    Mapped { gpa: Gpa, page_bytes: u64, writable: bool, user: bool, executable: bool },
    /// Not mapped, and neither is anything else in the aligned block of this many bytes.
    Absent { block_bytes: u64 },
}

impl Space {
    /// The byte's physical address. Four or five reads.
    pub fn translate(&self, view: &dyn GuestView, at: Gva) -> Option<Gpa> {
        match self.walk(view, at) {
            Walk::Mapped { gpa, .. } => Some(gpa),
            Walk::Absent { .. } => None,
        }
    }

    pub(crate) fn walk(&self, view: &dyn GuestView, at: Gva) -> Walk {
        match self.paging {
            Paging::TwoLevel => self.walk_two_level(view, at),
            Paging::Pae => self.walk_long(view, at, 3, 30),
            Paging::FourLevel => self.walk_long(view, at, 4, 39),
            Paging::FiveLevel => self.walk_long(view, at, 5, 48),
        }
    }

    fn walk_two_level(&self, view: &dyn GuestView, at: Gva) -> Walk {
        let linear = at.0 & 0xffff_ffff;
        let read = |gpa: u64| {
            let mut bytes = [0; 4];
            view.read_physical(Gpa(gpa), &mut bytes)
                .then(|| u64::from(u32::from_le_bytes(bytes)))
                .filter(|entry| entry & PRESENT != 0)
        };
        let mapped = |entry: u64, base: u64, page_bytes: u64| Walk::Mapped {
            gpa: Gpa(base | linear & (page_bytes - 1)),
            page_bytes,
            writable: entry & WRITABLE != 0,
            user: entry & USER != 0,
            executable: true,
        };
        let Some(directory) = read(self.root.0 + (linear >> 22) * 4) else {
            return Walk::Absent { block_bytes: 1 << 22 };
        };
        if directory & LARGE != 0 {
            // PSE-36: bits 20:13 are address bits 39:32.
            return mapped(
                directory,
                directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32,
                1 << 22,
            );
        }
        let Some(page) = read((directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4) else {
            return Walk::Absent { block_bytes: 1 << 12 };
        };
        mapped(page & directory, page & 0xffff_f000, 1 << 12)
    }

    fn walk_long(&self, view: &dyn GuestView, at: Gva, levels: u32, top_shift: u32) -> Walk {
        let linear = if levels == 3 { at.0 & 0xffff_ffff } else { at.0 };
        let mut table = self.root.0;
        let (mut writable, mut user, mut executable) = (true, true, true);
        for level in (1..=levels).rev() {
            let shift = top_shift - 9 * (levels - level);
            let index = linear >> shift & if levels == 3 && level == 3 { 3 } else { 0x1ff };
            let mut bytes = [0; 8];
            let read = view.read_physical(Gpa(table + index * 8), &mut bytes);
            let entry = u64::from_le_bytes(bytes);
            if !read || entry & PRESENT == 0 {
                return Walk::Absent { block_bytes: 1 << shift };
            }
            // The PDPTEs of PAE paging carry no rights.
            if !(levels == 3 && level == 3) {
                writable &= entry & WRITABLE != 0;
                user &= entry & USER != 0;
                executable &= entry & NO_EXECUTE == 0;
            }
            let large = entry & LARGE != 0 && (level == 2 || level == 3 && levels > 3);
            if level == 1 || large {
                let page_bytes = 1 << shift;
                let gpa = Gpa(entry & ADDRESS & !(page_bytes - 1) | linear & (page_bytes - 1));
                return Walk::Mapped { gpa, page_bytes, writable, user, executable };
            }
            table = entry & ADDRESS;
        }
        unreachable!("level 1 maps or is absent")
    }
}
