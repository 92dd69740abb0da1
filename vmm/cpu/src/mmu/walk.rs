//! The page-table walker (SDM vol. 3A, chapter 4): 2-level, PAE and 4-level paging.

use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use dejavm_units::Gpa;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Physical address width of every model, as CPUID leaf 0x80000008 says.
pub(crate) const PHYSICAL_BITS: u32 = 40;
/// Address bits of an entry that must be zero.
const RESERVED_ADDRESS: u64 = ADDRESS & !((1 << PHYSICAL_BITS) - 1);

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

    fn read_entry(&mut self, gpa: Gpa, size: u32) -> u64 {
        // A table outside RAM reads as the empty bus does: all ones, so reserved bits are set.
        let ram = self.ram();
        ram.read_entry(gpa, size).unwrap_or(crate::flags::zero_extend(u64::MAX, size))
    }

    /// Sets accessed (and dirty) bits as the walker does.
    fn update_entry(&mut self, gpa: Gpa, value: u64, size: u32) {
        let bytes = value.to_le_bytes();
        // Outside RAM the update is lost, as on an empty bus. No translation is dropped: accessed and
        // dirty bits change none.
        let _ = self.ram().write_by_cpu(gpa, &bytes[..size as usize]);
    }

    /// Walks the page tables for one byte. Sets accessed and dirty bits as the access would, or
    /// raises #PF with CR2 set.
    pub(crate) fn walk(&mut self, linear: u64, access: Access, user: bool) -> Result<Walk, Abort> {
        if self.cr0 & control::CR0_PG == 0 {
            let gpa = self.a20(linear & 0xffff_ffff);
            return Ok(Walk { gpa, steps: [None; 4], entry_size: 8 });
        }
        let long = self.is_long_mode();
        let pae = self.cr4 & control::CR4_PAE != 0;
        let (levels, entry_size, index_bits) = if long {
            (4, 8, 9)
        } else if pae {
            (2, 8, 9)
        } else {
            (2, 4, 10)
        };
        let nx_enabled = pae && self.efer & control::EFER_NXE != 0;

        let mut table = self.cr3 & if pae { 0xf_ffff_ffff_f000 } else { 0xffff_f000 };
        if !long && pae {
            let pdpte = self.pdpte[(linear >> 30 & 3) as usize];
            if pdpte & PRESENT == 0 {
                return Err(self.page_fault(linear, access, user, 0));
            }
            table = pdpte & ADDRESS;
        }

        let mut steps = [None; 4];
        let (mut writable, mut user_ok, mut no_execute) = (true, true, false);
        let mut entries = [(Gpa(0), 0u64); 4];
        let mut used = 0;
        let mut level = levels;
        loop {
            let shift = 12 + index_bits * (u32::from(level) - 1);
            let index = linear >> shift & ((1 << index_bits) - 1);
            let gpa = self.a20(table + index * u64::from(entry_size));
            let entry = self.read_entry(gpa, entry_size);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(linear, access, user, 0));
            }
            let large_allowed = match (long, pae, level) {
                (_, _, 1) => false,
                (true, _, 2 | 3) | (false, true, 2) => true,
                (false, false, 2) => self.cr4 & control::CR4_PSE != 0,
                _ => false,
            };
            let leaf = level == 1 || large_allowed && entry & LARGE != 0;
            let mut reserved = 0;
            if entry_size == 8 {
                reserved |= RESERVED_ADDRESS;
                if !nx_enabled {
                    reserved |= NO_EXECUTE;
                }
                if !long {
                    // PAE entries: bits 62:52 are reserved outside long mode.
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if long && level == 4 {
                    reserved |= LARGE;
                }
                if leaf && level > 1 {
                    // Address bits below the page size, PAT bit 12 excepted.
                    reserved |= ((1 << shift) - 1) & !0x1fff;
                }
            } else if leaf && level == 2 {
                // PSE-36: bits 20:13 carry address bits 39:32; bit 21 is reserved.
                reserved |= 1 << 21;
            }
            if entry & reserved != 0 {
                return Err(self.page_fault(linear, access, user, pf::PRESENT | pf::RESERVED));
            }
            writable &= entry & WRITABLE != 0;
            user_ok &= entry & USER != 0;
            no_execute |= nx_enabled && entry & NO_EXECUTE != 0;
            entries[used] = (gpa, entry);
            steps[used] = Some(Step { entry: gpa, level });
            used += 1;
            if !leaf {
                table = if entry_size == 8 { entry & ADDRESS } else { entry & 0xffff_f000 };
                level -= 1;
                continue;
            }

            let write_ok = writable || !user && self.cr0 & control::CR0_WP == 0;
            let smep = self.cr4 & control::CR4_SMEP != 0 && !user && user_ok;
            let forbidden = user && !user_ok
                || access == Access::Write && !write_ok
                || access == Access::Fetch && (no_execute || smep);
            if forbidden {
                return Err(self.page_fault(linear, access, user, pf::PRESENT));
            }
            let leaf_bits = if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED };
            let bits = |n| if n == used - 1 { leaf_bits } else { ACCESSED };
            let updates = entries[..used].iter().enumerate();
            let updates = updates.filter(|&(n, (_, entry))| entry & bits(n) != bits(n));
            for (_, &(gpa, _)) in updates.clone() {
                self.prepare_entry_update(gpa, entry_size as usize)?;
            }
            for (n, &(gpa, entry)) in updates {
                self.update_entry(gpa, entry | bits(n), entry_size);
            }
            let mask = (1u64 << shift) - 1;
            let base = if entry_size == 8 {
                entry & ADDRESS & !mask
            } else if level == 2 {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & 0xffff_f000
            };
            return Ok(Walk {
                gpa: self.a20(base | linear & mask),
                steps,
                entry_size: entry_size as u8,
            });
        }
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
