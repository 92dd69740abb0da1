//! The software CPU in place of an engine that counts exits: it comes back at each.

use crate::bus::Bus;
use dejavm_units::{Gpa, Position};

/// A bus that wants control as soon as there was an exit.
pub struct UntilExit<'a> {
    bus: &'a mut dyn Bus,
    /// [`Bus::exits`] when it began.
    exits: u64,
    /// In place of the bus's time stamp counter.
    counter: Option<&'a dyn Fn() -> u64>,
}

impl<'a> UntilExit<'a> {
    /// Until the next.
    pub fn new(bus: &'a mut dyn Bus) -> UntilExit<'a> {
        let exits = bus.exits();
        UntilExit { bus, exits, counter: None }
    }

    /// Until the next, with the time stamp counter of what else executes the guest.
    pub fn counting(bus: &'a mut dyn Bus, counter: &'a dyn Fn() -> u64) -> UntilExit<'a> {
        UntilExit { counter: Some(counter), ..UntilExit::new(bus) }
    }
}

impl Bus for UntilExit<'_> {
    fn port_in(&mut self, port: u16, size: u8, at: Position) -> u32 {
        self.bus.port_in(port, size, at)
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32, at: Position) {
        self.bus.port_out(port, size, value, at);
    }
    fn mmio_read(&mut self, gpa: Gpa, size: u8, at: Position) -> u64 {
        self.bus.mmio_read(gpa, size, at)
    }
    fn mmio_write(&mut self, gpa: Gpa, size: u8, value: u64, at: Position) {
        self.bus.mmio_write(gpa, size, value, at);
    }
    fn tsc(&mut self, at: Position) -> u64 {
        self.counter.map_or_else(|| self.bus.tsc(at), |counter| counter())
    }
    fn tsc_ahead(&self) -> Option<u64> {
        self.bus.tsc_ahead().filter(|_| self.counter.is_none())
    }
    fn msr_read(&mut self, msr: u32, at: Position) -> Option<u64> {
        self.bus.msr_read(msr, at)
    }
    fn msr_write(&mut self, msr: u32, value: u64, at: Position) -> bool {
        self.bus.msr_write(msr, value, at)
    }
    fn cr8(&mut self) -> u8 {
        self.bus.cr8()
    }
    fn set_cr8(&mut self, priority: u8, at: Position) {
        self.bus.set_cr8(priority, at);
    }
    fn halts(&mut self, at: Position) {
        self.bus.halts(at);
    }
    fn exits(&self) -> u64 {
        self.bus.exits()
    }
    fn interrupt_pending(&self) -> bool {
        self.bus.interrupt_pending()
    }
    fn acknowledge_interrupt(&mut self, at: Position) -> u8 {
        self.bus.acknowledge_interrupt(at)
    }
    fn signal_pending(&self) -> bool {
        self.bus.signal_pending()
    }
    fn take_nmi(&mut self) -> bool {
        self.bus.take_nmi()
    }
    fn wants_control(&self) -> bool {
        self.bus.wants_control() || self.bus.exits() != self.exits
    }
    fn a20_enabled(&self) -> bool {
        self.bus.a20_enabled()
    }
}
