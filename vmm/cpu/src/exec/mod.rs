//! The reference semantics: every instruction as a function over the decoder's `Instruction`.
//!
//! These are complete and plain; the decoded-block interpreter calls them for whatever it has no
//! handler of its own for, and tests compare its handlers with them. On entry `rip` is the
//! instruction's own offset in CS and `next_rip` the one after it. An `Err` means that the
//! instruction did not complete and had no effect except where the manual says otherwise.
//!
//! Blocks are position-independent, so the decoder was told an `ip` relative to the page: never use
//! `Instruction::ip`, `next_ip`, `near_branch_target` or `ip_rel_memory_address` here, but
//! [`Cpu::rip`], [`Cpu::next_rip`], [`Cpu::near_target`] and [`Cpu::operand_offset`].

mod operand;

use crate::cpu::Cpu;
use crate::exception::Abort;
use iced_x86::{Instruction, Mnemonic};

/// What an instruction returns.
pub(crate) type Done = Result<(), Abort>;

impl Cpu {
    /// Executes one decoded instruction.
    pub(crate) fn execute(&mut self, i: &Instruction) -> Done {
        match i.mnemonic() {
            Mnemonic::Nop | Mnemonic::Pause => Ok(()),
            _ => Err(self.undefined_opcode()),
        }
    }
}
