//! The board as the CPU sees it.

use crate::board::Board;
use dejavm_cpu::Bus;
use dejavm_units::{Gpa, Position};

impl Bus for Board {
    fn port_in(&mut self, port: u16, size: u8, at: Position) -> u32 {
        let now = self.clock.at(at);
        let value = self.read_port(port, size, now);
        self.settle();
        value
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32, at: Position) {
        let now = self.clock.at(at);
        self.write_port(port, size, value, now);
        self.settle();
    }

    fn mmio_read(&mut self, _gpa: Gpa, size: u8, _at: Position) -> u64 {
        u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8)))
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
        self.interrupt
    }

    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        let vector = self.pic.acknowledge();
        self.settle();
        vector
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
