//! What the instructions before a position were, for a person.

use dejavm_cpu::CpuState;
use dejavm_machine::Machine;
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

/// CR0.PG, CR4.PAE, CR4.PSE and EFER.LMA.
const PAGING: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LONG_MODE: u64 = 1 << 10;
const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The instruction at the machine's position.
pub(crate) fn current(machine: &Machine) -> String {
    let cpu = machine.save().cpu;
    let code = &cpu.seg[1];
    let long = cpu.efer & LONG_MODE != 0 && code.rights.is_long();
    let bits = match (long, code.rights.is_big()) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let linear = if long { cpu.rip } else { code.base.wrapping_add(cpu.rip) & 0xffff_ffff };
    let bytes: Vec<u8> = (0..15)
        .map_while(|n| {
            let gpa = translate(&cpu, machine.ram(), linear.wrapping_add(n))?;
            let mut byte = [0];
            machine.ram().read(Gpa(gpa), &mut byte).ok().map(|()| byte[0])
        })
        .collect();
    let mut decoder = Decoder::with_ip(bits, &bytes, cpu.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    let bytes = &bytes[..instruction.len().min(bytes.len())];
    format!("{:>12}  {:x}:{:016x}  {bytes:02x?}  {text}", cpu.position.0, code.selector, cpu.rip)
}

/// Walks the page tables without rights and without leaving a trace.
fn translate(cpu: &CpuState, ram: &GuestRam, linear: u64) -> Option<u64> {
    if cpu.cr0 & PAGING == 0 {
        return Some(linear);
    }
    let long = cpu.efer & LONG_MODE != 0;
    let pae = cpu.cr4 & PAE != 0;
    let (size, index_bits) = if pae { (8, 9) } else { (4, 10) };
    let (mut table, levels) = match (long, pae) {
        (true, _) => (cpu.cr3 & ADDRESS, 4),
        (false, true) => (cpu.pdpte[(linear >> 30 & 3) as usize] & ADDRESS, 2),
        (false, false) => (cpu.cr3 & 0xffff_f000, 2),
    };
    for level in (1..=levels).rev() {
        let shift = 12 + index_bits * (level - 1);
        let index = linear >> shift & ((1 << index_bits) - 1);
        let mut bytes = [0; 8];
        ram.read(Gpa(table + index * size as u64), &mut bytes[..size]).ok()?;
        let entry = u64::from_le_bytes(bytes);
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || level < 4 && entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            return Some(entry & ADDRESS & !inside | linear & inside);
        }
        table = entry & ADDRESS;
    }
    None
}
