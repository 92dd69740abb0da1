//! IDE commands, packets and transfers that make no sense.

use super::place::{BUS_MASTER, NO_RAM};
use super::{DATA, PATIENCE_US, RAM_END, place_cards};
use crate::hostile_guest::program::Program;

const COMMAND_PORTS: [u16; 2] = [0x1f0, 0x170];
const CONTROL_PORTS: [u16; 2] = [0x3f6, 0x376];

fn command(program: &mut Program, port: u16, device: u32, count: u32, command: u32) {
    for (register, value) in [(6, device), (2, count), (3, 0), (4, 0), (5, 0), (7, command)] {
        program.out(port + register, 1, value);
    }
}

/// Commands in the middle of others, data that nobody asked for, odd accesses, resets in between.
pub(super) fn commands(program: &mut Program) {
    place_cards(program);
    let commands = [
        0x20, 0x24, 0xc4, 0x29, 0xc8, 0x25, 0x30, 0x34, 0xc5, 0x39, 0xca, 0x35, 0xec, 0xa0, 0xa1,
        0xc6, 0xef, 0xe7, 0x90, 0x91, 0x08, 0xf5, 0xb0, 0xff,
    ];
    for (port, control) in COMMAND_PORTS.into_iter().zip(CONTROL_PORTS) {
        for first in commands {
            for second in [0x20, 0x30, 0xa0, 0xec, 0xc8] {
                for device in [0xe0, 0xf0] {
                    command(program, port, device, 0, first);
                    program.wait(2);
                    program.input(port, 4);
                    program.out(port, 2, 0x28);
                    program.out(port, 1, 0x55);
                    command(program, port, device ^ 0x10, 3, second);
                    program.out(port, 4, 0xa5a5_a5a5);
                    program.input(port + 7, 1);
                }
            }
            program.out(control, 1, 4);
            program.out(port + 7, 1, first);
            program.out(control, 1, 0);
            program.wait(PATIENCE_US);
        }
    }
    // A packet of any kind, its answer cut off at an odd count.
    for command in 0..=255u32 {
        let port = COMMAND_PORTS[0];
        program.out(port + 6, 1, 0xf0);
        program.out(port + 1, 1, command & 1);
        program.out(port + 4, 1, 7);
        program.out(port + 5, 1, 0);
        program.out(port + 7, 1, 0xa0);
        program.wait(1);
        for word in [command, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff] {
            program.out(port, 2, word);
        }
        program.wait(1);
        for _ in 0..4 {
            program.input(port, 4);
        }
    }
}

/// Bus mastering with tables that are none and memory that is none.
pub(super) fn dma(program: &mut Program) {
    place_cards(program);
    let mut transfer = |table: u32, entries: &[(u32, u32)], write: bool| {
        let port = COMMAND_PORTS[0];
        program.out(BUS_MASTER, 1, 0);
        program.out(BUS_MASTER + 2, 1, 6);
        for (index, (at, length)) in (0..).zip(entries) {
            program.store(table + 8 * index, 4, *at);
            program.store(table + 8 * index + 4, 4, *length);
        }
        program.out(BUS_MASTER + 4, 4, table);
        command(program, port, 0xe0, 0, if write { 0xca } else { 0xc8 });
        program.out(BUS_MASTER, 1, if write { 1 } else { 9 });
        program.wait(PATIENCE_US);
        program.input(BUS_MASTER + 2, 1);
        program.input(port + 7, 1);
    };
    const LAST: u32 = 1 << 31;
    for write in [false, true] {
        for at in NO_RAM {
            transfer(0x2_0000, &[(at as u32, LAST)], write);
        }
        // No end; lengths that are odd or nothing; the table itself; across the end of RAM; too little.
        transfer(0x2_0000, &[(DATA, 2); 400], write);
        transfer(0x2_0000, &[(DATA + 1, 3), (DATA, 1), (DATA, LAST | 5)], write);
        transfer(0x2_0000, &[(0x2_0000, LAST)], write);
        transfer(0x2_0000, &[(RAM_END as u32 - 256, 0x1000), (DATA, LAST | 512)], write);
        transfer(0x2_0000, &[(DATA, LAST | 2)], write);
        // Tables at the end of RAM, and where there is none.
        transfer(RAM_END as u32 - 8, &[(DATA, 512)], write);
        for table in [0xd000_0000, 0xfee0_0000, 0xffff_fffc, 0xe000_0000, 0x000f_0000] {
            transfer(table, &[], write);
        }
    }
}
