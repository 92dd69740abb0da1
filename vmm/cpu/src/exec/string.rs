//! String instructions and their repetition (SDM vol. 1, 7.3.9).
//!
//! A repeated instruction completes once, when all of it is done; no interrupt is taken inside it.
//! A fault leaves the counter and the pointers at the iteration that faulted, so that the
//! instruction goes on from there. Forward moves and fills of RAM go a page at a time
//! ([`Cpu::copy_chunk`], [`Cpu::fill_chunk`]) with the same outcome as one element at a time.

use super::operand::segment_of;
use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use crate::flags::{rflags, zero_extend};
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// The semantics of this family's instructions.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    // Movsd and Cmpsd are also SSE2 instructions; those have no string operands.
    if !(0..i.op_count()).any(|n| StringAddress::width(i.op_kind(n)).is_some()) {
        return None;
    }
    Some(match i.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => movs,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => stos,
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => lods,
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => cmps,
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => scas,
        _ => return None,
    })
}

/// Where a string instruction's operands are and how it advances.
struct StringAddress {
    /// Segment of the source; the destination's is always ES.
    source: SegReg,
    /// Address size in bytes: of SI, DI and the counter.
    address: u32,
    /// Element size in bytes.
    element: u32,
    /// What is added to the pointers after each element.
    step: u64,
}

impl StringAddress {
    /// Address size in bytes that a string operand of this kind implies.
    fn width(kind: OpKind) -> Option<u32> {
        match kind {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(2),
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(4),
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(8),
            _ => None,
        }
    }

    fn of(cpu: &Cpu, i: &Instruction) -> StringAddress {
        let address = (0..i.op_count())
            .find_map(|n| StringAddress::width(i.op_kind(n)))
            .expect("only instructions with a string operand are selected");
        let element = i.memory_size().size() as u32;
        let down = cpu.flag(rflags::DF);
        let step = u64::from(element);
        StringAddress {
            source: segment_of(i.memory_segment()),
            address,
            element,
            step: if down { step.wrapping_neg() } else { step },
        }
    }

    /// The register `index` in the address size.
    fn get(&self, cpu: &Cpu, index: usize) -> u64 {
        zero_extend(cpu.gpr[index], self.address)
    }

    /// Sets the register `index` in the address size.
    fn set(&self, cpu: &mut Cpu, index: usize, value: u64) {
        let full = &mut cpu.gpr[index];
        *full = match self.address {
            2 => *full & !0xffff | value & 0xffff,
            size => zero_extend(value, size),
        };
    }

    /// Moves a pointer past `elements` elements.
    fn advance(&self, cpu: &mut Cpu, index: usize, elements: u64) {
        let value = cpu.gpr[index].wrapping_add(self.step.wrapping_mul(elements));
        self.set(cpu, index, value);
    }

    fn load_source(&self, cpu: &mut Cpu) -> Result<u64, Abort> {
        cpu.read_sized(self.source, self.get(cpu, gpr::RSI), self.element)
    }

    fn load_destination(&self, cpu: &mut Cpu) -> Result<u64, Abort> {
        cpu.read_sized(SegReg::Es, self.get(cpu, gpr::RDI), self.element)
    }

    fn store_destination(&self, cpu: &mut Cpu, value: u64) -> Done {
        cpu.write_sized(SegReg::Es, self.get(cpu, gpr::RDI), value, self.element)
    }

    /// The accumulator of the element's size.
    fn accumulator(&self) -> Register {
        match self.element {
            1 => Register::AL,
            2 => Register::AX,
            4 => Register::EAX,
            _ => Register::RAX,
        }
    }

    /// How many elements the segment offsets at `index` can advance before they wrap or leave their
    /// page, at most.
    fn elements_in_page(&self, offset: u64, linear: u64) -> u64 {
        let in_page = 0x1000 - (linear & 0xfff);
        let top = zero_extend(u64::MAX, self.address);
        let before_wrap = (top - offset).saturating_add(1);
        in_page.min(before_wrap) / u64::from(self.element)
    }
}

/// Runs `one` once, or as often as the counter says. `one` does an element and returns how many it
/// did (more than one by a chunk, never more than it was told are left) or `None` to stop after this
/// element.
fn repeat(
    cpu: &mut Cpu,
    i: &Instruction,
    s: &StringAddress,
    mut one: impl FnMut(&mut Cpu, u64) -> Result<Step, Abort>,
) -> Done {
    // F2 before an instruction that does not compare repeats as F3 does.
    if !(i.has_rep_prefix() || i.has_repne_prefix()) {
        return one(cpu, 1).map(|_| ());
    }
    loop {
        let count = s.get(cpu, gpr::RCX);
        if count == 0 {
            return Ok(());
        }
        let Step { elements, last } = one(cpu, count)?;
        assert!(elements <= count, "a chunk did more than was left");
        s.set(cpu, gpr::RCX, count - elements);
        if last {
            return Ok(());
        }
    }
}

/// What one call of a string instruction's body did.
struct Step {
    elements: u64,
    /// The repetition ends here although the counter is not used up.
    last: bool,
}

const ONE: Step = Step { elements: 1, last: false };

fn movs(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, left| {
        let elements = if left > 1 { movs_chunk(cpu, &s, left) } else { 0 };
        if elements == 0 {
            let value = s.load_source(cpu)?;
            s.store_destination(cpu, value)?;
        }
        let elements = elements.max(1);
        s.advance(cpu, gpr::RSI, elements);
        s.advance(cpu, gpr::RDI, elements);
        Ok(Step { elements, last: false })
    })
}

/// Moves as many elements as a page-wise copy can, perhaps none.
fn movs_chunk(cpu: &mut Cpu, s: &StringAddress, left: u64) -> u64 {
    if cpu.flag(rflags::DF) {
        return 0;
    }
    let (from, to) = (s.get(cpu, gpr::RSI), s.get(cpu, gpr::RDI));
    let Ok(source) = cpu.linear(s.source, from, s.element, false) else { return 0 };
    let Ok(target) = cpu.linear(SegReg::Es, to, s.element, true) else { return 0 };
    let elements = left.min(s.elements_in_page(from, source)).min(s.elements_in_page(to, target));
    let bytes = (elements * u64::from(s.element)) as u32;
    if elements < 2
        || cpu.linear(s.source, from, bytes, false).is_err()
        || cpu.linear(SegReg::Es, to, bytes, true).is_err()
    {
        return 0;
    }
    u64::from(cpu.copy_chunk(source, target, bytes, s.element) / s.element)
}

fn stos(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    let value = cpu.reg(s.accumulator());
    repeat(cpu, i, &s, |cpu, left| {
        let elements = if left > 1 { stos_chunk(cpu, &s, value, left) } else { 0 };
        if elements == 0 {
            s.store_destination(cpu, value)?;
        }
        let elements = elements.max(1);
        s.advance(cpu, gpr::RDI, elements);
        Ok(Step { elements, last: false })
    })
}

/// Fills as many elements as lie in one page of RAM, perhaps none.
fn stos_chunk(cpu: &mut Cpu, s: &StringAddress, value: u64, left: u64) -> u64 {
    if cpu.flag(rflags::DF) {
        return 0;
    }
    let to = s.get(cpu, gpr::RDI);
    let Ok(target) = cpu.linear(SegReg::Es, to, s.element, true) else { return 0 };
    let elements = left.min(s.elements_in_page(to, target));
    let bytes = (elements * u64::from(s.element)) as u32;
    if elements < 2 || cpu.linear(SegReg::Es, to, bytes, true).is_err() {
        return 0;
    }
    u64::from(cpu.fill_chunk(target, value, s.element, bytes) / s.element)
}

fn lods(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, _| {
        let value = s.load_source(cpu)?;
        cpu.set_reg(s.accumulator(), value);
        s.advance(cpu, gpr::RSI, 1);
        Ok(ONE)
    })
}

/// Whether a comparing repetition ends after an element with this ZF.
fn ends_comparison(i: &Instruction, zf: bool) -> bool {
    // With both prefixes the decoder keeps the last, as the hardware does.
    if i.has_repne_prefix() { zf } else { !zf }
}

fn cmps(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    repeat(cpu, i, &s, |cpu, _| {
        let left = s.load_source(cpu)?;
        let right = s.load_destination(cpu)?;
        cpu.arith.set_sub(left, right, left.wrapping_sub(right), s.element);
        s.advance(cpu, gpr::RSI, 1);
        s.advance(cpu, gpr::RDI, 1);
        Ok(Step { elements: 1, last: ends_comparison(i, left == right) })
    })
}

fn scas(cpu: &mut Cpu, i: &Instruction) -> Done {
    let s = StringAddress::of(cpu, i);
    let left = cpu.reg(s.accumulator());
    repeat(cpu, i, &s, |cpu, _| {
        let right = s.load_destination(cpu)?;
        cpu.arith.set_sub(left, right, left.wrapping_sub(right), s.element);
        s.advance(cpu, gpr::RDI, 1);
        Ok(Step { elements: 1, last: ends_comparison(i, left == right) })
    })
}
