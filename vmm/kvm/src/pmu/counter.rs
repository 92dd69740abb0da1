//! A counter of the kernel's (perf_event_open(2)): counts an event of this thread's guest, and signals the thread when so many have come.
//!
//! UNSAFETY: four system calls that libc has no safe form of. Each is given a number, or a pointer to a value of ours that lives
//! through the call and has the size that the kernel takes it to have; the descriptor is owned, and closed once.
#![expect(unsafe_code, reason = "perf_event_open and its ioctls; see UNSAFETY above")]

use super::error::{PmuError, refused};
use super::events::Event;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, FromRawFd};

/// What a counter is asked to wait for while it is not to signal: more than ever comes. The kernel takes up to 63 bits.
const NEVER: u64 = 1 << 62;
/// Fewer events than this the kernel cannot wait for on all processors (Linux, `nhm_limit_period`).
pub const PERIOD_MIN: u64 = 32;

/// `PERF_EVENT_IOC_*` (linux/perf_event.h)
const ENABLE: libc::c_ulong = 0x2400;
const DISABLE: libc::c_ulong = 0x2401;
const RESET: libc::c_ulong = 0x2403;
const PERIOD: libc::c_ulong = 0x4008_2404;
/// `PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING`
const READ_FORMAT: u64 = 1 | 2;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// fcntl(2): who gets the signal, and which.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// Bits of [`Attributes::flags`].
mod flag {
    pub(super) const DISABLED: u64 = 1 << 0;
    /// On the processor whenever the thread is, or in error; never in turns with others.
    pub(super) const PINNED: u64 = 1 << 2;
    pub(super) const EXCLUDE_HV: u64 = 1 << 6;
    pub(super) const EXCLUDE_HOST: u64 = 1 << 19;
}

/// `struct perf_event_attr` as it was at first (`PERF_ATTR_SIZE_VER0`), which every kernel takes.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    config1: u64,
}

/// `struct f_owner_ex`
#[repr(C)]
struct Owner {
    kind: libc::c_int,
    id: libc::pid_t,
}

/// A counter of one event, of the thread that opened it.
///
/// It must be that thread that runs the guest. Two guests on one thread are counted together.
#[derive(Debug)]
pub struct Counter {
    file: File,
}

impl Counter {
    /// A counter of a guest's events, neither the host's nor an outer hypervisor's; it counts from [`Counter::enable`] on.
    /// `unit` is the kernel's number for the kind of cores ([`super::Unit::kind`]).
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn of_guest(unit: u32, event: Event) -> Result<Counter, PmuError> {
        Counter::open(unit, event.config, flag::EXCLUDE_HOST | flag::EXCLUDE_HV)
    }

    fn open(kind: u32, config: u64, flags: u64) -> Result<Counter, PmuError> {
        let attributes = Attributes {
            kind,
            size: size_of::<Attributes>() as u32,
            config,
            sample_period: NEVER,
            sample_type: 0,
            read_format: READ_FORMAT,
            flags: flags | flag::DISABLED | flag::PINNED,
            wakeup_events: 1,
            breakpoint_type: 0,
            config1: 0,
        };
        let (this_thread, any_cpu, no_group) = (0, -1, -1);
        // SAFETY: the attributes live through the call and say how long they are.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                this_thread as libc::c_long,
                any_cpu as libc::c_long,
                no_group as libc::c_long,
                CLOSE_ON_EXEC,
            )
        };
        if descriptor < 0 {
            return Err(super::host::why_refused(&io::Error::last_os_error(), config));
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
        let file = unsafe { File::from_raw_fd(descriptor as libc::c_int) };
        Ok(Counter { file })
    }

    /// Sends this thread a signal when as many events have come as [`Counter::arm`] says. The signal says nothing but that it is time
    /// to look: it may be late, early, or about something that was armed before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn signal_this_thread(&self, signal: i32) -> Result<(), PmuError> {
        let descriptor = self.file.as_raw_fd();
        // SAFETY: no pointers.
        let thread = unsafe { libc::gettid() };
        let owner = Owner { kind: F_OWNER_TID, id: thread };
        // SAFETY: the owner lives through the call and is what F_SETOWN_EX takes.
        check(unsafe { libc::fcntl(descriptor, F_SETOWN_EX, &raw const owner) })
            .map_err(refused("a counter's signal to this thread"))?;
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(descriptor, F_SETSIG, signal) })
            .map_err(refused("a counter's signal"))?;
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(descriptor, libc::F_SETFL, libc::O_ASYNC) })
            .map_err(refused("a counter's signals"))
    }

    /// Counts from here on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enable(&self) -> Result<(), PmuError> {
        self.control(ENABLE, "to count")
    }

    /// Counts no more; the count stays.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn disable(&self) -> Result<(), PmuError> {
        self.control(DISABLE, "to stop counting")
    }

    /// Sets the count to 0.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reset(&self) -> Result<(), PmuError> {
        self.control(RESET, "to set a counter to 0")
    }

    /// Signals after so many more events, and again after as many; `None`: not any more. The count goes on. Not
    /// `PERF_EVENT_IOC_REFRESH`, which stops counting at the signal: what is executed until the stop would not be counted.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arm(&self, events: Option<NonZeroU64>) -> Result<(), PmuError> {
        let period = events.map_or(NEVER, NonZeroU64::get).min(NEVER);
        // SAFETY: the kernel reads eight bytes at the pointer, which live through the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), PERIOD, &raw const period) })
            .map_err(refused("a counter's period"))
    }

    /// The count.
    ///
    /// # Errors
    /// If it was not counted all the time, or cannot be read.
    pub fn read(&self) -> Result<u64, PmuError> {
        let mut bytes = [0; 24];
        let read = (&self.file).read(&mut bytes).map_err(refused("to read a counter"))?;
        if read != bytes.len() {
            // End of file: a pinned event could not be put on the processor.
            return Err(PmuError::Busy);
        }
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight bytes"))
        };
        let (count, enabled, running) = (word(0), word(8), word(16));
        if enabled != running {
            return Err(PmuError::Shared { enabled, running });
        }
        Ok(count)
    }

    fn control(&self, request: libc::c_ulong, what: &'static str) -> Result<(), PmuError> {
        // SAFETY: no pointers.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, 0 as libc::c_ulong) })
            .map_err(refused(what))
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// `PERF_TYPE_SOFTWARE`, `PERF_COUNT_SW_PAGE_FAULTS_MIN`: exact, and there without hardware.
    const SOFTWARE: u32 = 1;
    const PAGE_FAULTS: u64 = 5;
    /// `exclude_kernel`: any user may count that.
    const EXCLUDE_KERNEL: u64 = 1 << 5;

    static SIGNALS: AtomicU64 = AtomicU64::new(0);

    extern "C" fn on_signal(_signal: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }

    /// Memory whose pages fault at their first touch.
    struct Fresh {
        start: *mut u8,
        pages: usize,
        touched: usize,
    }

    impl Fresh {
        fn new(pages: usize) -> Fresh {
            let bytes = pages * 4096;
            let (access, how) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping, wherever the kernel likes.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, how, -1, 0) };
            assert_ne!(start, libc::MAP_FAILED);
            // SAFETY: the mapping is ours; no huge pages, so that each page faults.
            unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
            Fresh { start: start.cast(), pages, touched: 0 }
        }

        fn touch(&mut self, pages: usize) {
            for _ in 0..pages {
                assert!(self.touched < self.pages);
                // SAFETY: inside the mapping.
                unsafe { self.start.add(self.touched * 4096).write_volatile(1) };
                self.touched += 1;
            }
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            // SAFETY: the mapping that `new` made; nobody has a reference into it.
            unsafe { libc::munmap(self.start.cast(), self.pages * 4096) };
        }
    }

    /// The same calls as for branches, with faults of memory that we touch.
    #[test]
    fn counts_signals_and_is_armed_anew() {
        let counter = match Counter::open(SOFTWARE, PAGE_FAULTS, EXCLUDE_KERNEL) {
            Ok(counter) => counter,
            // A container may forbid it all; then that is what can be seen here.
            Err(error) => {
                let why = error.to_string();
                assert!(why.contains("perf_event"), "{why}");
                return;
            }
        };
        let signal = libc::SIGRTMIN() + 7;
        let handler = on_signal as extern "C" fn(libc::c_int);
        // SAFETY: the handler only adds to an atomic number.
        assert_ne!(unsafe { libc::signal(signal, handler as usize) }, libc::SIG_ERR);
        counter.signal_this_thread(signal).unwrap();
        // Its own page is touched before anything is counted.
        on_signal(signal);
        SIGNALS.store(0, Ordering::Relaxed);
        let signals = || SIGNALS.load(Ordering::Relaxed);
        let mut memory = Fresh::new(1000);

        memory.touch(10);
        assert_eq!(counter.read().unwrap(), 0, "not enabled yet");
        counter.enable().unwrap();
        let start = counter.read().unwrap();
        memory.touch(100);
        assert_eq!(counter.read().unwrap() - start, 100);
        assert_eq!(signals(), 0, "it was not armed");

        // An event of the kernel's software signals at the first one after being armed too, and takes the old period for the next;
        // processors' events do neither (Linux, `perf_swevent_set_period`, `x86_perf_event_set_period`). So it is armed twice.
        let arm = |memory: &mut Fresh, period| {
            for _ in 0..2 {
                counter.arm(NonZeroU64::new(period)).unwrap();
                memory.touch(1);
            }
            SIGNALS.load(Ordering::Relaxed)
        };
        let before = arm(&mut memory, 50);
        memory.touch(48);
        assert_eq!(signals(), before);
        memory.touch(1);
        assert_eq!(signals(), before + 1, "at exactly the fiftieth");
        memory.touch(49);
        assert_eq!(signals(), before + 1);
        memory.touch(1);
        assert_eq!(signals(), before + 2, "and again");
        assert_eq!(counter.read().unwrap() - start, 201, "arming changes no count");

        // Half way to the next it is armed anew: the period begins at that moment.
        memory.touch(25);
        let before = arm(&mut memory, 40);
        memory.touch(38);
        assert_eq!(signals(), before);
        memory.touch(1);
        assert_eq!(signals(), before + 1);

        counter.arm(None).unwrap();
        memory.touch(1);
        counter.arm(None).unwrap();
        memory.touch(1);
        let before = signals();
        memory.touch(200);
        assert_eq!(signals(), before, "disarmed");
        assert_eq!(counter.read().unwrap() - start, 469);

        counter.disable().unwrap();
        let stopped = counter.read().unwrap();
        memory.touch(10);
        assert_eq!(counter.read().unwrap(), stopped);
        counter.reset().unwrap();
        assert_eq!(counter.read().unwrap(), 0);
    }

    #[test]
    fn an_event_that_does_not_exist_is_refused_in_a_sentence() {
        let error = Counter::open(SOFTWARE, 0xffff, EXCLUDE_KERNEL).unwrap_err().to_string();
        assert!(error.contains("event 0xffff") || error.contains("perf_event"), "{error}");
    }
}
