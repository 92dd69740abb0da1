//! The memory that the tests and the native runner share.
//!
//! UNSAFETY: one memfd is mapped by both processes and seen as plain structs of integers, for which
//! every bit pattern is a value. The two take turns (a byte through a pipe each way), so a reference
//! made from the mapping is never used while the other process writes. The mapping lives as long as
//! the owner of the reference.
#![expect(unsafe_code, reason = "memory shared between two processes; see UNSAFETY above")]

use crate::layout::{self, PAGE, REGION_PAGES};
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MapFlags, ProtFlags};
use std::ptr::NonNull;

/// Cases in one batch, at most.
pub const CASES: usize = 512;
/// Windows of one case, at most.
pub const WINDOWS: usize = 3;
/// `Outcome::vector` when the instruction completed.
pub const COMPLETED: u32 = u32::MAX;

/// A piece of memory that a case may write: compared and put back after it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// Linear address.
    pub at: u32,
    /// Bytes.
    pub len: u32,
    /// Where in [`Arena::captures`] its contents after the case go.
    pub to: u32,
}

/// One test: the state before the instruction.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Case {
    /// x87, MMX, SSE: an image for FXRSTOR64.
    pub fx: [u8; 512],
    /// RAX to R15.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// Linear address of the instruction.
    pub entry: u64,
    /// Its length in bytes.
    pub length: u32,
    /// Address of the operand that is put into memory first.
    pub poke_at: u32,
    /// Its length; zero for none.
    pub poke_len: u32,
    /// Where it is in [`Arena::pokes`].
    pub poke_from: u32,
    /// Windows in use.
    pub windows: u32,
    /// Memory that may change.
    pub window: [Window; WINDOWS],
}

/// The state after the instruction, or at the exception.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Outcome {
    /// An image by FXSAVE64; only if the batch has FPU state.
    pub fx: [u8; 512],
    /// RAX to R15.
    pub gpr: [u64; 16],
    /// RFLAGS.
    pub rflags: u64,
    /// The next instruction, or the one that faulted.
    pub rip: u64,
    /// The page fault's address, if it was one.
    pub cr2: u64,
    /// The exception's vector, or [`COMPLETED`].
    pub vector: u32,
    /// Its error code.
    pub error_code: u32,
}

/// Everything shared but the region's pages.
#[repr(C, align(4096))]
pub struct Arena {
    /// Cases in this batch.
    pub count: u32,
    /// Nonzero: load and save x87 and SSE state.
    pub with_fx: u32,
    /// The case that runs now: what to blame if the runner dies.
    pub current: u32,
    /// Set by the runner if data pages changed outside the windows.
    pub stray: u32,
    /// What the data pages hold before every case.
    pub pristine: [[u8; PAGE as usize]; 4],
    /// The tests.
    pub cases: [Case; CASES],
    /// Their results.
    pub outcomes: [Outcome; CASES],
    /// Operands to be put into memory.
    pub pokes: [u8; CASES * 512],
    /// Contents of windows after the cases.
    pub captures: [u8; CASES * 2048],
}

/// Where a data page's byte is in [`Arena::pristine`], seen as one array. Panics for other pages.
pub fn pristine_offset(at: u32) -> usize {
    let page = (at - layout::REGION) / PAGE;
    let n = layout::DATA_PAGES.iter().position(|&p| p == page).expect("a data page");
    n * PAGE as usize + (at % PAGE) as usize
}

/// Where in the file the arena starts: after the region's pages.
const ARENA_OFFSET: usize = (REGION_PAGES * PAGE) as usize;

/// A mapping of the shared file.
pub struct Shared {
    fd: OwnedFd,
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Shared {}

impl Shared {
    const BYTES: usize = ARENA_OFFSET + size_of::<Arena>();

    /// Creates the shared file, zeroed, in a form that a child process inherits.
    pub fn create() -> std::io::Result<Shared> {
        let fd = rustix::fs::memfd_create("silicon", rustix::fs::MemfdFlags::empty())?;
        rustix::fs::ftruncate(&fd, Shared::BYTES as u64)?;
        Shared::map(fd)
    }

    /// Maps a file that [`Shared::create`] made.
    pub fn map(fd: OwnedFd) -> std::io::Result<Shared> {
        let size = rustix::fs::fstat(&fd)?.st_size;
        if size != Shared::BYTES as i64 {
            return Err(std::io::Error::other("not the shared file of this program"));
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                Shared::BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).expect("mmap gives no null pointer");
        Ok(Shared { fd, base })
    }

    /// The shared file.
    pub fn fd(&self) -> impl AsFd + '_ {
        &self.fd
    }

    /// The arena.
    pub fn arena(&mut self) -> &mut Arena {
        // SAFETY: inside the mapping, aligned (the offset is whole pages), all integers.
        unsafe { self.base.add(ARENA_OFFSET).cast::<Arena>().as_mut() }
    }

    /// The region's pages, holes included, and the arena.
    pub fn region_and_arena(&mut self) -> (&mut [u8], &mut Arena) {
        // SAFETY: inside the mapping; the two do not overlap.
        unsafe {
            let region = std::slice::from_raw_parts_mut(self.base.as_ptr(), ARENA_OFFSET);
            (region, self.base.add(ARENA_OFFSET).cast::<Arena>().as_mut())
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; references into it have ended with the borrow of self.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), Shared::BYTES) };
        unmapped.expect("the mapping exists");
    }
}
