//! What the CPU asks of the board.

use dejavm_units::{Gpa, Position};

/// Everything outside the CPU and RAM. Calls happen only while an instruction runs alone, at the
/// exact position `at` (the number of instructions completed before it).
pub trait Bus {
    /// IN: reads `size` bytes (1, 2 or 4) from I/O port `port`.
    fn port_in(&mut self, port: u16, size: u8, at: Position) -> u32;
    /// OUT: writes `size` bytes (1, 2 or 4).
    fn port_out(&mut self, port: u16, size: u8, value: u32, at: Position);
    /// A load of `size` bytes (1, 2, 4 or 8) from an address where no RAM answers.
    fn mmio_read(&mut self, gpa: Gpa, size: u8, at: Position) -> u64;
    /// A store of `size` bytes to an address where no RAM answers.
    fn mmio_write(&mut self, gpa: Gpa, size: u8, value: u64, at: Position);
    /// Bytes of instructions at an address where no RAM answers, within a page; `false`, and nothing is changed, where there is
    /// no ROM either. It has no effect on anything.
    fn fetch(&self, _gpa: Gpa, _into: &mut [u8]) -> bool {
        false
    }
    /// The time stamp counter's value before any guest-set offset.
    fn tsc(&mut self, at: Position) -> u64;
    /// By how much the time stamp counter is ahead of the position, if it ticks once for each
    /// instruction: so until the run ends.
    fn tsc_ahead(&self) -> Option<u64>;
    /// RDMSR of a register that lives outside the CPU (the APIC base); `None` if there is none.
    fn msr_read(&mut self, msr: u32, at: Position) -> Option<u64>;
    /// WRMSR of such a register; `false` if there is none or the value is refused.
    fn msr_write(&mut self, msr: u32, value: u64, at: Position) -> bool;
    /// CR8: the local APIC's task priority, bits 7:4.
    fn cr8(&mut self) -> u8;
    /// Sets the task priority from CR8 (0 to 15).
    fn set_cr8(&mut self, priority: u8, at: Position);
    /// HLT completes.
    fn halts(&mut self, _at: Position) {}
    /// Accesses to ports and to addresses where no RAM answers, and halts, since the machine started: what makes any
    /// processor stop and ask, also one that does not count instructions. Counted only where guest time passes by them.
    fn exits(&self) -> u64 {
        0
    }
    /// Whether a maskable interrupt waits (the INTR line).
    fn interrupt_pending(&self) -> bool;
    /// The interrupt acknowledge cycle: the vector of the interrupt taken.
    fn acknowledge_interrupt(&mut self, at: Position) -> u8;
    /// Whether a non-maskable interrupt waits, or another signal that [`Bus::take_nmi`] takes.
    fn signal_pending(&self) -> bool;
    /// Whether a non-maskable interrupt waits; taking it clears it.
    fn take_nmi(&mut self) -> bool;
    /// Whether the board wants control back (a deadline moved, power-off, reset): asked after each
    /// instruction that used the bus.
    fn wants_control(&self) -> bool;
    /// Whether the A20 gate lets address bit 20 through.
    fn a20_enabled(&self) -> bool;
}
