//! For tests of single instructions: registers and flags in, registers and flags out.

use crate::exception::AbortReason;
use crate::model::Features;
use crate::state::CpuState;
use crate::testing::{Bench, CODE};

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
    run64_with(Features::empty(), code, gpr, rflags)
}

/// As [`run64`], on a model with all options.
pub(super) fn run64_all(code: &[u8], gpr: [u64; 4], rflags: u64) -> ([u64; 4], u64) {
    run64_with(Features::ADDED, code, gpr, rflags)
}

/// As [`run64`], on a model with these options.
pub(super) fn run64_with(
    features: Features,
    code: &[u8],
    gpr: [u64; 4],
    rflags: u64,
) -> ([u64; 4], u64) {
    let mut bench = Bench::long();
    bench.cpu.model.features = features;
    prepare(&mut bench, |state| {
        state.gpr[..4].copy_from_slice(&gpr);
        state.rflags = rflags | 2;
    });
    step(&mut bench, code).unwrap();
    let state = bench.cpu.state();
    assert_eq!(state.rip, CODE + code.len() as u64);
    (state.gpr[..4].try_into().unwrap(), state.rflags & !2)
}

/// The exception that ended an instruction.
pub(super) fn exception(vector: u8, error_code: Option<u32>) -> Result<(), AbortReason> {
    Err(AbortReason::Exception { vector, error_code })
}
