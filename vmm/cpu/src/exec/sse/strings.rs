//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 1, 12.9.4; vol. 2B, 4.1).

use super::lanes::Lane;
use super::packed::{Binary, Pcmpeqb_xmm_xmmm128, byte_signs};
use crate::cpu::Cpu;
use crate::exec::{Done, Exec};
use crate::flags::rflags;
use crate::gpr;
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Pcmpestri_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, explicit32, index),
        Code::Pcmpestri64_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, explicit64, index),
        Code::Pcmpestrm_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, explicit32, mask),
        Code::Pcmpestrm64_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, explicit64, mask),
        Code::Pcmpistri_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, implicit, index),
        Code::Pcmpistrm_xmm_xmmm128_imm8 => |cpu, i| run(cpu, i, implicit, mask),
        _ => return None,
    };
    Some(exec)
}

/// The immediate's fields.
#[derive(Clone, Copy)]
struct Control(u8);

impl Control {
    fn words(self) -> bool {
        self.0 & 1 != 0
    }
    fn signed(self) -> bool {
        self.0 & 2 != 0
    }
    fn aggregation(self) -> u8 {
        self.0 >> 2 & 3
    }
    fn negates(self) -> bool {
        self.0 & 0x10 != 0
    }
    fn negates_valid_only(self) -> bool {
        self.0 & 0x20 != 0
    }
    /// Most significant index, or a mask of whole elements.
    fn wide_output(self) -> bool {
        self.0 & 0x40 != 0
    }
    /// Elements in a vector.
    fn count(self) -> usize {
        if self.words() { 8 } else { 16 }
    }
    /// The elements of a vector, as numbers that compare as the elements do.
    fn elements(self, vector: u128) -> [i32; 16] {
        let mut elements = [0; 16];
        match (self.words(), self.signed()) {
            (false, false) => fill(&mut elements, u8::split(vector)),
            (false, true) => fill(&mut elements, i8::split(vector)),
            (true, false) => fill(&mut elements, u16::split(vector)),
            (true, true) => fill(&mut elements, i16::split(vector)),
        }
        elements
    }
}

fn fill<T: Into<i32>, const N: usize>(elements: &mut [i32; 16], lanes: [T; N]) {
    for (to, from) in elements.iter_mut().zip(lanes) {
        *to = from.into();
    }
}

/// One operand: its vector and how many elements of it are valid.
struct Text {
    vector: u128,
    length: usize,
}

/// Lengths of operands 1 and 2 in elements, from the registers or the operands themselves.
type Lengths = fn(&Cpu, Control, u128, u128) -> (usize, usize);

/// Lengths in EAX and EDX: absolute values, at most a whole vector.
fn explicit32(cpu: &Cpu, control: Control, _: u128, _: u128) -> (usize, usize) {
    let length =
        |register: usize| (cpu.gpr[register] as i32).unsigned_abs().min(control.count() as u32);
    (length(gpr::RAX) as usize, length(gpr::RDX) as usize)
}

/// Lengths in RAX and RDX.
fn explicit64(cpu: &Cpu, control: Control, _: u128, _: u128) -> (usize, usize) {
    let length =
        |register: usize| (cpu.gpr[register] as i64).unsigned_abs().min(control.count() as u64);
    (length(gpr::RAX) as usize, length(gpr::RDX) as usize)
}

/// Lengths up to the first zero element.
fn implicit(_: &Cpu, control: Control, a: u128, b: u128) -> (usize, usize) {
    let length = |vector: u128| -> usize {
        if control.words() {
            u16::split(vector).iter().position(|&word| word == 0).unwrap_or(8)
        } else {
            let zeros = byte_signs(Pcmpeqb_xmm_xmmm128::apply(vector, 0));
            (zeros | 1 << 16).trailing_zeros() as usize
        }
    };
    (length(a), length(b))
}

fn run(
    cpu: &mut Cpu,
    i: &Instruction,
    lengths: Lengths,
    output: fn(&mut Cpu, Control, u32),
) -> Done {
    cpu.sse()?;
    let second =
        if super::operand::is_register(i, 1) { cpu.xmm_at(i, 1) } else { cpu.load_unaligned(i)? };
    let control = Control(i.immediate8());
    let first = cpu.xmm_at(i, 0);
    let (a_length, b_length) = lengths(cpu, control, first, second);
    let a = Text { vector: first, length: a_length };
    let b = Text { vector: second, length: b_length };
    let result = compare(control, &a, &b);
    output(cpu, control, result);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    cpu.arith.set_bits(
        flag(result != 0, rflags::CF)
            | flag(b.length < control.count(), rflags::ZF)
            | flag(a.length < control.count(), rflags::SF)
            | flag(result & 1 != 0, rflags::OF),
    );
    Ok(())
}

/// The manual's IntRes2: one bit for each element of operand 2.
fn compare(control: Control, a: &Text, b: &Text) -> u32 {
    let count = control.count();
    let all = (1 << count) - 1;
    let result = if control.aggregation() == 2 && !control.words() {
        equal_each_byte(a, b)
    } else {
        compare_elements(control, a, b)
    };
    match (control.negates(), control.negates_valid_only()) {
        (false, _) => result,
        (true, false) => result ^ all,
        (true, true) => result ^ ((1 << b.length) - 1),
    }
}

/// Equal each, of bytes: what string functions are made of.
fn equal_each_byte(a: &Text, b: &Text) -> u32 {
    let valid = |text: &Text| (1u32 << text.length) - 1;
    let equal = byte_signs(Pcmpeqb_xmm_xmmm128::apply(a.vector, b.vector));
    let (a, b) = (valid(a), valid(b));
    // Two elements past the ends are equal.
    equal & a & b | !(a | b) & 0xffff
}

/// The manual's IntRes1.
fn compare_elements(control: Control, a: &Text, b: &Text) -> u32 {
    let count = control.count();
    let (a_elements, b_elements) = (control.elements(a.vector), control.elements(b.vector));
    let set = &a_elements[..a.length];
    let matches = |n: usize| -> bool {
        let valid = n < b.length;
        let element = b_elements[n];
        match control.aggregation() {
            // Equal any: operand 1 is a set.
            0 => valid && set.contains(&element),
            // Ranges: operand 1 is pairs of bounds.
            1 => {
                let pairs = set.chunks_exact(2);
                valid && pairs.into_iter().any(|pair| pair[0] <= element && element <= pair[1])
            }
            // Equal each: two elements past the ends are equal.
            2 => match (n < a.length, valid) {
                (true, true) => a_elements[n] == element,
                (a_valid, b_valid) => a_valid == b_valid,
            },
            // Equal ordered: operand 1 occurs at `n`, as far as the vector reaches.
            _ => (0..a.length.min(count - n))
                .all(|k| n + k < b.length && a_elements[k] == b_elements[n + k]),
        }
    };
    (0..count).fold(0, |result, n| result | u32::from(matches(n)) << n)
}

/// ECX: the index of the lowest or highest bit, or the number of elements if there is none.
fn index(cpu: &mut Cpu, control: Control, result: u32) {
    cpu.gpr[gpr::RCX] = if result == 0 {
        control.count() as u64
    } else if control.wide_output() {
        result.ilog2().into()
    } else {
        result.trailing_zeros().into()
    };
}

/// XMM0: the bits, or each widened to an element.
fn mask(cpu: &mut Cpu, control: Control, result: u32) {
    let bit = |n: usize| result >> n & 1 != 0;
    cpu.xmm[0] = match (control.wide_output(), control.words()) {
        (false, _) => result.into(),
        (true, false) => u8::join(std::array::from_fn(|n| if bit(n) { u8::MAX } else { 0 })),
        (true, true) => u16::join(std::array::from_fn(|n| if bit(n) { u16::MAX } else { 0 })),
    };
}
