//! Copies of the configuration device.

use super::place::NO_RAM;
use super::{DATA, RAM_END};
use crate::hostile_guest::program::Program;

pub(super) fn copies(program: &mut Program) {
    const SELECT: u32 = 8;
    const READ: u32 = 2;
    const SKIP: u32 = 4;
    const WRITE: u32 = 16;
    let mut copy = |at: u64, control: u32, length: u32, to: u64| {
        if at < RAM_END - 16 {
            let words = [control, length, (to >> 32) as u32, to as u32];
            for (word, value) in (0..).zip(words) {
                program.store(at as u32 + 4 * word, 4, value.swap_bytes());
            }
        }
        program.out(0x514, 4, ((at >> 32) as u32).swap_bytes());
        program.out(0x518, 4, (at as u32).swap_bytes());
        program.input(0x511, 1);
    };
    for to in NO_RAM.into_iter().chain([RAM_END - 4, DATA.into()]) {
        for control in [SELECT | READ, READ, SKIP, WRITE, SELECT | READ | WRITE | SKIP, u32::MAX] {
            for length in [0, 1, 0x1000, u32::MAX] {
                copy(DATA.into(), control | 0x19 << 16, length, to);
            }
        }
        // The descriptor itself is nowhere.
        copy(to, 0, 0, 0);
    }
    // The copy lies over its descriptor.
    copy(DATA.into(), SELECT | READ | 0x19 << 16, 64, DATA.into());
}
