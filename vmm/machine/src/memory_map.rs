//! The physical address map as firmware would report it, and the places below 1 MiB that the loaders
//! use.
//!
//! ```text
//! 0x0000_0400  BIOS data area: base memory size, EBDA segment
//! 0x0000_0500  GDT of the loader
//! 0x0000_6000  PVH start info, its module list and memory map
//! 0x0000_7000  boot_params ("zero page")
//! 0x0000_8000  page tables of the loader: PML4, PDPT, four page directories
//! 0x0000_f000  top of the stack the loader leaves
//! 0x0001_0000  Multiboot information (64 KiB)
//! 0x0002_0000  command line (64 KiB)
//! 0x0009_fc00  extended BIOS data area (1 KiB)
//! 0x000e_0000  ACPI tables (128 KiB, reserved)
//! 0x0010_0000  RAM, up to the PCI hole at 0xc000_0000
//! ```

use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::Gpa;

pub(crate) const GDT: u64 = 0x500;
pub(crate) const START_INFO: u64 = 0x6000;
pub(crate) const BOOT_PARAMS: u64 = 0x7000;
pub(crate) const PAGE_TABLES: u64 = 0x8000;
pub(crate) const STACK_TOP: u64 = 0xf000;
pub(crate) const MULTIBOOT_INFO: u64 = 0x1_0000;
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// The command line and its terminating zero must fit here.
pub(crate) const CMDLINE_BYTES_MAX: u64 = 0x1_0000;
pub(crate) const EBDA: u64 = 0x9_fc00;
const VGA: u64 = 0xa_0000;
pub(crate) const FIRMWARE: u64 = 0xe_0000;
pub(crate) const HIGH_MEMORY: u64 = 0x10_0000;

pub(crate) const IO_APIC: u64 = 0xfec0_0000;
pub(crate) const LOCAL_APIC: u64 = 0xfee0_0000;

/// Kinds of range, numbered as INT 15h, E820h and PVH's memory map number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Kind {
    Ram = 1,
    Reserved = 2,
}

/// One range of the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) kind: Kind,
}

/// The ranges, ascending.
pub(crate) fn ranges(layout: RamLayout) -> Vec<Range> {
    let range = |start, end: u64, kind| Range { start, bytes: end - start, kind };
    let mut ranges = vec![
        range(0, EBDA, Kind::Ram),
        range(EBDA, VGA, Kind::Reserved),
        range(FIRMWARE, HIGH_MEMORY, Kind::Reserved),
        range(HIGH_MEMORY, layout.low_bytes(), Kind::Ram),
        range(IO_APIC, IO_APIC + 0x1000, Kind::Reserved),
        range(LOCAL_APIC, LOCAL_APIC + 0x1000, Kind::Reserved),
    ];
    if layout.high_bytes() > 0 {
        ranges.push(range(1 << 32, (1 << 32) + layout.high_bytes(), Kind::Ram));
    }
    ranges
}

/// Writes the words of the BIOS data area that operating systems look at (IBM PC AT Technical
/// Reference): 40:13 base memory in KiB, 40:0e segment of the EBDA, whose first byte is its size in
/// KiB; and 40:00 the port of COM1.
pub(crate) fn write_bios_data(ram: &mut GuestRam) {
    for (gpa, bytes) in [
        (0x400, 0x3f8u16.to_le_bytes()),
        (0x40e, ((EBDA >> 4) as u16).to_le_bytes()),
        (0x413, ((EBDA >> 10) as u16).to_le_bytes()),
        (EBDA, 1u16.to_le_bytes()),
    ] {
        ram.write(Gpa(gpa), &bytes).expect("any machine has RAM below 640 KiB");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_ascending_apart_and_cover_the_ram() {
        for mib in [2, 16, 512, 3072, 3073, 8192, 65536] {
            let layout = RamLayout::new(mib << 20).unwrap();
            let ranges = ranges(layout);
            for pair in ranges.windows(2) {
                assert!(pair[0].start + pair[0].bytes <= pair[1].start, "{mib} MiB: {pair:x?}");
            }
            let ram: u64 = ranges
                .iter()
                .filter(|range| range.kind == Kind::Ram)
                .map(|range| range.bytes)
                .sum();
            assert_eq!(ram, (mib << 20) - (0x10_0000 - 0x9_fc00), "{mib} MiB");
        }
    }
}
