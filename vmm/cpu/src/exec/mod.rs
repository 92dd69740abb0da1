//! The reference semantics: every instruction as a function over the decoder's `Instruction`.
//!
//! These are complete and plain; the decoded-block interpreter calls them for whatever it has no
//! handler of its own for, and tests compare its handlers with them. On entry `rip` is the
//! instruction's own offset in CS and `next_rip` the one after it; a branch changes `next_rip`. An
//! `Err` means that the instruction did not complete and had no effect except where the manual says
//! otherwise.
//!
//! Blocks are position-independent, so the decoder was told an `ip` relative to the page: never use
//! `Instruction::ip`, `next_ip`, `near_branch_target` or `ip_rel_memory_address` here, but
//! [`Cpu::rip`], [`Cpu::next_rip`], [`Cpu::near_target`] and [`Cpu::operand_offset`].
//!
//! Each family of instructions is a module with a `select` function, which the decoder asks once per
//! decoded instruction.

mod arithmetic;
mod bcd;
mod bits;
mod branch;
mod feature;
mod lanes;
mod mmx;
mod multiply;
mod operand;
mod push_pop;
mod shift;
mod sse;
mod string;
#[cfg(test)]
mod table;
mod transfer;
mod x87;

use crate::cpu::Cpu;
use crate::exception::Abort;
use iced_x86::{Instruction, Mnemonic};

/// What an instruction returns.
pub(crate) type Done = Result<(), Abort>;

/// The semantics of one instruction.
pub(crate) type Exec = fn(&mut Cpu, &Instruction) -> Done;

/// Families in the order in which they are asked; the commonest first.
const FAMILIES: &[fn(&Instruction) -> Option<Exec>] = &[
    transfer::select,
    arithmetic::select,
    branch::select,
    push_pop::select,
    shift::select,
    bits::select,
    string::select,
    multiply::select,
    bcd::select,
    sse::moves::select,
    sse::integer::select,
    sse::shuffle::select,
    sse::float::select,
    sse::compare::select,
    sse::convert::select,
    sse::control::select,
    sse::mmx::select,
    x87::select,
    mmx::select,
];

/// Finds the semantics of a decoded instruction; what no family knows is #UD.
pub(crate) fn select(i: &Instruction) -> Exec {
    if matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Pause) {
        return |_, _| Ok(());
    }
    FAMILIES.iter().find_map(|family| family(i)).unwrap_or(|cpu, _| Err(cpu.undefined_opcode()))
}

impl Cpu {
    /// Executes one decoded instruction.
    pub(crate) fn execute(&mut self, i: &Instruction) -> Done {
        select(i)(self, i)
    }
}
