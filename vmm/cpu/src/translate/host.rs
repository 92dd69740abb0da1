//! Memory that holds host code, and the one place that jumps into it.
//!
//! UNSAFETY: host code lives in a memory file that is mapped twice: once to be written, once to be
//! executed; no page is ever both at one address. The executable view lies below 4 GiB, so that code
//! addresses fit 32 bits. What is executed was emitted by this module's parent from decoded guest
//! instructions, and keeps these promises, on which [`run`] relies:
//!
//! - It is entered by the trampoline, which saves what the System V ABI wants preserved, and left by the
//!   exit thunk, which restores that and the stack pointer. In between it calls host code, with at most 64 KiB
//!   of return addresses on the stack, and [`callout`] through a thunk that keeps to the ABI: guest registers
//!   are in the [`Cpu`] then, MXCSR is the host's, the stack is aligned.
//! - It reads and writes only: fields of the [`Cpu`] that it was given (by their offsets from `gpr`); the
//!   TLB that `Cpu::tlb` points to; tables of entry points, which live as long as TLB entries that lead to
//!   them; and guest RAM at host addresses that a TLB entry proves valid, by a compare like that in
//!   `mmu/access.rs` for all the bytes that a probe serves, which lie in one page.
//! - Code is changed (where jumps and calls lead, and the first instruction of code that nobody enters any more,
//!   into a jump away) only while it does not run, or is about to be left: the machine has one thread,
//!   and if [`callout`] retires a translation, it says so and is returned from to the exit thunk, not to the
//!   translation that called. The processor sees such changes because of the jump through a register in the
//!   trampoline and its coherent instruction cache (SDM vol. 3A, 11.6; AMD APM vol. 2, 7.6.1). No code is
//!   overwritten otherwise, and no operation freed, before the run loop calls `Cpu::forget_all_code`, between
//!   chains of blocks.
//! - The [`Cpu`] that [`run`] borrows is lent on to [`callout`] through the pointer that host code has of it;
//!   while that runs, host code does not, and `run` itself touches nothing until it is returned to.
#![expect(unsafe_code, reason = "host code is mapped and entered here; see UNSAFETY above")]

use crate::code::OpRef;
use crate::cpu::Cpu;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// `MAP_32BIT`: an address below 2 GiB.
const LOW: MapFlags = MapFlags::from_bits_retain(0x40);

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// Memory for host code.
pub(crate) struct CodeMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    bytes: usize,
    /// Which 2 MiB the kernel was asked to make huge pages of.
    huge: Vec<bool>,
}

impl CodeMemory {
    /// `None` where the host refuses; then there is no translator.
    pub(super) fn new(bytes: usize) -> Option<CodeMemory> {
        let file = memfd_create("dejavm-code", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&file, bytes as u64).ok()?;
        let execute = ProtFlags::READ | ProtFlags::EXEC;
        let executable = map(&file, bytes, execute, LOW)?;
        let memory = match map(&file, bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
        {
            Some(writable) => {
                CodeMemory { writable, executable, bytes, huge: vec![false; bytes / HUGE_PAGE] }
            }
            None => {
                unmap(executable, bytes);
                return None;
            }
        };
        (executable.as_ptr() as usize + bytes <= u32::MAX as usize).then_some(memory)
    }

    /// Where the code will be executed.
    pub(super) fn start(&self) -> u32 {
        self.executable.as_ptr() as usize as u32
    }

    pub(super) fn bytes(&self) -> u32 {
        self.bytes as u32
    }

    /// Writes code that will be executed at `address`.
    pub(super) fn write(&mut self, address: u32, code: &[u8]) {
        let at = (address - self.start()) as usize;
        assert!(at + code.len() <= self.bytes, "code is written inside its memory");
        // SAFETY: inside the mapping, by the assertion; nothing else refers to it.
        unsafe {
            self.writable.as_ptr().add(at).copy_from_nonoverlapping(code.as_ptr(), code.len());
        }
        if let Some(huge @ false) = self.huge.get_mut(at / HUGE_PAGE) {
            *huge = true;
            self.collapse(at / HUGE_PAGE * HUGE_PAGE);
        }
    }

    /// Makes one huge page of the small ones at an offset, if the kernel does that (Linux 6.1). Memory files
    /// get none by themselves unless the system's administrator says so.
    fn collapse(&mut self, at: usize) {
        for view in [self.writable, self.executable] {
            // SAFETY: inside our own mapping, whose contents stay what they are.
            let _ = unsafe {
                libc::madvise(view.as_ptr().add(at).cast(), HUGE_PAGE, libc::MADV_COLLAPSE)
            };
        }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        unmap(self.writable, self.bytes);
        unmap(self.executable, self.bytes);
    }
}

/// Maps the whole file, where huge pages can be had, such that they fit: host code of a large guest has
/// more pages than processors have TLB entries for instructions.
fn map(
    file: impl AsFd,
    bytes: usize,
    protection: ProtFlags,
    flags: MapFlags,
) -> Option<NonNull<u8>> {
    let room = bytes + HUGE_PAGE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let reserved = unsafe {
        mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), MapFlags::PRIVATE | flags)
    };
    let reserved = NonNull::new(reserved.ok()?.cast::<u8>())?;
    let before = reserved.align_offset(HUGE_PAGE);
    // SAFETY: both ends are in what was reserved above, or just behind it.
    let (at, end) = unsafe { (reserved.add(before), reserved.add(before + bytes)) };
    unmap(reserved, before);
    unmap(end, HUGE_PAGE - before);
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: it takes the place of what was reserved above and nothing uses.
    let mapped = unsafe { mmap(at.as_ptr().cast::<c_void>(), bytes, protection, flags, file, 0) };
    if mapped.is_err() {
        unmap(at, bytes);
        return None;
    }
    Some(at)
}

/// Unmaps what [`map`] made, or part of it.
fn unmap(at: NonNull<u8>, bytes: usize) {
    if bytes > 0 {
        // SAFETY: our own mapping, and nobody executes code of a translator that is dropped.
        let _ = unsafe { munmap(at.as_ptr().cast::<c_void>(), bytes) };
    }
}

/// What host code says when it is left, in the low bits of an operation's address.
pub(super) mod reason {
    /// Go on by interpreting this operation.
    pub(crate) const AT: u64 = 0;
    /// This one operation was interpreted, and something came of it that must be looked at first.
    pub(crate) const CALLOUT: u64 = 1;
    /// Go on at the linear address in `Native::next`; there is no operation.
    pub(crate) const JUMP: u64 = 2;
    /// The block with this header is not paid for.
    pub(crate) const BUDGET: u64 = 3;
    /// As `AT`, because where `Native::next` lies is not known.
    pub(crate) const UNKNOWN: u64 = 4;
    /// As `AT`, because a probe for several accesses failed: see [`Wide`](super::super::reach::Wide).
    pub(crate) const WIDE: u64 = 5;
    /// As `JUMP`, because where that lies is not known.
    pub(crate) const UNKNOWN_JUMP: u64 = 6;
    /// As `UNKNOWN`, from a call to another page; the operation is [`Calls`](super::super::calls::Calls)' to tell.
    pub(crate) const CALL: u64 = 7;
    /// All of the bits.
    pub(crate) const MASK: u64 = 7;
}

const _: () = assert!(align_of::<crate::code::Op>() as u64 > reason::MASK);

/// Why host code was left.
pub(super) enum Left {
    At(OpRef),
    Callout { op: OpRef, resume: u32 },
    Jump,
    UnknownJump,
    Call { site: u32 },
    Budget(OpRef),
    Unknown(OpRef),
    Wide { op: OpRef, number: u32 },
}

/// What host code calls to have an operation interpreted; see [`super::interpret_one`].
pub(super) extern "sysv64" fn callout(cpu: *mut Cpu, op: *mut crate::code::Op) -> bool {
    // SAFETY: host code hands on the pointer that `run` made of its exclusive borrow, which is not used
    // meanwhile.
    let cpu = unsafe { &mut *cpu };
    super::interpret_one(cpu, operation(op))
}

/// An operation that host code names.
fn operation(pointer: *mut crate::code::Op) -> OpRef {
    OpRef::from_host_code(NonNull::new(pointer).expect("host code names an operation"))
}

#[repr(C)]
struct Returned {
    operation: u64,
    resume: u64,
}

/// Enters host code at `entry` through the trampoline at `trampoline`.
pub(super) fn run(cpu: &mut Cpu, trampoline: u32, entry: u32) -> Left {
    type Trampoline = extern "sysv64" fn(*mut Cpu, u64, *const crate::mmu::Tlb) -> Returned;
    let tlb = cpu.tlb;
    // SAFETY: the trampoline is code of `CodeMemory` with this signature (see `super::thunks`).
    let trampoline = unsafe { std::mem::transmute::<usize, Trampoline>(trampoline as usize) };
    let returned = trampoline(std::ptr::from_mut(cpu), u64::from(entry), tlb);
    let op = || operation((returned.operation & !reason::MASK) as *mut crate::code::Op);
    match returned.operation & reason::MASK {
        reason::AT => Left::At(op()),
        reason::CALLOUT => Left::Callout { op: op(), resume: returned.resume as u32 },
        reason::JUMP => Left::Jump,
        reason::UNKNOWN_JUMP => Left::UnknownJump,
        // Where the call returns to is behind its distance.
        reason::CALL => Left::Call { site: returned.resume as u32 - 4 },
        reason::BUDGET => Left::Budget(op()),
        reason::WIDE => Left::Wide { op: op(), number: returned.resume as u32 },
        _ => Left::Unknown(op()),
    }
}
