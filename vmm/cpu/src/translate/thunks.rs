//! The code that every translation shares: the way in, the way out, and where jumps to code that has no
//! translation land.

use super::calls::{self, CallThunks};
use super::emit::{Section, Width, at, condition, host};
use super::host::reason;
use super::registers::{
    ANCHOR_OFFSET, FLAGS, HOST_MXCSR, HOST_STACK, MXCSR, MXCSR_LOADED, STACK_LIMIT, pinned, slot,
};

/// Addresses of the shared code.
#[derive(Clone, Copy)]
pub(super) struct Thunks {
    /// `extern "sysv64" fn(cpu, entry, tlb) -> (operation, resume)`.
    pub(super) enter: u32,
    /// Leaves: R9 holds the operation and the reason, R8 where to resume.
    pub(super) exit: u32,
    /// Leaves because the jump's target, in `Native::next`, has no translation.
    pub(super) no_target: u32,
    /// Called: has the operation in R9 interpreted, and returns or leaves.
    pub(super) callout: u32,
    pub(super) calls: CallThunks,
}

/// Bytes of the host's stack for pairs of return addresses; a thread's stack has many times that.
const STACK_BYTES: i32 = 64 << 10;

/// What the System V ABI wants preserved.
const PRESERVED: [u8; 6] = [host::RBX, host::RBP, host::R12, host::R13, host::R14, host::R15];

pub(super) fn emit(code: &mut Section) -> Thunks {
    let enter = code.here();
    for register in PRESERVED {
        push(code, register);
    }
    code.lea(host::R15, at(host::RDI, ANCHOR_OFFSET));
    code.store(HOST_STACK, host::RSP);
    code.lea(host::R9, at(host::RSP, -STACK_BYTES));
    code.store(STACK_LIMIT, host::R9);
    // Below the first pair of a return address and its host code: one that leads to `not_paired`.
    code.constant_signed(host::R9, -1);
    push(code, host::R9);
    // The address follows the REX prefix and the opcode.
    let patch = code.bytes.len() + 2;
    code.constant32(host::R9, u32::MAX);
    push(code, host::R9);
    code.mov(host::R14, host::RDX);
    code.mov(host::R8, host::RSI);
    load_registers(code);
    // jmp r8
    code.reg(Width::W32, &[0xff], 4, host::R8);

    let exit = code.here();
    store_registers(code);
    let stored = code.here();
    code.load(host::RSP, HOST_STACK);
    code.mov(host::RAX, host::R9);
    code.mov(host::RDX, host::R8);
    for register in PRESERVED.into_iter().rev() {
        pop(code, register);
    }
    code.raw(&[0xc3]);

    let no_target = code.here();
    code.constant32(host::R9, reason::JUMP as u32);
    code.jmp(exit);

    // The return address and those on the stack below it, in pairs, make RSP a multiple of 16.
    let callout = code.here();
    store_registers(code);
    code.mov(host::RBX, host::R9);
    code.lea(host::RDI, at(host::R15, -ANCHOR_OFFSET));
    code.mov(host::RSI, host::R9);
    code.constant64(host::RAX, super::host::callout as *const () as u64);
    // call rax; test al, al
    code.reg(Width::W32, &[0xff], 2, host::RAX);
    code.raw(&[0x84, 0xc0]);
    let leave = code.jcc(condition::E, 0);
    load_registers(code);
    code.raw(&[0xc3]);
    code.join(leave);
    code.lea(host::R9, at(host::RBX, reason::CALLOUT as i32));
    pop(code, host::R8);
    code.jmp(stored);

    // A return to the address in the lowest pair, which no call has pushed: R9 holds the address of the exit
    // to RET's own operation, and nothing has changed.
    let not_paired = code.here();
    code.reg(super::emit::Width::W32, &[0xff], 4, host::R9);
    code.bytes[patch..patch + 4].copy_from_slice(&not_paired.to_le_bytes());
    let calls = calls::emit_thunks(code, exit, no_target);
    Thunks { enter, exit, no_target, callout, calls }
}

/// Pinned registers and flags from memory.
fn load_registers(code: &mut Section) {
    code.load(host::RAX, FLAGS);
    for (guest, register) in pinned() {
        code.load(register, slot(guest));
    }
}

/// Pinned registers and flags to memory, and the guest's MXCSR if there is one: most code never needs it,
/// and reading it takes longer than all the rest.
fn store_registers(code: &mut Section) {
    for (guest, register) in pinned() {
        code.store(slot(guest), register);
    }
    code.store(FLAGS, host::RAX);
    code.arith_mem(7, MXCSR_LOADED, 0);
    let done = code.jcc(condition::E, 0);
    // STMXCSR; LDMXCSR
    code.mem(Width::W32, &[0x0f, 0xae], 3, MXCSR);
    code.mem(Width::W32, &[0x0f, 0xae], 2, HOST_MXCSR);
    code.arith_mem(4, MXCSR_LOADED, 0);
    code.join(done);
}

fn push(code: &mut Section, register: u8) {
    if register >= 8 {
        code.raw(&[0x41]);
    }
    code.raw(&[0x50 | register & 7]);
}

fn pop(code: &mut Section, register: u8) {
    if register >= 8 {
        code.raw(&[0x41]);
    }
    code.raw(&[0x58 | register & 7]);
}
