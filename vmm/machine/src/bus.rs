//! The board as the CPU sees it: ports, memory-mapped registers, interrupts.

use crate::board::Board;
use crate::machine::End;
use dejavm_cpu::Bus;
use dejavm_units::{Gpa, Position};

impl Bus for Board {
    fn port_in(&mut self, _port: u16, size: u8, _at: Position) -> u32 {
        u32::MAX >> (32 - 8 * u32::from(size).min(4))
    }

    fn port_out(&mut self, port: u16, _size: u8, value: u32, _at: Position) {
        match port {
            0xe9 | 0x402 => self.output.debug_console(value as u8),
            0xf4 => self.finish(End::DebugExit(value)),
            _ => {}
        }
    }

    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        u64::MAX
    }

    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {}

    fn tsc(&mut self, at: Position) -> u64 {
        self.clock.tsc(at)
    }

    fn msr_read(&mut self, _msr: u32, _at: Position) -> Option<u64> {
        None
    }

    fn msr_write(&mut self, _msr: u32, _value: u64, _at: Position) -> bool {
        false
    }

    fn cr8(&mut self) -> u8 {
        0
    }

    fn set_cr8(&mut self, _priority: u8, _at: Position) {}

    fn interrupt_pending(&self) -> bool {
        false
    }

    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        0
    }

    fn take_nmi(&mut self) -> bool {
        false
    }

    fn wants_control(&self) -> bool {
        self.wants_control
    }

    fn a20_enabled(&self) -> bool {
        self.a20()
    }
}
