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
mod control;
mod debug;
mod descriptor;
mod descriptor_tables;
pub(crate) mod emulated;
mod far;

mod flag_control;
mod interrupt;
mod iret;
mod lanes;
mod mmx;
mod model_specific;
mod multiply;
mod operand;
mod port;
mod processor;
mod push_pop;
mod segment;
mod shift;
mod sse;
pub(crate) use sse::{packed, shuffle};
mod stack;
mod string;
mod syscall;
#[cfg(test)]
mod table;
mod task;
mod transfer;
mod vex;
mod x87;

use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::model::Model;
use iced_x86::Instruction;

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
    sse::packed::select,
    sse::integer::select,
    sse::shuffle::select,
    sse::float::select,
    sse::compare::select,
    sse::convert::select,
    sse::control::select,
    sse::mmx::select,
    sse::round::select,
    sse::approximate::select,
    sse::strings::select,
    sse::crypto::select,
    sse::save::select,
    x87::select,
    mmx::select,
    segment::select,
    flag_control::select,
    port::select,
    model_specific::select,
    syscall::select,
    iret::select,
    interrupt::select,
    control::select,
    far::select,
    descriptor_tables::select,
    debug::select,
    processor::select,
];

/// Finds the semantics of a decoded instruction; what no family knows, or the model lacks, is #UD.
pub(crate) fn select(model: &Model, i: &Instruction) -> Exec {
    if !model.allows(i) {
        return |cpu, _| Err(cpu.undefined_opcode());
    }
    if let Some(exec) = emulated::select(model, i) {
        return exec;
    }
    FAMILIES.iter().find_map(|family| family(i)).unwrap_or(|cpu, _| Err(cpu.undefined_opcode()))
}
