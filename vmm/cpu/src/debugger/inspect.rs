//! Looking at memory by linear address: sets no accessed bits, fills no TLB, calls no device.

use super::space_bits;
use crate::cpu::Cpu;
use crate::mmu::{Access, Paging, is_canonical};
use crate::state::CpuState;
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, Gva};

impl Cpu {
    /// The physical address that a linear one leads to, whatever the rights, in the current mode, in the
    /// address space of this CR3 base or the current one. `None` where the tables lead nowhere.
    pub fn inspect(&self, ram: &GuestRam, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        self.paging().inspect(ram, at, space)
    }

    /// As [`Cpu::inspect`], in the mode of another vCPU, with these registers.
    pub fn inspect_as(
        registers: &CpuState,
        ram: &GuestRam,
        at: Gva,
        space: Option<Gpa>,
    ) -> Option<Gpa> {
        Paging::of(registers).inspect(ram, at, space)
    }

    /// Whether the next instruction could be fetched from a linear address at the current privilege
    /// level.
    pub(super) fn is_fetchable(&self, ram: &GuestRam, linear: u64) -> bool {
        self.paging().is_fetchable(ram, linear, self.cpl == 3)
    }
}

impl Paging {
    pub(crate) fn inspect(self, ram: &GuestRam, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        let paging = self.in_space(ram, space)?;
        paging.accepts(at.0).then(|| paging.find(ram, at.0).ok()).flatten().map(|found| found.gpa)
    }

    /// The same regime with the tables of another address space.
    fn in_space(mut self, ram: &GuestRam, space: Option<Gpa>) -> Option<Paging> {
        let Some(space) = space else { return Some(self) };
        if !self.on || (space.0 ^ self.cr3) & space_bits(self.pae && !self.long) == 0 {
            return Some(self);
        }
        self.cr3 = space.0;
        if self.pae && !self.long {
            // Latched by MOV CR3 only: another space's are those in memory.
            let mut table = [0; 32];
            ram.read(self.a20(space.0 & space_bits(true)), &mut table).ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::control;
    use crate::testing::{Bench, DATA};

    const ROOT: u64 = 0x20_0000;
    const OTHER: u64 = 0x20_1000;
    const TABLES: [u64; 4] = [0x20_4000, 0x20_5000, 0x20_6000, 0x20_7000];

    fn found(bench: &Bench, at: u64, space: Option<u64>) -> Option<u64> {
        let found = bench.cpu.inspect(&bench.ram, Gva(at), space.map(Gpa));
        let registers = bench.cpu.state();
        // Who looks makes no difference.
        assert_eq!(Cpu::inspect_as(&registers, &bench.ram, Gva(at), space.map(Gpa)), found);
        found.map(|gpa| gpa.0)
    }

    #[test]
    fn without_paging_linear_is_physical() {
        for mut bench in [Bench::real(), Bench::protected()] {
            assert_eq!(found(&bench, 0x12_3456, None), Some(0x12_3456));
            assert_eq!(found(&bench, 0xffff_ffff, Some(ROOT)), Some(0xffff_ffff));
            assert_eq!(found(&bench, 1 << 32, None), None);
            bench.change(|state| state.a20 = false);
            assert_eq!(found(&bench, 0x12_3456, None), Some(0x2_3456));
        }
    }

    /// SDM vol. 3A, 4.3: 10, 10 and 12 bits, or 10 and 22.
    #[test]
    fn two_levels() {
        let mut bench = Bench::protected();
        bench.poke(ROOT + 0x300 * 4, &(TABLES[0] as u32 | 1).to_le_bytes());
        bench.poke(TABLES[0] + 0x12 * 4, &0x0003_4001u32.to_le_bytes());
        // 8 MiB, large; the same in the other space leads elsewhere.
        bench.poke(ROOT + 2 * 4, &0x0040_0081u32.to_le_bytes());
        bench.poke(OTHER + 2 * 4, &0x0000_0081u32.to_le_bytes());
        bench.change(|state| {
            state.cr3 = ROOT;
            state.cr4 = control::CR4_PSE;
            state.cr0 |= control::CR0_PG;
        });
        assert_eq!(found(&bench, 0xc001_2345, None), Some(0x3_4345));
        assert_eq!(found(&bench, 0xc001_3345, None), None);
        assert_eq!(found(&bench, 0x0080_1234, None), Some(0x40_1234));
        assert_eq!(found(&bench, 0x0080_1234, Some(OTHER)), Some(0x1234));
        // CR3's low bits are no part of the base.
        assert_eq!(found(&bench, 0x0080_1234, Some(OTHER | 0x18)), Some(0x1234));
        assert_eq!(bench.peek(ROOT + 2 * 4), 0x0040_0081u32.to_le_bytes(), "no accessed bit");
    }

    /// SDM vol. 3A, 4.4: the current space's pointers are those that were latched.
    #[test]
    fn pae_latches_its_pointers() {
        let mut bench = Bench::protected();
        let mut pointers = [0; 4];
        pointers[3] = TABLES[0] | 1;
        bench.poke(TABLES[0] + 8, &(TABLES[1] | 1).to_le_bytes());
        bench.poke(TABLES[1] + 2 * 8, &0x3_4001u64.to_le_bytes());
        // In memory: a 2 MiB page.
        bench.poke(ROOT + 0x20 + 3 * 8, &(TABLES[2] | 1).to_le_bytes());
        bench.poke(OTHER + 0x20 + 3 * 8, &(TABLES[2] | 1).to_le_bytes());
        bench.poke(TABLES[2] + 8, &0x0020_0081u64.to_le_bytes());
        bench.change(|state| {
            state.cr3 = ROOT | 0x20;
            state.pdpte = pointers;
            state.cr4 = control::CR4_PAE;
            state.cr0 |= control::CR0_PG;
        });
        let linear = 0xc020_2345;
        assert_eq!(found(&bench, linear, None), Some(0x3_4345));
        assert_eq!(found(&bench, linear, Some(ROOT | 0x20)), Some(0x3_4345));
        assert_eq!(found(&bench, linear, Some(OTHER | 0x20)), Some(0x20_2345));
        assert_eq!(found(&bench, linear, Some(OTHER)), None);
        // Another space's table in the same page.
        bench.poke(ROOT + 0x40 + 3 * 8, &(TABLES[2] | 1).to_le_bytes());
        assert_eq!(found(&bench, linear, Some(ROOT | 0x40)), Some(0x20_2345));
        assert_eq!(found(&bench, linear, Some(0x7fff_f000)), None, "tables outside RAM");
    }

    /// SDM vol. 3A, 4.5; nothing is set, not even where the CPU has not been yet.
    #[test]
    fn four_levels() {
        let mut bench = Bench::long();
        const HIGH: u64 = 0xffff_8000_0000_0000;
        for (table, next) in [ROOT + 0x800, TABLES[0], TABLES[1]].iter().zip(TABLES) {
            bench.poke(*table, &(next | 1).to_le_bytes());
        }
        bench.poke(TABLES[2] + 8, &(0x3_4001u64 | 1 << 63).to_le_bytes());
        bench.change(|state| state.cr3 = ROOT);
        // NX is reserved while EFER.NXE is clear.
        assert_eq!(found(&bench, HIGH + 0x1345, None), None);
        bench.change(|state| state.efer |= control::EFER_NXE);
        assert_eq!(found(&bench, HIGH + 0x1345, None), Some(0x3_4345));
        assert_eq!(found(&bench, HIGH - 0x1000, None), None, "not canonical");
        assert_eq!(found(&bench, 0x8000_0000_1345, None), None, "not canonical");
        assert_eq!(found(&bench, DATA, Some(0x1000)), Some(DATA));
        for table in [ROOT + 0x800, TABLES[0], TABLES[1], TABLES[2] + 8, 0x1000, 0x2000] {
            let [low, ..] = bench.peek::<8>(table);
            assert_eq!(low & 0x60, 0, "{table:#x}");
        }
    }
}
