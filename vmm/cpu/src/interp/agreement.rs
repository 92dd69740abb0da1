//! The handlers against the reference semantics: random instructions on random registers, one at a
//! time, must leave the same state and memory, undefined flags included. A difference would show as a
//! replay that depends on where blocks are cut.

#![expect(clippy::disallowed_macros, reason = "tests print seeds")]

use crate::mmu::{Engine, Tuning};
use crate::testing::{Bench, CODE, DATA, STACK};
use dejavm_units::Position;

/// Xorshift64* (Vigna).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    /// A number with few bits, all bits but few, any bits, or an address of data.
    fn operand(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4),
            1 => (1 << self.below(64)) - self.below(2),
            2 => self.next(),
            3 => 0u64.wrapping_sub(self.below(4)),
            _ => DATA + self.below(0x800),
        }
    }
}

/// Opcodes without and with 0FH that have handlers, in some form.
const PLAIN: &[u8] = &[
    0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39, 0x03, 0x0b, 0x13, 0x1b, 0x23, 0x2b, 0x33, 0x3b,
    0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0x85, 0x87, 0x89, 0x8b, 0x8d, 0x98, 0x99, 0xc1, 0xc7, 0xd1,
    0xd3, 0xf6, 0xf7, 0xfe, 0xff,
];
const AFTER_0F: &[u8] = &[
    0x10, 0x11, 0x28, 0x29, 0x44, 0x4f, 0x57, 0x60, 0x63, 0x67, 0x6d, 0x6e, 0x6f, 0x70, 0x72, 0x73,
    0x74, 0x7e, 0x7f, 0x84, 0x92, 0x9f, 0xa3, 0xaf, 0xb6, 0xb7, 0xba, 0xbe, 0xbf, 0xca, 0xd6, 0xd7,
    0xef, 0xf4, 0xf6, 0xfe,
];

fn random_instruction(random: &mut Random, wide: bool) -> [u8; 15] {
    let mut bytes = [0; 15];
    for byte in &mut bytes {
        *byte = random.next() as u8;
    }
    let mut at = 0;
    let mut put = |byte: u8| {
        bytes[at] = byte;
        at += 1;
    };
    if random.below(4) == 0 {
        put([0x66, 0x66, 0xf2, 0xf3][random.below(4) as usize]);
    }
    if wide && random.below(2) == 0 {
        put(0x40 | random.next() as u8 & 15);
    }
    let handled = random.below(4) != 0;
    let two_bytes = random.below(2) == 0;
    if two_bytes {
        put(0x0f);
    }
    if handled {
        let opcodes = if two_bytes { AFTER_0F } else { PLAIN };
        put(opcodes[random.below(opcodes.len() as u64) as usize]);
        // Half of them on registers.
        put(random.next() as u8 | if random.below(2) == 0 { 0xc0 } else { 0 });
    }
    // Small immediates and displacements are the interesting ones; the operation stays random.
    for byte in &mut bytes[at + 1..] {
        if random.below(2) == 0 {
            *byte = (random.below(0x50) as u8).wrapping_sub(8);
        }
    }
    bytes
}

fn compare(seed: u64, rounds: u32, make: fn() -> Bench) {
    println!("seed {seed:#x}, {rounds} rounds");
    let mut random = Random(seed);
    let (mut decoded, mut reference) = (make(), make());
    let fresh = reference.cpu.state();
    let wide = reference.cpu.is_64bit();
    let tables = reference.peek::<0x3000>(0x1000);
    let mut data = [0u8; 0x2000];
    for byte in &mut data {
        *byte = random.next() as u8;
    }
    for round in 0..rounds {
        let mut state = fresh.clone();
        for register in &mut state.gpr {
            *register = random.operand() & if wide { u64::MAX } else { 0xffff_ffff };
        }
        // Repetitions end soon.
        state.gpr[1] &= 0xff;
        if random.below(4) != 0 {
            state.gpr[4] = STACK - 8 * random.below(8);
        }
        for register in &mut state.xmm {
            *register = u128::from(random.operand()) << 64 | u128::from(random.operand());
        }
        state.rflags = 2 | random.next() & 0x8d5;
        let code = random_instruction(&mut random, wide);
        for bench in [&mut decoded, &mut reference] {
            bench.poke(0x1000, &tables);
            bench.poke(CODE, &code);
            bench.poke(DATA, &data);
            bench.poke(STACK - 0x100, &data[..0x200]);
            bench.cpu.set_state(&state);
        }
        let by_handler = decoded.cpu.try_step_decoded(&mut decoded.ram, &mut decoded.board);
        let by_reference = reference.cpu.try_step(&mut reference.ram, &mut reference.board);
        let at = format!("round {round}, {code:02x?}, before {:x?} {:#x}", state.gpr, state.rflags);
        assert_eq!(by_handler, by_reference, "{at}");
        assert_eq!(decoded.cpu.state(), reference.cpu.state(), "{at}");
        assert_eq!(decoded.peek::<0x2000>(DATA), reference.peek::<0x2000>(DATA), "{at}");
        let stacks = [&decoded, &reference].map(|bench| bench.peek::<0x200>(STACK - 0x100));
        assert_eq!(stacks[0], stacks[1], "{at}");
    }
}

#[test]
fn handlers_agree_with_the_reference_in_64_bit_mode() {
    compare(0x6465_6a61_766d_0040, 30_000, Bench::long);
}

#[test]
fn handlers_agree_with_the_reference_in_32_bit_mode() {
    compare(0x6465_6a61_766d_0020, 30_000, Bench::protected);
}

/// An operation that sets flags and the conditional jump after it, which may share a handler: as one
/// run of two instructions, against the same by the reference semantics.
#[test]
fn fused_jumps_agree_with_the_reference() {
    let seed = 0x6465_6a61_766d_0f5d;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let (mut decoded, mut reference) = (Bench::long(), Bench::long());
    reference.cpu.set_tuning(Tuning { engine: Engine::Reference, ..Tuning::default() });
    let fresh = reference.cpu.state();
    let mut data = [0u8; 0x1000];
    for round in 0..20_000 {
        for byte in &mut data {
            *byte = if random.below(3) == 0 { 0 } else { random.next() as u8 };
        }
        let mut state = fresh.clone();
        for register in &mut state.gpr {
            *register = random.operand();
        }
        // A pair of registers is often equal, and one often points to data.
        if random.below(4) == 0 {
            state.gpr[random.below(16) as usize] = state.gpr[random.below(16) as usize];
        }
        state.rflags = 2 | random.next() & 0x8d5;
        let mut code = Vec::new();
        if random.below(4) == 0 {
            code.push(0x66);
        }
        if random.below(2) == 0 {
            code.push(0x40 | random.next() as u8 & 15);
        }
        // ADD, AND, SUB, CMP and TEST in the forms that have fused handlers, and some that have not.
        const OPCODES: &[u8] =
            &[0x38, 0x39, 0x3a, 0x3b, 0x84, 0x85, 0x28, 0x29, 0x2b, 0x21, 0x01, 0x80, 0x81, 0x83];
        let opcode = OPCODES[random.below(OPCODES.len() as u64) as usize];
        code.push(opcode);
        let form = random.next() as u8 | if random.below(2) == 0 { 0xc0 } else { 0 };
        code.push(form);
        code.extend((0..9).map(|_| if random.below(2) == 0 { 0 } else { random.next() as u8 }));
        let decoder =
            iced_x86::Decoder::new(64, &code, iced_x86::DecoderOptions::NONE).into_iter().next();
        let Some(first) = decoder.filter(|first| !first.is_invalid()) else { continue };
        code.truncate(first.len());
        code.extend([0x70 | random.next() as u8 & 15, 0x10]);
        let outcome = [&mut decoded, &mut reference].map(|bench| {
            bench.poke(DATA, &data);
            bench.poke(CODE, &code);
            bench.cpu.set_state(&state);
            let until = Position(state.position.0 + 2);
            let stop = bench.cpu.run_until(&mut bench.ram, &mut bench.board, until);
            (stop, bench.cpu.state(), bench.peek::<0x1000>(DATA))
        });
        assert_eq!(outcome[0], outcome[1], "round {round}, {code:02x?}, {state:x?}");
    }
}
