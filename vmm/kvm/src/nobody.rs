//! A board with nothing on it, for guests of a few instructions.

use dejavm_cpu::Bus;
use dejavm_units::{Gpa, Position};

/// No board.
pub(crate) struct Nobody;

impl Bus for Nobody {
    fn port_in(&mut self, _port: u16, _size: u8, _at: Position) -> u32 {
        u32::MAX
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32, _at: Position) {}
    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {}
    fn tsc(&mut self, _at: Position) -> u64 {
        0
    }
    fn tsc_ahead(&self) -> Option<u64> {
        None
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
        unreachable!("none is ever pending")
    }
    fn signal_pending(&self) -> bool {
        false
    }
    fn take_nmi(&mut self) -> bool {
        false
    }
    fn wants_control(&self) -> bool {
        false
    }
    fn a20_enabled(&self) -> bool {
        true
    }
}
