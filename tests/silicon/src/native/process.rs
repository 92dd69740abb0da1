//! The runner process: sets up the region and the segments, closes the sandbox, runs batches.
//!
//! UNSAFETY: maps the region at fixed addresses, loads segment registers and makes system calls
//! without the C library. FS points into the test data from [`set_segments`] on, so nothing after
//! that may use thread-local storage: the loop calls no library function but `memcpy` and its kin.
#![expect(unsafe_code, reason = "fixed mappings, segments and raw system calls; see UNSAFETY")]

use super::{entry, sandbox, signal};
use crate::layout::{self, PAGE, PageUse};
use crate::shared::{Arena, Shared};
use rustix::fd::{FromRawFd, OwnedFd};
use std::arch::asm;
use std::io;

/// Runs the child process: `compat` for 32-bit code, `fd` the shared file.
pub fn main(compat: bool, fd: i32) -> io::Result<()> {
    // SAFETY: the parent passed this descriptor for us to own.
    let mut shared = Shared::map(unsafe { OwnedFd::from_raw_fd(fd) })?;
    map_region(&shared)?;
    signal::install()?;
    if compat {
        write_ldt(0, layout::FS_BASE_32, layout::FS_LIMIT_32, false)?;
        write_ldt(1, layout::GS_BASE_32, layout::GS_LIMIT_32, true)?;
    }
    sandbox::close()?;
    set_segments(compat);
    while raw_call(libc::SYS_read, 0, 1) == 1 {
        run_batch(shared.arena(), compat);
        if raw_call(libc::SYS_write, 1, 1) != 1 {
            break;
        }
    }
    raw_call(libc::SYS_exit_group, 0, 0);
    unreachable!("exit_group does not return")
}

/// The runner itself faulted.
pub(super) fn die() -> ! {
    raw_call(libc::SYS_exit_group, 99, 0);
    loop {
        std::hint::spin_loop();
    }
}

fn run_batch(arena: &mut Arena, compat: bool) {
    let with_fx = arena.with_fx != 0;
    for n in 0..arena.count as usize {
        let Arena { current, cases, outcomes, pokes, captures, pristine, .. } = arena;
        *current = n as u32;
        let case = &cases[n];
        let poke = &pokes[case.poke_from as usize..][..case.poke_len as usize];
        // SAFETY: the parent only pokes the read-write pages; `page_bytes` checks it.
        unsafe { page_bytes(case.poke_at, case.poke_len) }.copy_from_slice(poke);
        // SAFETY: the region is mapped and the handlers are installed.
        unsafe { entry::run(case, with_fx, compat, &mut outcomes[n]) };
        for window in &case.window[..case.windows as usize] {
            // SAFETY: as above; no other reference to these pages is alive.
            let bytes = unsafe { page_bytes(window.at, window.len) };
            captures[window.to as usize..][..bytes.len()].copy_from_slice(bytes);
            restore(bytes, window.at, pristine);
        }
    }
    let mut stray = false;
    for (page, pristine) in layout::DATA_PAGES.iter().zip(&arena.pristine) {
        if layout::page_use(*page) == PageUse::ReadWrite {
            // SAFETY: as above.
            stray |= unsafe { page_bytes(layout::address(*page), PAGE) } != pristine;
        }
    }
    arena.stray = stray.into();
}

/// Puts back what the data pages held.
fn restore(bytes: &mut [u8], at: u32, pristine: &[[u8; PAGE as usize]; 4]) {
    let all = pristine.as_flattened();
    let from = crate::shared::pristine_offset(at);
    bytes.copy_from_slice(&all[from..][..bytes.len()]);
}

/// Bytes of the read-write pages of the region.
///
/// # Safety
/// The region is mapped and no other reference to these bytes is alive.
unsafe fn page_bytes<'a>(at: u32, len: u32) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    for end in [at, at + len - 1] {
        assert!(layout::use_of(end.into()) == PageUse::ReadWrite, "only data pages are touched");
    }
    // SAFETY: mapped read-write from the first to the last byte (data pages are adjacent).
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, len as usize) }
}

fn map_region(shared: &Shared) -> io::Result<()> {
    for page in 0..layout::REGION_PAGES {
        let (protection, flags) = match layout::page_use(page) {
            PageUse::Hole => continue,
            PageUse::Code => (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_SHARED),
            // Written below, then made executable.
            PageUse::Stub => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            PageUse::ReadWrite => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            PageUse::ReadOnly => (libc::PROT_READ, libc::MAP_SHARED),
        };
        let at = layout::address(page) as *mut libc::c_void;
        // Populated, so that no protection fault is reported as a missing page.
        let flags = flags | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
        let fd = rustix::fd::AsRawFd::as_raw_fd(&rustix::fd::AsFd::as_fd(&shared.fd()));
        let offset = i64::from(page * PAGE);
        // SAFETY: NOREPLACE refuses to touch anything that exists.
        let mapped = unsafe { libc::mmap(at, PAGE as usize, protection, flags, fd, offset) };
        if mapped != at {
            return Err(io::Error::last_os_error());
        }
        if layout::page_use(page) == PageUse::Stub {
            let stub = entry::stub();
            // SAFETY: the page was just mapped, private and writable.
            unsafe { std::ptr::copy_nonoverlapping(stub.as_ptr(), at.cast(), stub.len()) };
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: our own page.
            if unsafe { libc::mprotect(at, PAGE as usize, protection) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// `struct user_desc` of modify_ldt(2).
#[repr(C)]
struct UserDescriptor {
    entry_number: u32,
    base: u32,
    limit: u32,
    /// seg_32bit (0), contents (1-2), read_exec_only (3), limit_in_pages (4), seg_not_present (5),
    /// useable (6).
    flags: u32,
}

fn write_ldt(entry_number: u32, base: u32, limit: u32, read_only: bool) -> io::Result<()> {
    let flags = 1 | u32::from(read_only) << 3 | 1 << 6;
    let descriptor = UserDescriptor { entry_number, base, limit, flags };
    let size = size_of::<UserDescriptor>();
    // SAFETY: the structure is the one that the call wants.
    let wrote = unsafe { libc::syscall(libc::SYS_modify_ldt, 1, &descriptor, size) };
    // The call's result is an unsigned int widened to a long.
    if wrote as i32 != 0 {
        return Err(io::Error::other(
            "modify_ldt failed: this kernel has no LDT for user programs",
        ));
    }
    Ok(())
}

/// Lowers a resource limit for good.
pub(super) fn set_limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure is complete.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Loads the segments that the tests expect. Thread-local storage is gone afterwards.
fn set_segments(compat: bool) {
    // SAFETY: 64-bit code does not care what DS and ES hold; the selectors are valid.
    unsafe {
        asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) u32::from(layout::DATA_SELECTOR));
        if compat {
            asm!("mov fs, {0:x}", in(reg) u32::from(layout::FS_SELECTOR_32));
            asm!("mov gs, {0:x}", in(reg) u32::from(layout::GS_SELECTOR_32));
            return;
        }
    }
    raw_call(libc::SYS_arch_prctl, sandbox::ARCH_SET_GS, layout::GS_BASE_64);
    raw_call(libc::SYS_arch_prctl, sandbox::ARCH_SET_FS, layout::FS_BASE_64);
}

/// A system call without the C library, which would keep its error number in thread-local storage.
/// For read and write the second argument is the length, of a byte on our stack.
fn raw_call(number: i64, first: u64, second: u64) -> i64 {
    let mut byte = [0u8; 1];
    let buffer = byte.as_mut_ptr() as u64;
    let is_transfer = number == libc::SYS_read || number == libc::SYS_write;
    let (second, third) = if is_transfer { (buffer, second) } else { (second, 0) };
    let result: i64;
    // SAFETY: only the calls that the sandbox allows, with arguments that fit them.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}
