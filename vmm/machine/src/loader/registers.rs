//! The CPU as a boot protocol wants it at the first instruction, with the tables it refers to.

use crate::memory_map::{GDT, PAGE_TABLES, STACK_TOP};
use dejavm_cpu::{CpuState, Rights, SegReg, Segment, TableRegister, control, gpr};
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;

/// Selectors that the Linux boot protocol names `__BOOT_CS` and `__BOOT_DS`.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;

const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// MTRRs on, everything write-back: what firmware leaves (SDM vol. 3A, 12.11.2.1).
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Protected mode, paging off, flat 32-bit segments, interrupts off, about to execute at `entry`.
pub(crate) fn protected_mode(entry: u32, ram: &mut GuestRam) -> CpuState {
    let mut cpu = flat(CODE_32, Rights(0xc9b), ram);
    cpu.rip = u64::from(entry);
    cpu
}

/// 64-bit mode with the first 4 GiB mapped to themselves, interrupts off, about to execute at `entry`.
pub(crate) fn long_mode(entry: u64, ram: &mut GuestRam) -> CpuState {
    let mut cpu = flat(CODE_64, Rights(0xa9b), ram);
    cpu.rip = entry;
    cpu.cr0 |= control::CR0_PG;
    cpu.cr4 = control::CR4_PAE;
    cpu.cr3 = write_identity_map(ram);
    cpu.efer = control::EFER_LME | control::EFER_LMA;
    cpu
}

fn flat(code: u64, code_rights: Rights, ram: &mut GuestRam) -> CpuState {
    let gdt = [0, 0, code, DATA];
    for (index, descriptor) in gdt.iter().enumerate() {
        write_u64(ram, GDT + 8 * index as u64, *descriptor);
    }
    let segment = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
    let mut cpu = CpuState::reset();
    cpu.seg = [segment(BOOT_DS, Rights(0xc93)); 6];
    cpu.seg[SegReg::Cs as usize] = segment(BOOT_CS, code_rights);
    cpu.gdtr = TableRegister { base: GDT, limit: 8 * 4 - 1 };
    cpu.idtr = TableRegister { base: 0, limit: 0 };
    cpu.tr = Segment { selector: 0, base: 0, limit: 0x67, rights: Rights(0x8b) };
    cpu.cr0 = control::CR0_PE | control::CR0_ET;
    cpu.gpr = [0; 16];
    cpu.gpr[gpr::RSP] = STACK_TOP;
    cpu.msr.mtrr_def_type = MTRR_ENABLED_WRITE_BACK;
    cpu
}

/// Page tables that map the first 4 GiB to themselves with 2 MiB pages; returns CR3.
fn write_identity_map(ram: &mut GuestRam) -> u64 {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let pdpt = PAGE_TABLES + 0x1000;
    let directories = PAGE_TABLES + 0x2000;
    write_u64(ram, PAGE_TABLES, pdpt | PRESENT_WRITABLE);
    for gib in 0..4 {
        write_u64(ram, pdpt + 8 * gib, (directories + 0x1000 * gib) | PRESENT_WRITABLE);
    }
    for page in 0..4 * 512 {
        write_u64(ram, directories + 8 * page, page << 21 | LARGE | PRESENT_WRITABLE);
    }
    PAGE_TABLES
}

fn write_u64(ram: &mut GuestRam, gpa: u64, value: u64) {
    ram.write(Gpa(gpa), &value.to_le_bytes()).expect("any machine has RAM below 640 KiB");
}
