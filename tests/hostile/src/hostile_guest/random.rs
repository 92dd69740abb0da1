//! Programs from a seed: anything to anything.

use super::attacks::place::{BUS_MASTER, E1000, NO_RAM, VGA_MEMORY, VGA_REGISTERS, VIRTIO_CARDS};
use super::attacks::place_cards;
use super::program::Program;
use crate::Random;

/// Bytes of code.
const BYTES: usize = 60_000;

/// Ports of the board, those that end a machine left out.
const PORTS: [u16; 50] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x60, 0x61, 0x70, 0x71,
    0x1ce, 0x1cf, 0x1f0, 0x1f0, 0x1f1, 0x1f2, 0x1f6, 0x1f7, 0x1f7, 0x170, 0x172, 0x176, 0x177,
    0x376, 0x3b4, 0x3c0, 0x3c2, 0x3c4, 0x3c5, 0x3c8, 0x3c9, 0x3ce, 0x3cf, 0x3d4, 0x3d5, 0x3da,
    0x3f6, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x510, 0x511, 0x514, 0x518,
];

/// Registers of cards.
const VIRTIO: [u32; 18] =
    [0, 4, 8, 12, 16, 20, 20, 22, 24, 28, 32, 40, 48, 0x1000, 0x2000, 0x3000, 0x3000, 0x3004];
const E1000_REGISTERS: [u32; 16] = [
    0, 0x10, 0x14, 0x20, 0xc0, 0xc8, 0xd0, 0x100, 0x400, 0x2800, 0x2808, 0x2810, 0x2818, 0x3800,
    0x3808, 0x3818,
];

/// The program of a seed.
pub fn random_program(seed: u64) -> Program {
    let mut random = Random::new(seed);
    let mut program = Program::default();
    place_cards(&mut program);
    while program.bytes() < BYTES {
        step(&mut program, &mut random);
    }
    program.finish();
    program
}

fn some<T: Copy>(of: &[T], random: &mut Random) -> T {
    of[random.below(of.len())]
}

/// A number that means something, mostly.
fn value(random: &mut Random) -> u32 {
    match random.below(6) {
        0 => random.next_u64() as u32,
        1 => random.below(16) as u32,
        2 => some(&NO_RAM, random) as u32,
        3 => 1 << random.below(32),
        4 => random.next_u64() as u32 & 0xffff,
        // Where lists are.
        _ => 0x2_0000 + (random.below(0x100) as u32) * 16,
    }
}

fn register(random: &mut Random) -> u32 {
    match random.below(8) {
        0..5 => some(&VIRTIO_CARDS, random).1 + some(&VIRTIO, random),
        5 => E1000 + some(&E1000_REGISTERS, random),
        6 => VGA_REGISTERS + random.below(0x600) as u32,
        _ => some(&[VGA_MEMORY, 0xa_0000, 0xfec0_0000], random) + random.below(0x40) as u32,
    }
}

fn step(program: &mut Program, random: &mut Random) {
    let size = some(&[1, 2, 4, 4], random);
    match random.below(16) {
        0..4 => {
            let (at, value) = (register(random), value(random));
            program.store(at, size, value);
        }
        4 => program.load(register(random)),
        5..8 => {
            let port = match random.below(8) {
                0 => BUS_MASTER + random.below(16) as u16,
                _ => some(&PORTS, random),
            };
            program.out(port, size, value(random));
        }
        8 => program.input(some(&PORTS, random), some(&[1, 4], random)),
        9 => {
            let (device, function) = some(
                &[(3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (2, 0), (1, 1), (1, 0), (0, 0)],
                random,
            );
            let offset = match random.below(3) {
                0 => random.below(0x100) as u8,
                1 => 4,
                _ => 0x10 + 4 * random.below(6) as u8,
            };
            // Mostly the cards stay where they are, and masters.
            match offset {
                4 if random.below(4) != 0 => program.config(device, function, 4, 7),
                0x10..0x28 if random.below(6) != 0 => place_cards(program),
                _ => program.config(device, function, offset, value(random)),
            }
        }
        10..13 => {
            // A descriptor of some list.
            let at = 0x2_0000 + (random.below(0x200) as u32) * 16;
            for word in 0..4 {
                program.store(at + 4 * word, 4, value(random));
            }
        }
        13 => program.wait(random.below(40) as u32),
        14 => {
            // A queue that a driver would set up, so that something is done.
            let (_, card) = some(&VIRTIO_CARDS, random);
            for (offset, size, value) in [
                (20, 1, 0),
                (20, 1, 3),
                (8, 4, 1),
                (12, 4, 1),
                (20, 1, 11),
                (22, 2, random.below(2) as u32),
                (24, 2, 1 << random.below(8)),
                (32, 4, 0x2_0000),
                (36, 4, 0),
                (40, 4, 0x2_1000),
                (44, 4, 0),
                (48, 4, 0x2_1800),
                (52, 4, 0),
                (28, 2, 1),
                (20, 1, 15),
            ] {
                program.store(card + offset, size, value);
            }
            program.store(0x2_1000, 4, (1 + random.below(3) as u32) << 16);
        }
        _ => program.fill(value(random) & 0x7_fff0 | 0x2_0000, value(random), 0x20),
    }
}
