//! Comparisons: FCOM, FUCOM, FCOMI, FUCOMI and their popping forms, FTST, FXAM.

use super::host::{self, Source};
use super::{Destination, plain, st_number};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use crate::flags::rflags;
use crate::fpu::status::{self, C0, C1, C2, C3};
use iced_x86::{Instruction, Mnemonic, OpKind};

pub(super) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fcom | M::Ficom if i.op0_kind() == OpKind::Memory => compare_memory::<0>,
        M::Fcomp | M::Ficomp if i.op0_kind() == OpKind::Memory => compare_memory::<1>,
        M::Fcom => |cpu, i| compare_registers(cpu, i, st_number(i, 1), ordered, 0),
        M::Fcomp => |cpu, i| compare_registers(cpu, i, st_number(i, 1), ordered, 1),
        M::Fcompp => |cpu, i| compare_registers(cpu, i, 1, ordered, 2),
        M::Fucom => |cpu, i| compare_registers(cpu, i, st_number(i, 1), unordered, 0),
        M::Fucomp => |cpu, i| compare_registers(cpu, i, st_number(i, 1), unordered, 1),
        M::Fucompp => |cpu, i| compare_registers(cpu, i, 1, unordered, 2),
        M::Fcomi => |cpu, i| compare_to_flags(cpu, i, ordered, 0),
        M::Fcomip => |cpu, i| compare_to_flags(cpu, i, ordered, 1),
        M::Fucomi => |cpu, i| compare_to_flags(cpu, i, unordered, 0),
        M::Fucomip => |cpu, i| compare_to_flags(cpu, i, unordered, 1),
        M::Ftst => test,
        M::Fxam => examine,
        _ => return None,
    })
}

const CODES: u16 = C0 | C2 | C3;
/// The condition codes of an unordered comparison.
const UNORDERED: u16 = C0 | C2 | C3;

/// A comparison of registers on the host: the status word.
type Comparison = fn(u16, crate::F80, crate::F80) -> u16;

fn ordered(control: u16, a: crate::F80, b: crate::F80) -> u16 {
    host::perform::<host::Compare>(control, a, Source::Register(b)).status
}

fn unordered(control: u16, a: crate::F80, b: crate::F80) -> u16 {
    plain::compare(a, b).unwrap_or_else(|| host::compare_unordered(control, a, b))
}

impl Cpu {
    /// Sets the condition codes from a host comparison, unless an unmasked exception keeps them.
    /// `None` is a stack underflow.
    fn finish_compare(&mut self, i: &Instruction, word: Option<u16>, pops: u8) {
        let raised = word.map_or(status::IE | status::SF, |word| word & status::EXCEPTIONS);
        if self.accept(i, raised, Destination::Register) {
            let codes = word.unwrap_or(UNORDERED) & CODES;
            self.fpu.status = self.fpu.status & !CODES | codes;
            for _ in 0..pops {
                self.fpu.pop();
            }
        }
    }
}

fn compare_memory<const POPS: u8>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let source = cpu.x87_memory_source(i)?;
    let word = (!cpu.fpu.is_empty(0))
        .then(|| host::perform::<host::Compare>(cpu.fpu.control, cpu.fpu.st(0), source).status);
    cpu.finish_compare(i, word, POPS);
    Ok(())
}

fn compare_registers(
    cpu: &mut Cpu,
    i: &Instruction,
    with: u8,
    comparison: Comparison,
    pops: u8,
) -> Done {
    cpu.x87_ready()?;
    let present = !cpu.fpu.is_empty(0) && !cpu.fpu.is_empty(with);
    let word = present.then(|| comparison(cpu.fpu.control, cpu.fpu.st(0), cpu.fpu.st(with)));
    cpu.finish_compare(i, word, pops);
    Ok(())
}

/// FCOMI and its kin: ZF, PF, CF as C3, C2, C0; OF, SF and AF are cleared.
fn compare_to_flags(cpu: &mut Cpu, i: &Instruction, comparison: Comparison, pops: u8) -> Done {
    cpu.x87_ready()?;
    let with = st_number(i, 1);
    let present = !cpu.fpu.is_empty(0) && !cpu.fpu.is_empty(with);
    let word = present.then(|| comparison(cpu.fpu.control, cpu.fpu.st(0), cpu.fpu.st(with)));
    let raised = word.map_or(status::IE | status::SF, |word| word & status::EXCEPTIONS);
    if cpu.accept(i, raised, Destination::Register) {
        let codes = word.unwrap_or(UNORDERED);
        let mut flags = 0;
        for (code, flag) in [(C3, rflags::ZF), (C2, rflags::PF), (C0, rflags::CF)] {
            if codes & code != 0 {
                flags |= flag;
            }
        }
        cpu.arith.set_bits(flags);
        for _ in 0..pops {
            cpu.fpu.pop();
        }
    }
    Ok(())
}

fn test(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let word = (!cpu.fpu.is_empty(0)).then(|| host::test(cpu.fpu.control, cpu.fpu.st(0)));
    cpu.finish_compare(i, word, 0);
    Ok(())
}

/// FXAM: the class of ST(0), empty or not, in C3, C2, C0 and its sign in C1.
fn examine(cpu: &mut Cpu, _i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let value = cpu.fpu.st(0);
    let class = if cpu.fpu.is_empty(0) {
        C3 | C0
    } else if value.is_zero() {
        C3
    } else if value.is_denormal() {
        C3 | C2
    } else if value.is_unsupported() {
        0
    } else if value.is_infinity() {
        C2 | C0
    } else if value.is_nan() {
        C0
    } else {
        C2
    };
    let sign = if value.is_negative() { C1 } else { 0 };
    cpu.fpu.status = cpu.fpu.status & !(CODES | C1) | class | sign;
    Ok(())
}
