//! The board as the CPU sees it.

use crate::accesses::Access;
use crate::board::Board;
use dejavm_cpu::Bus;
use dejavm_units::{Gpa, Position};

/// The address of the local APIC's registers, and its switch (SDM vol. 3A, 11.4.4).
const IA32_APIC_BASE: u32 = 0x1b;

impl Bus for Board {
    fn port_in(&mut self, port: u16, size: u8, at: Position) -> u32 {
        let now = self.clock.at(at);
        let value = self.read_port(port, size, now);
        self.accesses.note(Access::PortIn(port, size, value));
        self.settle();
        self.count_exits(1);
        value
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32, at: Position) {
        let now = self.clock.at(at);
        self.accesses.note(Access::PortOut(port, size, value));
        self.write_port(port, size, value, now);
        self.take_requests();
        self.settle();
        self.notice_memory_wishes();
        self.count_exits(1);
    }

    fn mmio_read(&mut self, gpa: Gpa, size: u8, at: Position) -> u64 {
        let now = self.clock.at(at);
        let value = self.read_memory(gpa, size, now);
        self.accesses.note(Access::MemoryRead(gpa, size, value));
        self.settle();
        self.count_exits(1);
        value
    }

    fn mmio_write(&mut self, gpa: Gpa, size: u8, value: u64, at: Position) {
        let now = self.clock.at(at);
        self.accesses.note(Access::MemoryWrite(gpa, size, value));
        self.write_memory(gpa, size, value, now);
        self.settle();
        self.notice_memory_wishes();
        self.count_exits(1);
    }

    fn fetch(&self, gpa: Gpa, into: &mut [u8]) -> bool {
        self.firmware.as_ref().is_some_and(|firmware| firmware.shadow.read_rom(gpa, into))
    }

    fn tsc(&mut self, at: Position) -> u64 {
        self.clock.tsc(at)
    }

    fn tsc_ahead(&self) -> Option<u64> {
        self.clock.tsc_ahead()
    }

    fn msr_read(&mut self, msr: u32, _at: Position) -> Option<u64> {
        (msr == IA32_APIC_BASE).then(|| self.lapic().apic_base())
    }

    fn msr_write(&mut self, msr: u32, value: u64, _at: Position) -> bool {
        let accepted = msr == IA32_APIC_BASE && self.lapic().set_apic_base(value);
        self.settle();
        accepted
    }

    fn cr8(&mut self) -> u8 {
        self.lapic().cr8()
    }

    fn set_cr8(&mut self, priority: u8, _at: Position) {
        self.lapic().set_cr8(priority);
        self.settle();
    }

    fn halts(&mut self, _at: Position) {
        self.accesses.note(Access::Halt);
        self.count_exits(1);
    }

    fn exits(&self) -> u64 {
        self.clock.exits()
    }

    fn interrupt_pending(&self) -> bool {
        self.interrupt
    }

    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        let vector = self.acknowledge();
        self.accesses.note(Access::Acknowledged(vector));
        vector
    }

    fn signal_pending(&self) -> bool {
        self.signal
    }

    fn take_nmi(&mut self) -> bool {
        self.signal && self.take_signals()
    }

    fn wants_control(&self) -> bool {
        self.wants_control
    }

    fn a20_enabled(&self) -> bool {
        self.a20()
    }
}
