//! Into the instruction under test with a given register state, and out of it with the new one.
//!
//! UNSAFETY: the registers of the machine are replaced, the stack pointer included, and control
//! jumps to code that was written as data. The process exists for nothing else: it has one thread,
//! no handlers but ours, and nothing of Rust's runtime is used between the way in and the way out.
//! All state is in statics that only this thread touches, addressed relative to RIP because no
//! register is free.
#![expect(unsafe_code, reason = "the native single-instruction runner; see UNSAFETY above")]

use crate::layout::{self, CS_32, CS_64};
use crate::shared::{Case, Outcome};
use std::arch::naked_asm;

/// The registers on the way in.
#[repr(C, align(16))]
struct Input {
    fx: [u8; 512],
    gpr: [u64; 16],
    rflags: u64,
    target: u64,
    far_offset: u32,
    far_selector: u32,
}

/// The registers on the way out.
#[repr(C, align(16))]
struct Output {
    fx: [u8; 512],
    gpr: [u64; 16],
    rflags: u64,
}

static mut INPUT: Input =
    Input { fx: [0; 512], gpr: [0; 16], rflags: 0, target: 0, far_offset: 0, far_selector: 0 };
static mut OUTPUT: Output = Output { fx: [0; 512], gpr: [0; 16], rflags: 0 };
static mut HOST_STACK: u64 = 0;
static mut WITH_FX: u32 = 0;
static mut HOST_MXCSR: u32 = 0x1f80;

/// What a fault handler left: the instruction did not reach the way home.
static mut FAULT: Option<Fault> = None;

/// An exception as the kernel reported it.
#[derive(Clone, Copy)]
pub(super) struct Fault {
    pub(super) vector: u32,
    pub(super) error_code: u32,
    pub(super) cr2: u64,
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) gpr: [u64; 16],
    pub(super) fx: *const u8,
}

/// Runs one case.
///
/// # Safety
/// The region is mapped, the signal handlers are installed, and the case's instruction leads to the
/// stub, to a fault or to a breakpoint.
pub(super) unsafe fn run(case: &Case, with_fx: bool, compat: bool, outcome: &mut Outcome) {
    let (input, output) = (&raw mut INPUT, &raw mut OUTPUT);
    // SAFETY: one thread; the statics are not borrowed elsewhere.
    unsafe {
        if with_fx {
            (*input).fx = case.fx;
        }
        (*input).gpr = case.gpr;
        (*input).rflags = case.rflags;
        (*input).target = case.entry;
        if compat {
            (*input).far_offset = case.entry as u32;
            (*input).far_selector = CS_32.into();
            (*input).target = enter_compat as *const () as u64;
        }
        WITH_FX = with_fx.into();
        FAULT = None;
        enter();
        HOST_STACK = 0;
        outcome.vector = crate::shared::COMPLETED;
        outcome.gpr = (*output).gpr;
        outcome.rflags = (*output).rflags;
        outcome.rip = case.entry + u64::from(case.length);
        outcome.cr2 = 0;
        outcome.error_code = 0;
        let fault = &raw const FAULT;
        if let Some(fault) = *fault {
            outcome.vector = fault.vector;
            outcome.error_code = fault.error_code;
            outcome.cr2 = fault.cr2;
            outcome.rip = fault.rip;
            outcome.rflags = fault.rflags;
            outcome.gpr = fault.gpr;
        }
        if with_fx {
            outcome.fx = (*output).fx;
        }
    }
}

/// Notes a fault and goes home.
///
/// # Safety
/// Called from a signal handler.
pub(super) unsafe fn abandon(fault: Fault) -> ! {
    // SAFETY: one thread; if there is a stack to go back to, `run` is suspended in `enter`.
    unsafe {
        let stack = &raw const HOST_STACK;
        if *stack == 0 {
            super::process::die();
        }
        let with_fx = &raw const WITH_FX;
        if *with_fx != 0 {
            let output = &raw mut OUTPUT;
            std::ptr::copy_nonoverlapping(fault.fx, (&raw mut (*output).fx).cast(), 512);
        }
        FAULT = Some(fault);
        resume()
    }
}

/// The code of the stub page: from the end of a slot to [`leave`].
pub(super) fn stub() -> [u8; 128] {
    let mut code = [layout::FILL; 128];
    // jmp [rip + 0]
    code[..6].copy_from_slice(&[0xff, 0x25, 0, 0, 0, 0]);
    code[6..14].copy_from_slice(&(leave as *const () as u64).to_le_bytes());
    // jmp far 0x33:stub
    let at = layout::STUB_32 as usize;
    code[at] = 0xea;
    code[at + 1..at + 5].copy_from_slice(&layout::address(layout::STUB_PAGE).to_le_bytes());
    code[at + 5..at + 7].copy_from_slice(&CS_64.to_le_bytes());
    code
}

/// Saves the host's registers, loads `INPUT` and jumps to `INPUT.target`.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {stack}], rsp",
        "cmp dword ptr [rip + {with_fx}], 0",
        "je 2f",
        "fxrstor64 [rip + {input}]",
        "2:",
        "lea rsp, [rip + {input} + 640]",
        "popfq",
        "mov rax, [rip + {input} + 512]",
        "mov rcx, [rip + {input} + 520]",
        "mov rdx, [rip + {input} + 528]",
        "mov rbx, [rip + {input} + 536]",
        "mov rsp, [rip + {input} + 544]",
        "mov rbp, [rip + {input} + 552]",
        "mov rsi, [rip + {input} + 560]",
        "mov rdi, [rip + {input} + 568]",
        "mov r8, [rip + {input} + 576]",
        "mov r9, [rip + {input} + 584]",
        "mov r10, [rip + {input} + 592]",
        "mov r11, [rip + {input} + 600]",
        "mov r12, [rip + {input} + 608]",
        "mov r13, [rip + {input} + 616]",
        "mov r14, [rip + {input} + 624]",
        "mov r15, [rip + {input} + 632]",
        "jmp qword ptr [rip + {input} + 648]",
        stack = sym HOST_STACK,
        with_fx = sym WITH_FX,
        input = sym INPUT,
    )
}

/// The far jump into 32-bit code.
#[unsafe(naked)]
unsafe extern "C" fn enter_compat() {
    // `jmp far [rip + far_offset]`, an m16:32.
    naked_asm!("ljmpl *{input}+656(%rip)", input = sym INPUT, options(att_syntax))
}

/// Where the stub leads: saves the registers into `OUTPUT` and returns from [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov [rip + {output} + 512], rax",
        "mov [rip + {output} + 520], rcx",
        "mov [rip + {output} + 528], rdx",
        "mov [rip + {output} + 536], rbx",
        "mov [rip + {output} + 544], rsp",
        "mov [rip + {output} + 552], rbp",
        "mov [rip + {output} + 560], rsi",
        "mov [rip + {output} + 568], rdi",
        "mov [rip + {output} + 576], r8",
        "mov [rip + {output} + 584], r9",
        "mov [rip + {output} + 592], r10",
        "mov [rip + {output} + 600], r11",
        "mov [rip + {output} + 608], r12",
        "mov [rip + {output} + 616], r13",
        "mov [rip + {output} + 624], r14",
        "mov [rip + {output} + 632], r15",
        "mov rsp, [rip + {stack}]",
        "pushfq",
        "pop qword ptr [rip + {output} + 640]",
        "cmp dword ptr [rip + {with_fx}], 0",
        "je {resume}",
        "fxsave64 [rip + {output}]",
        "jmp {resume}",
        stack = sym HOST_STACK,
        with_fx = sym WITH_FX,
        output = sym OUTPUT,
        resume = sym resume,
    )
}

/// Puts the host's registers back and returns from [`enter`].
#[unsafe(naked)]
unsafe extern "C" fn resume() -> ! {
    naked_asm!(
        "mov rsp, [rip + {stack}]",
        "push 2",
        "popfq",
        "cmp dword ptr [rip + {with_fx}], 0",
        "je 2f",
        "fninit",
        "ldmxcsr [rip + {mxcsr}]",
        "2:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        stack = sym HOST_STACK,
        with_fx = sym WITH_FX,
        mxcsr = sym HOST_MXCSR,
    )
}

const _: () = {
    assert!(std::mem::offset_of!(Input, gpr) == 512);
    assert!(std::mem::offset_of!(Input, rflags) == 640);
    assert!(std::mem::offset_of!(Input, target) == 648);
    assert!(std::mem::offset_of!(Input, far_offset) == 656);
    assert!(std::mem::offset_of!(Output, gpr) == 512);
    assert!(std::mem::offset_of!(Output, rflags) == 640);
};
