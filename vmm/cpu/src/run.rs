//! The run loop: instructions until a position, with interrupts and exceptions between them.

use crate::bus::Bus;
use crate::context::Loan;
use crate::cpu::Cpu;
use crate::exception::{Abort, AbortReason};
use crate::flags::rflags;
use crate::mmu::Access;
use dejavm_memory::GuestRam;
use dejavm_units::Position;
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Why [`Cpu::run_until`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The position asked for was reached.
    Limit,
    /// The CPU is halted and no interrupt that could wake it is pending.
    Halted,
    /// The board asked for control.
    Board,
    /// Triple fault.
    Shutdown,
}

/// The longest x86 instruction, in bytes.
const INSTRUCTION_BYTES_MAX: usize = 15;

impl Cpu {
    /// Runs until exactly `limit` instructions have completed since the start, or until something
    /// needs the board.
    pub fn run_until(&mut self, ram: &mut GuestRam, bus: &mut dyn Bus, limit: Position) -> Stop {
        let Loan { cpu } = &mut self.lend(ram, bus);
        loop {
            if let Some(stop) = cpu.between_instructions(limit) {
                return stop;
            }
            cpu.step();
        }
    }

    /// Executes the one instruction at the current position, taking no interrupt before it and
    /// delivering no exception: for lock-step comparison and tests. On `Err` the position has not
    /// moved; CR2 is set if it was a page fault.
    pub fn try_step(&mut self, ram: &mut GuestRam, bus: &mut dyn Bus) -> Result<(), AbortReason> {
        let Loan { cpu } = &mut self.lend(ram, bus);
        cpu.step_alone().map_err(|Abort(())| cpu.abort)
    }

    /// Takes events that are due; `Some` when the loop must return.
    fn between_instructions(&mut self, limit: Position) -> Option<Stop> {
        if self.abort == AbortReason::Shutdown {
            return Some(Stop::Shutdown);
        }
        if self.bus().wants_control() {
            return Some(Stop::Board);
        }
        let interruptible = self.flag(rflags::IF) && !self.interrupt_shadow;
        if interruptible && self.bus().interrupt_pending() {
            self.halted = false;
            let at = self.position;
            let vector = self.bus().acknowledge_interrupt(at);
            self.deliver_interrupt(vector);
            return self.between_instructions(limit);
        }
        if self.position >= limit {
            return Some(Stop::Limit);
        }
        if self.halted {
            return Some(Stop::Halted);
        }
        None
    }

    /// Delivers an external interrupt.
    fn deliver_interrupt(&mut self, _vector: u8) {
        self.abort = AbortReason::Shutdown;
    }

    /// Delivers the exception that `abort` describes.
    fn deliver_exception(&mut self) {
        self.abort = AbortReason::Shutdown;
    }

    /// Executes one instruction alone and delivers its exception.
    fn step(&mut self) {
        if self.step_alone().is_err() {
            self.deliver_exception();
        }
    }

    /// Executes one instruction alone.
    fn step_alone(&mut self) -> Result<(), Abort> {
        self.alone = true;
        self.end_of_block = false;
        let shadow = std::mem::take(&mut self.interrupt_shadow);
        let result = self.fetch().and_then(|instruction| {
            self.next_rip = self.rip.wrapping_add(instruction.len() as u64);
            if self.code_bits() < 64 {
                self.next_rip &= 0xffff_ffff;
            }
            self.execute(&instruction)
        });
        match result {
            Ok(()) => {
                self.rip = self.next_rip;
                self.position.0 += 1;
            }
            Err(_) => self.interrupt_shadow = shadow,
        }
        self.alone = false;
        result
    }

    /// Fetches and decodes the instruction at `rip`, page-relative (see [`crate::exec`]).
    fn fetch(&mut self) -> Result<Instruction, Abort> {
        let linear = self.cs_linear(self.rip);
        let mut bytes = [0u8; INSTRUCTION_BYTES_MAX];
        let mut have = 0;
        while have < INSTRUCTION_BYTES_MAX {
            let at = linear.wrapping_add(have as u64);
            let in_page = (0x1000 - (at & 0xfff) as usize).min(INSTRUCTION_BYTES_MAX - have);
            let gpa = self.translate(at, Access::Fetch)?;
            if self.ram().read(gpa, &mut bytes[have..have + in_page]).is_err() {
                bytes[have..have + in_page].fill(0xff);
            }
            have += in_page;
            let decoded = self.decode(&bytes[..have], linear & 0xfff);
            if !decoded.is_invalid() {
                return Ok(decoded);
            }
        }
        Err(self.undefined_opcode())
    }

    fn decode(&self, bytes: &[u8], page_offset: u64) -> Instruction {
        let bits = self.code_bits();
        Decoder::with_ip(bits, bytes, page_offset, DecoderOptions::NONE).decode()
    }
}
