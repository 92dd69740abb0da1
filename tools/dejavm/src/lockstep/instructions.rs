//! The instruction that a machine is about to execute, for a person.

use dejavm_cpu::{SegReg, control};
use dejavm_machine::Machine;
use dejavm_units::Gva;
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

/// Its position, address, bytes and text.
pub fn current(machine: &Machine) -> String {
    let cpu = machine.cpu_state();
    let code = &cpu.seg[SegReg::Cs as usize];
    let long = cpu.efer & control::EFER_LMA != 0 && code.rights.is_long();
    let bits = match (long, code.rights.is_big()) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let linear = if long { cpu.rip } else { code.base.wrapping_add(cpu.rip) & 0xffff_ffff };
    let mut bytes = [0; 15];
    let read = machine.read_virtual(Gva(linear), None, &mut bytes);
    let mut decoder = Decoder::with_ip(bits, &bytes[..read], cpu.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let mut text = String::new();
    NasmFormatter::new().format(&instruction, &mut text);
    let bytes: Vec<String> =
        bytes[..instruction.len().min(read)].iter().map(|byte| format!("{byte:02x}")).collect();
    let (position, selector, rip) = (cpu.position.0, code.selector, cpu.rip);
    format!("{position:>12}  {selector:x}:{rip:016x}  {:<30}  {text}", bytes.join(" "))
}
