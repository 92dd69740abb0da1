//! Rings and registers of the e1000.

use super::place::{self, E1000};
use super::{DATA, PATIENCE_US, RAM_END, RINGS, place_cards};
use crate::hostile_guest::program::Program;

pub(super) fn rings(program: &mut Program) {
    place_cards(program);
    program.store(E1000 + 0xd0, 4, 0xff);
    for at in [DATA, 0xd000_0000, 0xfee0_0000, 0x000f_0000, RAM_END as u32 - 64, 0xffff_fff0] {
        for high in [0, 1, u32::MAX] {
            for (length, head, tail) in [
                (0, 0, 1),
                (128, 0, 7),
                (128, 9, 2),
                (128, 0xffff, 0xffff),
                (0xf_ff80, 0, 0xffff),
                (0xf_ff80, 0xfff0, 0xffef),
            ] {
                let rings = [0x2800, 0x3800].into_iter().flat_map(|ring| {
                    [(0, at), (4, high), (8, length), (0x10, head), (0x18, tail)]
                        .map(|(register, value)| (ring + register, value))
                });
                for (register, value) in rings.chain([(0x100, 0x0603_803e), (0x400, 2)]) {
                    program.store(E1000 + register, 4, value);
                }
                program.wait(PATIENCE_US);
                program.load(E1000 + 0xc0);
            }
        }
    }
    // Packets without an end, of nothing, of all kinds, at addresses of all kinds.
    for command in [0x00, 0x01, 0x09, 0x0f, 0x20, 0x21, 0x25, 0x2d, 0x2f, 0xff] {
        for (to, length) in
            [(u64::from(DATA), 60), (0, 0xffff), (u64::MAX, 0xffff), (0xfee0_0000, 1)]
        {
            program.fill(RINGS, 0, 0x80);
            for slot in 0..8 {
                let at = RINGS + 16 * slot;
                program.store_wide(at, to);
                program.store(at + 8, 4, length | 0x000f_0000 | command << 24);
                // Segments of one byte behind long headers.
                program.store(at + 12, 4, 0x0001_ff00 | slot);
            }
            for (register, value) in
                [(0x3800, RINGS), (0x3804, 0), (0x3808, 128), (0x3810, 0), (0x3818, 7), (0x400, 2)]
            {
                program.store(E1000 + register, 4, value);
            }
            program.wait(PATIENCE_US);
            program.load(E1000 + 0xc0);
        }
    }
    // EEPROM, PHY, registers beyond the last, of odd widths.
    for value in [0, 1, 0x10, 0xff, 0x0400_0000, 0x0800_0000, u32::MAX] {
        for register in [0x10, 0x14, 0x20, 0x18, 0x28, 0x5400, 0x1_fffc] {
            program.store(E1000 + register, 4, value);
            program.store(E1000 + register + 1, 2, value);
            program.load(E1000 + register);
            program.load(E1000 + register + 2);
        }
        program.out(place::E1000_PORTS, 4, value);
        program.out(place::E1000_PORTS + 4, 4, value);
        program.input(place::E1000_PORTS + 4, 4);
    }
}
