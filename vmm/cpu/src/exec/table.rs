//! For tests of single instructions: registers and flags in, registers and flags out.

use crate::cpu::Cpu;
use crate::exception::AbortReason;
use crate::state::CpuState;
use crate::testing::{Bench, CODE};
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Changes a bench's state as a test wants it to start.
pub(super) fn prepare(bench: &mut Bench, change: impl FnOnce(&mut CpuState)) {
    let mut state = bench.cpu.state();
    change(&mut state);
    bench.cpu.set_state(&state);
}

/// Executes the one instruction that `code` begins with; CS:RIP is not changed on failure.
pub(super) fn step(bench: &mut Bench, code: &[u8]) -> Result<(), AbortReason> {
    let state = bench.cpu.state();
    let at = state.seg[1].base + state.rip;
    bench.poke(at, code);
    bench.cpu.try_step(&mut bench.ram, &mut bench.board)
}

/// Runs `code` once in 64-bit mode with RAX, RCX, RDX, RBX and the flags given; returns the same.
pub(super) fn run64(code: &[u8], gpr: [u64; 4], rflags: u64) -> ([u64; 4], u64) {
    let mut bench = Bench::long();
    prepare(&mut bench, |state| {
        state.gpr[..4].copy_from_slice(&gpr);
        state.rflags = rflags | 2;
    });
    step(&mut bench, code).unwrap();
    let state = bench.cpu.state();
    assert_eq!(state.rip, CODE + code.len() as u64);
    (state.gpr[..4].try_into().unwrap(), state.rflags & !2)
}

/// Executes an instruction's semantics whether or not the model has it.
pub(super) fn exec64(
    exec: super::Exec,
    code: &[u8],
    gpr: [u64; 4],
    rflags: u64,
) -> ([u64; 4], u64) {
    let mut bench = Bench::long();
    prepare(&mut bench, |state| {
        state.gpr[..4].copy_from_slice(&gpr);
        state.rflags = rflags | 2;
    });
    let i: Instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
    let cpu: &mut Cpu = &mut bench.cpu;
    exec(cpu, &i).unwrap();
    let state = cpu.state();
    (state.gpr[..4].try_into().unwrap(), state.rflags & !2)
}

/// The exception that ended an instruction.
pub(super) fn exception(vector: u8, error_code: Option<u32>) -> Result<(), AbortReason> {
    Err(AbortReason::Exception { vector, error_code })
}
