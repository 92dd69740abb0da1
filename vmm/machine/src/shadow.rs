//! What the processor finds from 0xc0000 to 0xfffff: ROM, or the RAM behind it, as the 440FX's attribute map says.
//!
//! The pages that the CPU reads there hold what is to be read. Where that is ROM, what the RAM behind it holds lies in a volume of
//! pages that no address leads to ([`storage_page`]), and the pages are read-only, so that stores come here. A change of the map
//! takes effect when the instruction that made it is over.

use dejavm_devices::PciHost;
use dejavm_devices::pci::Shadow as Attributes;
use dejavm_memory::{GuestRam, storage_page};
use dejavm_units::{Gpa, PAGE_SIZE, Pfn};

/// Where it begins, and ends.
pub(crate) const START: Gpa = Gpa(0xc_0000);
pub(crate) const END: Gpa = Gpa(0x10_0000);
/// Pages of the volume.
pub(crate) const PAGES: u64 = (END.0 - START.0) / PAGE_SIZE;
/// Bytes of the ROM that are below 1 MiB.
const LOW_ROM_BYTES: usize = 128 << 10;
const FOUR_GIB: u64 = 1 << 32;

/// First address, bytes, and what the map says of them.
type Map = [(u64, u64, Attributes); 13];

/// A store to RAM behind ROM.
struct Store {
    at: Gpa,
    bytes: [u8; 8],
    size: u8,
}

/// ROM and RAM below 1 MiB.
pub(crate) struct Shadow {
    rom: crate::Rom,
    /// The volume.
    volume: usize,
    /// Derived: the map as the pages are.
    map: Map,
    /// Transient: stores of the instruction under way.
    stores: Vec<Store>,
}

impl Shadow {
    /// At power-on.
    pub(crate) fn new(rom: crate::Rom, volume: usize, pci: &PciHost) -> Shadow {
        Shadow { rom, volume, map: pci.pam(), stores: Vec::new() }
    }

    /// Puts the ROM's end into RAM that is all zeros.
    pub(crate) fn power_on(&self, ram: &mut GuestRam) {
        for page in pages(START.0, END.0 - START.0) {
            self.show_rom(page, ram);
        }
        self.protect(ram);
    }

    /// Follows a restored attribute map; the pages are the caller's to restore.
    pub(crate) fn restore(&mut self, pci: &PciHost, ram: &mut GuestRam) {
        self.map = pci.pam();
        self.stores.clear();
        self.protect(ram);
    }

    /// Whether something is to be done between two instructions.
    pub(crate) fn wants_service(&self, pci: &PciHost) -> bool {
        !self.stores.is_empty() || pci.pam() != self.map
    }

    /// Does it.
    pub(crate) fn service(&mut self, pci: &PciHost, ram: &mut GuestRam) {
        for Store { at, bytes, size } in std::mem::take(&mut self.stores) {
            let mut page = [0; PAGE_SIZE as usize];
            let hidden = self.hidden(at.pfn());
            let offset = at.page_offset() as usize;
            ram.read_page(hidden, &mut page).expect("the machine has the volume");
            page[offset..offset + usize::from(size)].copy_from_slice(&bytes[..usize::from(size)]);
            ram.write_page(hidden, &page).expect("the machine has the volume");
        }
        let map = pci.pam();
        for ((start, bytes, before), (_, _, now)) in self.map.into_iter().zip(map) {
            if before.read_ram != now.read_ram {
                for page in pages(start, bytes) {
                    if now.read_ram { self.show_ram(page, ram) } else { self.hide_ram(page, ram) }
                }
            }
        }
        if map != self.map {
            self.map = map;
            self.protect(ram);
        }
    }

    /// A store that did not reach a page. Most are lost.
    pub(crate) fn store(&mut self, at: Gpa, value: u64, size: u8) {
        let behind = self.map.iter().any(|&(start, bytes, attributes)| {
            at.0.checked_sub(start).is_some_and(|offset| offset < bytes)
                && attributes.write_ram
                && !attributes.read_ram
        });
        if behind {
            self.stores.push(Store { at, bytes: value.to_le_bytes(), size });
        }
    }

    /// Reads the ROM where it ends at 4 GiB; `false`, and nothing is changed, beside it.
    pub(crate) fn read_rom(&self, at: Gpa, into: &mut [u8]) -> bool {
        let rom = self.rom.bytes();
        let Some(offset) = at.0.checked_sub(FOUR_GIB - rom.len() as u64) else { return false };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(bytes) = rom.get(offset..).and_then(|rest| rest.get(..into.len())) else {
            return false;
        };
        into.copy_from_slice(bytes);
        true
    }

    fn hidden(&self, pfn: Pfn) -> Pfn {
        storage_page(self.volume, pfn.0 - START.0 / PAGE_SIZE)
    }

    fn show_rom(&self, pfn: Pfn, ram: &mut GuestRam) {
        let rom = self.rom.bytes();
        let low = &rom[rom.len().saturating_sub(LOW_ROM_BYTES)..];
        let mut page = [0xff; PAGE_SIZE as usize];
        let first = END.0 - low.len() as u64;
        if let Some(offset) = pfn.gpa().0.checked_sub(first) {
            page.copy_from_slice(&low[offset as usize..][..PAGE_SIZE as usize]);
        }
        ram.write_page(pfn, &page).expect("any machine has RAM there");
    }

    fn show_ram(&self, pfn: Pfn, ram: &mut GuestRam) {
        let mut page = [0; PAGE_SIZE as usize];
        ram.read_page(self.hidden(pfn), &mut page).expect("the machine has the volume");
        ram.write_page(pfn, &page).expect("any machine has RAM there");
        ram.write_page(self.hidden(pfn), &[0; PAGE_SIZE as usize]).expect("as above");
    }

    fn hide_ram(&self, pfn: Pfn, ram: &mut GuestRam) {
        let mut page = [0; PAGE_SIZE as usize];
        ram.read_page(pfn, &mut page).expect("any machine has RAM there");
        ram.write_page(self.hidden(pfn), &page).expect("the machine has the volume");
        self.show_rom(pfn, ram);
    }

    fn protect(&self, ram: &mut GuestRam) {
        for (start, bytes, attributes) in self.map {
            let read_only = !(attributes.read_ram && attributes.write_ram);
            pages(start, bytes).for_each(|page| ram.set_read_only(page, read_only));
        }
    }
}

fn pages(start: u64, bytes: u64) -> impl Iterator<Item = Pfn> {
    (start / PAGE_SIZE..(start + bytes) / PAGE_SIZE).map(Pfn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_devices::pci::Width;
    use dejavm_memory::RamLayout;
    use dejavm_units::GuestNs;

    const T: GuestNs = GuestNs(0);

    fn write_map(pci: &mut PciHost, value: u8) {
        pci.write(0, Width::Dword, 1 << 31 | 0x58, T);
        pci.write(5, Width::Byte, value.into(), T);
    }

    fn byte(ram: &GuestRam, at: u64) -> u8 {
        let mut byte = [0];
        ram.read(Gpa(at), &mut byte).unwrap();
        byte[0]
    }

    /// The four attributes of 0xf0000 to 0xfffff, and that RAM behind ROM keeps what it holds.
    #[test]
    fn rom_and_ram_take_turns_and_neither_forgets() {
        let mut rom = vec![0x11; 192 << 10];
        rom[64 << 10..].fill(0x22);
        let mut pci = PciHost::new();
        let mut ram = GuestRam::new(RamLayout::new(2 << 20).unwrap()).unwrap();
        ram.set_volumes(&[PAGES]);
        let mut shadow = Shadow::new(rom.into(), 0, &pci);
        shadow.power_on(&mut ram);
        let read_only = |ram: &GuestRam| {
            ram.flags(Gpa(0xf_5000).pfn()).intersects(dejavm_memory::PageFlags::READ_ONLY)
        };
        assert_eq!([0xd_ffff, 0xe_0000, 0xf_ffff].map(|at| byte(&ram, at)), [0xff, 0x22, 0x22]);
        assert!(read_only(&ram));
        shadow.store(Gpa(0xf_5000), 0x33, 1);
        assert!(!shadow.wants_service(&pci), "that store is lost");

        // Reads from ROM, stores to RAM.
        write_map(&mut pci, 0x20);
        assert!(shadow.wants_service(&pci));
        shadow.service(&pci, &mut ram);
        shadow.store(Gpa(0xf_5000), 0x4433, 2);
        shadow.store(Gpa(0xe_5000), 0x55, 1);
        shadow.service(&pci, &mut ram);
        assert!(byte(&ram, 0xf_5000) == 0x22 && read_only(&ram));
        // RAM.
        write_map(&mut pci, 0x30);
        shadow.service(&pci, &mut ram);
        assert_eq!([0xf_5000, 0xf_5001, 0xf_5002].map(|at| byte(&ram, at)), [0x33, 0x44, 0]);
        assert!(!read_only(&ram) && byte(&ram, 0xe_5000) == 0x22);
        ram.write(Gpa(0xf_6000), &[0x66]).unwrap();
        // ROM again, then RAM that is only read.
        write_map(&mut pci, 0x00);
        shadow.service(&pci, &mut ram);
        assert_eq!([0xf_5000, 0xf_6000].map(|at| byte(&ram, at)), [0x22, 0x22]);
        write_map(&mut pci, 0x10);
        shadow.service(&pci, &mut ram);
        assert_eq!([0xf_5000, 0xf_6000].map(|at| byte(&ram, at)), [0x33, 0x66]);
        assert!(read_only(&ram) && !shadow.wants_service(&pci));
    }

    #[test]
    fn the_rom_ends_at_4_gib() {
        let mut rom = vec![0; 64 << 10];
        rom[0] = 1;
        rom[0xffff] = 2;
        let shadow = Shadow::new(rom.into(), 0, &PciHost::new());
        let read = |at, length| {
            let mut bytes = vec![0xee; length];
            shadow.read_rom(Gpa(at), &mut bytes).then_some(bytes)
        };
        assert_eq!(read(0xffff_0000, 2), Some(vec![1, 0]));
        assert_eq!(read(0xffff_fffe, 2), Some(vec![0, 2]));
        for (at, length) in [(0xfffe_ffff, 1), (0xffff_ffff, 2), (1 << 32, 1), (0, 1)] {
            assert_eq!(read(at, length), None, "{at:#x}");
        }
    }
}
