//! The page-table walker: what the tables say, with rights, faults, accessed and dirty bits (SDM
//! vol. 3A, chapter 4).

use super::tables::Nowhere;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use dejavm_memory::PageFlags;
use dejavm_units::Gpa;

const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// What a translation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Error-code bits of #PF (SDM vol. 3A, 4.7).
mod pf {
    pub(super) const PRESENT: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
}

/// A page-table entry met on a walk.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// Where the entry lies.
    pub(crate) entry: Gpa,
    /// Its level: 1 for a page table, 4 for a PML4.
    pub(crate) level: u8,
}

/// A finished walk.
pub(crate) struct Walk {
    /// The physical address of the byte asked for.
    pub(crate) gpa: Gpa,
    /// The entries used, top first.
    pub(crate) steps: [Option<Step>; 4],
    /// Bytes of one entry: 4 or 8.
    pub(crate) entry_size: u8,
}

impl Cpu {
    /// Applies the A20 gate to a physical address.
    #[inline]
    pub(crate) fn a20(&self, gpa: u64) -> Gpa {
        Gpa(gpa & self.a20_mask)
    }

    #[cold]
    fn page_fault(&mut self, linear: u64, access: Access, user: bool, cause: u32) -> Abort {
        let nx = self.efer & control::EFER_NXE != 0 && self.cr4 & control::CR4_PAE != 0
            || self.cr4 & control::CR4_SMEP != 0;
        let mut code = cause;
        match access {
            Access::Read => {}
            Access::Write => code |= pf::WRITE,
            Access::Fetch if nx => code |= pf::FETCH,
            Access::Fetch => {}
        }
        if user {
            code |= pf::USER;
        }
        self.cr2 = linear;
        self.exception(vector::PF, Some(code))
    }

    /// Sets accessed (and dirty) bits as the walker does.
    fn update_entry(&mut self, gpa: Gpa, value: u64, size: u32) {
        if self.ram().flags(gpa.pfn()).intersects(PageFlags::READ_ONLY) {
            return;
        }
        let bytes = value.to_le_bytes();
        // Outside RAM the update is lost, as on an empty bus. No translation is dropped: accessed and
        // dirty bits change none.
        let _ = self.ram().write_by_cpu(gpa, &bytes[..size as usize]);
    }

    /// Walks the page tables for one byte. Sets accessed and dirty bits as the access would, or
    /// raises #PF with CR2 set.
    pub(crate) fn walk(&mut self, linear: u64, access: Access, user: bool) -> Result<Walk, Abort> {
        let paging = self.paging();
        let found = match paging.find(self.ram(), linear) {
            Ok(found) => found,
            Err(Nowhere::NotPresent) => return Err(self.page_fault(linear, access, user, 0)),
            Err(Nowhere::Reserved) => {
                return Err(self.page_fault(linear, access, user, pf::PRESENT | pf::RESERVED));
            }
        };
        if !paging.allows(&found, access, user) {
            return Err(self.page_fault(linear, access, user, pf::PRESENT));
        }
        let entries = found.entries();
        let leaf_bits = if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED };
        let bits = |n| if n + 1 == entries.len() { leaf_bits } else { ACCESSED };
        let updates = entries.iter().enumerate();
        let updates = updates.filter(|&(n, entry)| entry.value & bits(n) != bits(n));
        for (_, entry) in updates.clone() {
            self.prepare_entry_update(entry.gpa, found.entry_size.into())?;
        }
        for (n, entry) in updates {
            self.update_entry(entry.gpa, entry.value | bits(n), found.entry_size.into());
        }
        let mut steps = [None; 4];
        for (step, entry) in steps.iter_mut().zip(entries) {
            *step = Some(Step { entry: entry.gpa, level: entry.level });
        }
        Ok(Walk { gpa: found.gpa, steps, entry_size: found.entry_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Features;
    use crate::run::Stop;
    use crate::testing::Bench;

    /// Where [`mapped`] maps a page: 2 GiB, through tables of its own.
    const LINEAR: u64 = 0x8000_0000;
    const DIRECTORY: u64 = 0xa000;
    const TABLE: u64 = 0xb000;

    /// 64-bit mode with `pde` and `pte` for [`LINEAR`].
    fn mapped(pdpte: u64, pde: u64, pte: u64) -> Bench {
        let mut bench = Bench::long().with_tables();
        bench.poke(0x2010, &pdpte.to_le_bytes());
        bench.poke(DIRECTORY, &pde.to_le_bytes());
        bench.poke(TABLE, &pte.to_le_bytes());
        bench
    }

    /// Loads a byte from [`LINEAR`], or stores it; the error code of the page fault, if any.
    fn access(bench: &mut Bench, write: bool) -> Option<u64> {
        let code = [if write { 0xa2 } else { 0xa0 }, 0, 0, 0, 0x80, 0, 0, 0, 0, 0xf4];
        let vector = bench.run_to_halt(&code);
        vector.map(|vector| {
            assert_eq!((vector, bench.cpu.cr2), (14, LINEAR));
            bench.stack64(0)
        })
    }

    /// SDM vol. 3A, 4.5 and 4.7.
    #[test]
    fn error_codes_of_4_level_paging() {
        let good = (DIRECTORY | 7, TABLE | 7, 0xc007);
        let (p, d) = (good.0, good.1);
        for (entries, write, nx, level3, expected) in [
            (good, true, false, false, None),
            ((0, d, 0xc007), false, false, false, Some(0)),
            ((p, 0, 0xc007), true, false, true, Some(6)),
            ((p, d, 0xc006), false, false, false, Some(0)),
            // Read-only for the user; for the supervisor CR0.WP decides.
            ((p, d, 0xc005), true, false, true, Some(7)),
            ((p, d, 0xc005), true, false, false, None),
            ((p, d, 0xc003), false, false, true, Some(5)),
            // Reserved: address bit 40, NX without EFER.NXE, PS's low address bits.
            ((p, d, 0xc007 | 1 << 40), false, false, false, Some(9)),
            ((p, d, 0xc007 | 1 << 63), false, false, false, Some(9)),
            ((p, d, 0xc007 | 1 << 63), false, true, false, None),
            ((p, 0x20_2087, 0), false, false, false, Some(9)),
            ((p, 0x20_1087, 0), false, false, false, None),
            ((0x2000_0087, 0, 0), false, false, true, Some(0xd)),
            ((0x87, 0, 0), true, false, true, None),
            // Bits 62:52 are the system's own in IA-32e mode.
            ((p | 0x7ff << 52, d, 0xc007), false, false, false, None),
        ] {
            let mut bench = mapped(entries.0, entries.1, entries.2);
            if level3 {
                bench = bench.at_level_3();
                bench.change(|state| state.cr4 |= control::CR4_PGE);
            }
            bench.change(|state| {
                if nx {
                    state.efer |= control::EFER_NXE;
                }
            });
            if expected.is_none() && level3 {
                // HLT faults at level 3; one instruction is enough.
                let code = [if write { 0xa2 } else { 0xa0 }, 0, 0, 0, 0x80, 0, 0, 0, 0];
                assert_eq!(bench.run(&code, 1), Stop::Limit, "{entries:x?}");
                continue;
            }
            assert_eq!(access(&mut bench, write), expected, "{entries:x?} {write} {level3}");
        }
    }

    #[test]
    fn write_protect_binds_the_supervisor_with_wp() {
        let mut bench = mapped(DIRECTORY | 7, TABLE | 7, 0xc005);
        bench.change(|state| state.cr0 |= control::CR0_WP);
        assert_eq!(access(&mut bench, true), Some(3));
    }

    /// SDM vol. 3A, 4.8.
    #[test]
    fn accessed_and_dirty_follow_the_access() {
        let mut bench = mapped(DIRECTORY | 7, TABLE | 7, 0xc007);
        assert_eq!(access(&mut bench, false), None);
        let entry = |bench: &Bench, at| u64::from_le_bytes(bench.peek(at));
        assert_eq!(entry(&bench, 0x2010), DIRECTORY | 0x27);
        assert_eq!(entry(&bench, DIRECTORY), TABLE | 0x27);
        assert_eq!(entry(&bench, TABLE), 0xc027);
        let mut bench = mapped(DIRECTORY | 7, TABLE | 7, 0xc007);
        assert_eq!(access(&mut bench, true), None);
        assert_eq!(entry(&bench, DIRECTORY), TABLE | 0x27, "dirty is the leaf's");
        assert_eq!(entry(&bench, TABLE), 0xc067);
    }

    #[test]
    fn fetches_obey_nx_and_smep() {
        // JMP to LINEAR through a register.
        let code = [0xb8, 0, 0, 0, 0x80, 0xff, 0xe0];
        let mut bench = mapped(DIRECTORY | 7, TABLE | 7, 0xc007 | 1 << 63);
        bench.change(|state| state.efer |= control::EFER_NXE);
        assert_eq!(bench.run_to_halt(&code), Some(14));
        assert_eq!(bench.stack64(0), 0x11);
        let mut bench = mapped(DIRECTORY | 7, TABLE | 7, 0xc007);
        bench.cpu.model.features |= Features::SMEP;
        // The code itself must be a supervisor page.
        bench.poke(0x3000, &0x83u64.to_le_bytes());
        bench.change(|state| state.cr4 |= control::CR4_SMEP);
        assert_eq!(bench.run_to_halt(&code), Some(14));
        assert_eq!(bench.stack64(0), 0x11);
    }

    /// SDM vol. 3A, 4.3: 4 MiB pages with address bits 39:32 (PSE-36).
    #[test]
    fn large_pages_of_32_bit_paging() {
        for (entry, pse, expected) in [
            (0x0000_0083u32, true, None),
            (0x0020_0083, true, Some(9)),
            // Bit 32 of the address: no RAM there, so the bus answers.
            (0x0000_2083, true, None),
            // Without PSE the same entry names a page table, at address 0: not present.
            (0x0000_0083, false, Some(0)),
        ] {
            let mut bench = Bench::protected().with_tables();
            bench.poke(0xa000, &0x83u32.to_le_bytes());
            bench.poke(0xa800, &entry.to_le_bytes());
            // MOV CR0, EAX with a table for the code when PSE is off.
            if !pse {
                bench.poke(0xa000, &0xb003u32.to_le_bytes());
                for page in 0..1024u32 {
                    bench.poke(0xb000 + u64::from(page) * 4, &(page << 12 | 3).to_le_bytes());
                }
            }
            bench.change(|state| {
                state.cr3 = 0xa000;
                state.cr4 = if pse { control::CR4_PSE } else { 0 };
                state.cr0 |= control::CR0_PG;
            });
            let code = [0xa0, 0, 0, 0, 0x80, 0xf4];
            let vector = bench.run_to_halt(&code);
            assert_eq!(vector, expected.map(|_| 14), "{entry:#x} PSE {pse}");
            if let Some(error) = expected {
                assert_eq!(bench.stack32(0), error);
            }
        }
    }
}
