//! Modes of the display.

use super::{place, place_cards};
use crate::hostile_guest::program::Program;

pub(super) fn modes(program: &mut Program) {
    place_cards(program);
    // Every register of every set, with values of all kinds.
    for (index_port, count) in [(0x3c4, 8u32), (0x3ce, 16), (0x3d4, 0x20)] {
        for index in 0..count {
            for value in [0xff, 0x00, 0x5a] {
                program.out(index_port, 2, index | value << 8);
                program.input(index_port + 1, 1);
            }
        }
        program.store(0xa_0000, 4, 0x1234_5678);
        program.load(0xa_ffff);
        program.load(0xb_fffd);
    }
    for index in 0..0x40 {
        program.input(0x3da, 1);
        program.out(0x3c0, 1, index);
        program.out(0x3c0, 1, 0xff);
    }
    // Linear modes of no size, of all sizes, beyond memory.
    for (width, height, depth) in [
        (0, 0, 32),
        (0xffff, 0xffff, 32),
        (1, 1, 1),
        (2560, 1600, 32),
        (640, 480, 7),
        (1, 0xffff, 8),
    ] {
        for enable in [0x00, 0x01, 0x41, 0xc1, 0xff] {
            for (register, value) in [
                (4, 0),
                (1, width),
                (2, height),
                (3, depth),
                (5, 0xffff),
                (6, 0xffff),
                (8, 0xffff),
                (9, 0xffff),
                (4, enable),
                (0xffff, 0xffff),
            ] {
                program.out(0x1ce, 2, register);
                program.out(0x1cf, 2, value);
                program.input(0x1cf, 4);
            }
            program.store(place::VGA_MEMORY + 0xff_fffc, 4, 0x0102_0304);
            program.load(place::VGA_MEMORY + 0xff_fffd);
            program.store(0xa_fffe, 4, 0x0a0b_0c0d);
        }
        program.store(place::VGA_REGISTERS + 0x504, 2, width);
        program.store(place::VGA_REGISTERS + 0x4ff, 4, width);
        program.load(place::VGA_REGISTERS + 0xffd);
    }
    program.fill(0xa_0000, 0x5555_5555, 0x8000);
}
