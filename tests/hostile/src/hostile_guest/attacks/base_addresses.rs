//! Registers of cards where something else answers.

use super::place::{self, E1000};
use super::{PATIENCE_US, place_cards};
use crate::hostile_guest::program::Program;

/// Registers of cards where something else answers.
pub(super) fn base_addresses(program: &mut Program) {
    place_cards(program);
    let places = [
        0x0010_0000,
        0x0000_0000,
        0x003f_8000,
        0xfee0_0000,
        0xfec0_0000,
        0x000a_0000,
        0x000f_0000,
        0xffff_0000,
        0xffff_c000,
        E1000,
        place::VGA_MEMORY,
        0xffff_ffff,
    ];
    let bars = [(3, 0x10), (3, 0x14), (4, 0x10), (6, 0x10), (6, 0x14), (2, 0x10), (2, 0x18)];
    for at in places {
        for (device, bar) in bars {
            program.config(device, 0, bar, at);
            program.read_config(device, 0, bar);
        }
        // What is RAM or an APIC stays that.
        if at >= 0x40_0000 {
            let page = at & !0xfff;
            for offset in [0, 0x10, 0x20, 0xf0, 0xffd] {
                program.load(page.wrapping_add(offset).min(u32::MAX - 3));
                program.store(page.wrapping_add(offset).min(u32::MAX - 3), 4, 0x0001_0000);
            }
        }
        program.wait(PATIENCE_US);
    }
    // Ports over the board's own.
    for at in [0x20, 0x60, 0x70, 0x3c0, 0x3f8, 0x510, 0xcf8, 0xffc0] {
        program.config(6, 0, 0x14, at | 1);
        program.config(1, 1, 0x20, at | 1);
        for port in [at, at + 4] {
            program.input(port as u16, 4);
            program.input(port as u16, 1);
        }
    }
    // All of configuration space, of functions that there are and that there are not.
    for (device, function) in [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (6, 0), (7, 3), (31, 7)] {
        for offset in (0..0x100).step_by(4) {
            program.config(device, function, offset as u8, 0xa5a5_a5a5);
            program.read_config(device, function, offset as u8);
        }
    }
}
