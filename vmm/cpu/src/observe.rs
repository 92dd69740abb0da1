//! What the board may ask of a CPU between two runs without taking its whole state out.

use crate::cpu::Cpu;
use crate::flags::rflags;
use dejavm_units::Position;

impl Cpu {
    /// Instructions completed since the machine started.
    #[inline]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether HLT was executed and nothing has woken the CPU since.
    #[inline]
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// RFLAGS.IF: whether maskable interrupts are taken.
    #[inline]
    pub fn interrupts_enabled(&self) -> bool {
        self.flag(rflags::IF)
    }
}
