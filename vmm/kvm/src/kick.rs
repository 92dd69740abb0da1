//! Getting a thread out of a guest that does not leave by itself: a timer of the thread's own processor time, whose signal ends
//! `KVM_RUN`.
//!
//! UNSAFETY: POSIX timers, the clock that they go by, and a signal handler. The handler only adds to an atomic number, which a handler may do at any
//! moment. The timer is deleted when its owner is dropped, and signals a thread that exists: the one that armed it, which is
//! asked each time.
#![expect(unsafe_code, reason = "a POSIX timer and its signal; see UNSAFETY above")]

use crate::error::KvmError;
use std::io;
use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Signals that were delivered to any thread.
static KICKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_kick(_signal: libc::c_int) {
    KICKS.fetch_add(1, Ordering::Relaxed);
}

/// The first real-time signal is the C library's own business in some programs; nobody is known to use this one.
pub(crate) fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

/// Lets the signal do nothing but end `KVM_RUN`, whoever sends it.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn handle() -> io::Result<()> {
    // SAFETY: a structure of numbers and pointers, for which zero is a value.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as usize;
    // Calls that others are in go on; KVM_RUN ends all the same.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the structure is valid; the handler is as UNSAFETY says.
    match unsafe { libc::sigaction(signal(), &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Processor time that this thread has used, guests included.
pub(crate) fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid structure.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(told, 0, "every Linux has this clock");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A timer that kicks one thread.
#[derive(Default)]
pub(crate) struct Kicker {
    timer: Option<(libc::pid_t, libc::timer_t)>,
}

impl Kicker {
    /// From now on, kicks this thread each time that it has used so much processor time.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub(crate) fn arm(&mut self, first: Duration, every: Duration) -> Result<(), KvmError> {
        let timer = self.timer_of_this_thread().map_err(|source| KvmError::Timer { source })?;
        set(timer, first, every).map_err(|source| KvmError::Timer { source })
    }

    /// Kicks no more.
    pub(crate) fn disarm(&mut self) {
        if let Some((_, timer)) = self.timer {
            set(timer, Duration::ZERO, Duration::ZERO).expect("the timer is ours");
        }
    }

    /// Kicks so far, perhaps of other threads too.
    pub(crate) fn count() -> u64 {
        KICKS.load(Ordering::Relaxed)
    }

    fn timer_of_this_thread(&mut self) -> io::Result<libc::timer_t> {
        // SAFETY: it has no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        if let Some((of, timer)) = self.timer {
            if of == thread {
                return Ok(timer);
            }
            self.delete();
        }
        handle()?;
        // SAFETY: a structure of numbers and pointers, for which zero is a value.
        let mut event: libc::sigevent = unsafe { zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal();
        event.sigev_notify_thread_id = thread;
        let mut timer = null_mut();
        // SAFETY: both structures are valid for the call.
        let made = unsafe {
            libc::timer_create(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut event, &raw mut timer)
        };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        self.timer = Some((thread, timer));
        Ok(timer)
    }

    fn delete(&mut self) {
        if let Some((_, timer)) = self.timer.take() {
            // SAFETY: it was made by `timer_create` and is deleted once.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.delete();
    }
}

// SAFETY: a timer is the process's: any thread may set or delete it.
unsafe impl Send for Kicker {}

fn set(timer: libc::timer_t, first: Duration, every: Duration) -> io::Result<()> {
    let spec = |time: Duration| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let times = libc::itimerspec { it_interval: spec(every), it_value: spec(first) };
    // SAFETY: a timer of ours, and a valid structure.
    match unsafe { libc::timer_settime(timer, 0, &raw const times, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
