//! Host code against the reference semantics: blocks of a few random instructions on random registers, so
//! that flags live and die between them and registers are borrowed and given back.

#![expect(clippy::disallowed_macros, reason = "tests print seeds")]

use crate::mmu::{Engine, Tuning};
use crate::run::Stop;
use crate::testing::{Bench, CODE, DATA, STACK};
use dejavm_units::Position;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

/// Xorshift64* (Vigna).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 32) % bound
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A number with few bits, all bits but few, any bits, or an address of data.
    fn operand(&mut self) -> u64 {
        match self.below(7) {
            0 => self.below(4),
            1 => (1 << self.below(64)) - self.below(2),
            2 => self.next(),
            3 => 0u64.wrapping_sub(self.below(4)),
            _ => DATA + 0x100 + self.below(0x800),
        }
    }
}

/// One-byte opcodes, most with a ModRM byte: arithmetic, moves, shifts, multiplications, the stack.
const PLAIN: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x08, 0x09, 0x0b, 0x0d, 0x10, 0x11, 0x13, 0x15, 0x19, 0x1a,
    0x1b, 0x20, 0x21, 0x23, 0x24, 0x28, 0x29, 0x2b, 0x2d, 0x30, 0x31, 0x33, 0x38, 0x39, 0x3a, 0x3b,
    0x3c, 0x3d, 0x50, 0x53, 0x54, 0x58, 0x5c, 0x5e, 0x63, 0x68, 0x69, 0x6a, 0x6b, 0x80, 0x81, 0x83,
    0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x8f, 0x90, 0x91, 0x97, 0x98, 0x99, 0xa8,
    0xa9, 0xb0, 0xb8, 0xc0, 0xc1, 0xc6, 0xc7, 0xc9, 0xd0, 0xd1, 0xd2, 0xd3, 0xf5, 0xf6, 0xf6, 0xf7,
    0xf7, 0xf8, 0xf9, 0xfe, 0xff,
];
/// The same after 0FH: bits, conditions, multiplications, SSE.
const AFTER_0F: &[u8] = &[
    0x10, 0x11, 0x12, 0x14, 0x16, 0x28, 0x29, 0x2a, 0x2c, 0x2d, 0x2e, 0x2f, 0x40, 0x44, 0x46, 0x4c,
    0x4f, 0x50, 0x51, 0x54, 0x57, 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x60, 0x61, 0x62, 0x66,
    0x6c, 0x6e, 0x6f, 0x70, 0x72, 0x73, 0x7e, 0x7f, 0x90, 0x92, 0x94, 0x97, 0x9a, 0x9c, 0x9f, 0xa3,
    0xa4, 0xab, 0xac, 0xaf, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf,
    0xc0, 0xc1, 0xc2, 0xc4, 0xc5, 0xc6, 0xc8, 0xcb, 0xd4, 0xd6, 0xd7, 0xdb, 0xe6, 0xeb, 0xef, 0xf4,
    0xfe,
];

/// An instruction that changes only registers, flags and memory, and goes on behind itself.
pub(crate) fn random_instruction(random: &mut Random) -> Vec<u8> {
    loop {
        let mut bytes = Vec::with_capacity(24);
        if random.below(5) == 0 {
            bytes.push(random.pick(&[0x66, 0x66, 0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x65, 0x67, 0x2e]));
        }
        if random.below(3) != 0 {
            bytes.push(0x40 | random.next() as u8 & 15);
        }
        if random.below(3) == 0 {
            bytes.push(0x0f);
            bytes.push(random.pick(AFTER_0F));
        } else {
            bytes.push(random.pick(PLAIN));
        }
        bytes.push(random.next() as u8 | if random.below(2) == 0 { 0xc0 } else { 0 });
        // Small immediates and displacements are the interesting ones.
        bytes.extend((0..12).map(|_| match random.below(3) {
            0 => random.next() as u8,
            1 => 0,
            _ => (random.below(0x50) as u8).wrapping_sub(8),
        }));
        let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if is_tame(&instruction) && (points_to_data(&instruction) || random.below(40) == 0) {
            bytes.truncate(instruction.len());
            return bytes;
        }
    }
}

fn is_tame(i: &Instruction) -> bool {
    let loads_segment = (0..i.op_count())
        .any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register());
    !i.is_invalid()
        && i.flow_control() == FlowControl::Next
        && !i.is_privileged()
        && !loads_segment
        && !i.is_string_instruction()
}

/// Registers that begin as addresses of data, for most accesses.
const POINTERS: [usize; 7] = [3, 5, 6, 7, 9, 13, 14];

/// Whether it has no memory operand, or one that is likely to be there.
fn points_to_data(i: &Instruction) -> bool {
    if !(0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        return true;
    }
    let base = i.memory_base();
    let is_pointer = base.is_gpr64() && (POINTERS.contains(&base.number()) || base.number() == 4);
    let near = (i.memory_displacement64() as i64).abs() < 0x100;
    is_pointer && near && i.memory_index() == iced_x86::Register::None
}

fn compare(seed: u64, rounds: u32) -> u32 {
    println!("seed {seed:#x}, {rounds} rounds");
    let mut random = Random(seed);
    let make = |tuning| {
        let mut bench = Bench::long().with_tables();
        bench.cpu.set_tuning(tuning);
        bench
    };
    let default = Tuning::default();
    let mut translated = make(Tuning { translate_after: 0, code_bytes: 512 << 10, ..default });
    let mut reference = make(Tuning { engine: Engine::Reference, ..default });
    let fresh = reference.cpu.state();
    let mut completed = 0;
    for round in 0..rounds {
        let mut state = fresh.clone();
        for register in &mut state.gpr {
            *register = random.operand();
        }
        for pointer in POINTERS {
            if random.below(16) != 0 {
                state.gpr[pointer] = DATA + 0x100 + random.below(0x800);
            }
        }
        if random.below(16) != 0 {
            state.gpr[4] = STACK - 8 * random.below(16);
        }
        for register in &mut state.xmm {
            let half = |random: &mut Random| match random.below(3) {
                0 => random.next(),
                1 => f64::to_bits(random.below(1000) as f64 / 8.0),
                _ => u64::from(f32::to_bits(random.below(100) as f32)) * 0x1_0000_0001,
            };
            *register = u128::from(half(&mut random)) << 64 | u128::from(half(&mut random));
        }
        state.rflags = 2 | random.next() & 0x8d5;
        state.rip = CODE + 0x80 * random.below(64);
        state.position = reference.cpu.position;
        let mut code = Vec::new();
        let count = 1 + random.below(6);
        for _ in 0..count {
            code.extend(random_instruction(&mut random));
        }
        // Some end in a condition, all in a jump: a block of exactly so many instructions.
        let ends_in_condition = random.below(3) == 0;
        if ends_in_condition {
            code.extend([0x70 | random.next() as u8 & 15, 0]);
        } else {
            code.extend([0xeb, 0]);
        }
        let data: [u8; 0x1000] = std::array::from_fn(|_| match random.below(4) {
            0 => 0,
            _ => random.next() as u8,
        });
        let limit = Position(state.position.0 + count + 1);
        let outcomes = [&mut translated, &mut reference].map(|bench| {
            bench.poke(state.rip, &code);
            // The first time, translations of addresses are not known; the second time they are.
            let mut stop = Stop::Limit;
            for warm in [false, true] {
                bench.poke(DATA, &data);
                bench.poke(STACK - 0x200, &data[..0x400]);
                if warm {
                    bench.cpu.set_user_registers(&state);
                    bench.cpu.position = state.position;
                } else {
                    bench.cpu.set_state(&state);
                }
                stop = bench.cpu.run_until(&mut bench.ram, &mut bench.board, limit);
                if stop != Stop::Limit {
                    break;
                }
            }
            let memory = (bench.peek::<0x1000>(DATA), bench.peek::<0x400>(STACK - 0x200));
            (stop, bench.cpu.state(), memory)
        });
        completed += u32::from(outcomes[0].0 == Stop::Limit);
        if outcomes[0] == outcomes[1] {
            continue;
        }
        let decoder = Decoder::with_ip(64, &code, state.rip, DecoderOptions::NONE);
        for i in decoder {
            println!("{:?}", i.code());
        }
        println!("{code:02x?}, from {:x?} flags {:#x}", state.gpr, state.rflags);
        assert_eq!(outcomes[0].0, outcomes[1].0, "round {round}");
        assert_eq!(outcomes[0].1, outcomes[1].1, "round {round}");
        let memory = outcomes.map(|outcome| outcome.2);
        let at = (0..0x1000).find(|&n| memory[0].0[n] != memory[1].0[n]);
        panic!("round {round}: memory differs, at offset {at:x?} of the data, or on the stack");
    }
    completed
}

#[test]
fn blocks_of_a_few_instructions_agree_with_the_reference() {
    let rounds = 40_000;
    let completed = compare(0x6465_6a61_766d_5e9e, rounds);
    assert!(completed > rounds / 2, "only {completed} of {rounds} completed");
}
