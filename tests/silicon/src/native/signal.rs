//! Exceptions, as the kernel's signals tell them.
//!
//! UNSAFETY: handlers are installed and read the interrupted registers from the frame that the
//! kernel wrote. A handler never returns: it leaves by [`abandon`], which saves the way through
//! `sigreturn`. It runs on a stack of its own because the instruction under test may have any RSP.
#![expect(unsafe_code, reason = "signal handlers; see UNSAFETY above")]

use super::entry::{Fault, abandon};
use libc::{c_int, c_void, siginfo_t, ucontext_t};

const SIGNALS: [c_int; 5] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP];

/// The registers in encoding order, by their places in the kernel's frame.
const GPR_PLACES: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Bytes of the handlers' stack; the frame holds the whole extended state, some 11 KB with AMX.
const STACK_BYTES: usize = 128 << 10;

/// Installs the handlers.
pub(super) fn install() -> std::io::Result<()> {
    let stack: &'static mut [u8] = Box::leak(vec![0; STACK_BYTES].into_boxed_slice());
    let stack =
        libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: STACK_BYTES };
    // SAFETY: the stack was leaked, so it lives as long as the process.
    if unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    for signal in SIGNALS {
        // SAFETY: all zero is an empty mask and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: the action is complete.
        if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn handler(_signal: c_int, _info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over a ucontext_t that is valid while the handler runs.
    let machine = unsafe { &(*context.cast::<ucontext_t>()).uc_mcontext };
    let register = |place: c_int| machine.gregs[place as usize] as u64;
    let fault = Fault {
        vector: register(libc::REG_TRAPNO) as u32,
        error_code: register(libc::REG_ERR) as u32,
        cr2: register(libc::REG_CR2),
        rip: register(libc::REG_RIP),
        rflags: register(libc::REG_EFL),
        gpr: GPR_PLACES.map(register),
        fx: machine.fpregs.cast_const().cast(),
    };
    // SAFETY: this is a signal handler.
    unsafe { abandon(fault) }
}
