//! The PVH direct boot protocol (Xen, docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h): a 32-bit entry with EBX pointing to the start info.

use super::initrd::Placed;
use super::registers;
use crate::acpi;
use crate::boot::BootError;
use crate::memory_map::{self, CMDLINE, START_INFO};
use dejavm_cpu::{CpuState, gpr};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

/// "xEn3" with the 0x80 bit of the "E" set.
const START_INFO_MAGIC: u32 = 0x336e_c578;
const MODULES: u64 = START_INFO + 0x100;
const MEMORY_MAP: u64 = START_INFO + 0x200;

/// Writes the start info, the command line being at its place already, and returns the registers.
pub(crate) fn start(entry: u32, module: Placed, ram: &mut GuestRam) -> Result<CpuState, BootError> {
    let has_module = module.bytes > 0;
    if has_module {
        let entry = hvm_modlist_entry {
            paddr: module.address,
            size: module.bytes,
            ..hvm_modlist_entry::default()
        };
        ram.write(Gpa(MODULES), entry.as_slice())?;
    }
    let ranges = memory_map::ranges(ram.layout());
    let mut next = MEMORY_MAP;
    for range in &ranges {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.bytes,
            type_: range.kind as u32,
            reserved: 0,
        };
        ram.write(Gpa(next), entry.as_slice())?;
        next += size_of::<hvm_memmap_table_entry>() as u64;
    }
    let info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        flags: 0,
        nr_modules: u32::from(has_module),
        modlist_paddr: if has_module { MODULES } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: acpi::RSDP,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: ranges.len() as u32,
        reserved: 0,
    };
    ram.write(Gpa(START_INFO), info.as_slice())?;
    let mut cpu = registers::protected_mode(entry, ram);
    cpu.gpr[gpr::RBX] = START_INFO;
    Ok(cpu)
}
