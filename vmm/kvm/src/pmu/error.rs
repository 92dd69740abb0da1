//! Why there is no clock of branches: each a sentence with what to do.

use super::events::Unsupported;
use std::io;

/// Why there is no clock of branches.
#[derive(Debug, thiserror::Error)]
pub enum PmuError {
    /// The kernel knows no unit.
    #[error(
        "this host has no hardware counters; if it is a virtual machine, its host can pass them on (QEMU: `-cpu host,pmu=on`; \
         VMware: `vpmc.enable = \"TRUE\"`)"
    )]
    NoCounters,
    /// The processor is not in the table.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The setting forbids it.
    #[error(
        "counting a guest's branches needs /proc/sys/kernel/perf_event_paranoid at 1 or below, and it is {0}: \
         `sudo sysctl kernel.perf_event_paranoid=1`, or give the program CAP_PERFMON"
    )]
    Paranoid(i32),
    /// Something else forbids it.
    #[error(
        "the kernel forbids perf_event_open although perf_event_paranoid would allow it: a container's seccomp profile or a security \
         module does; allow that system call, or run outside"
    )]
    Forbidden,
    /// The kernel has no such system call.
    #[error("the kernel was built without perf_event_open (CONFIG_PERF_EVENTS); run another")]
    NoSystemCall,
    /// The event does not exist there.
    #[error(
        "the kernel does not count event {config:#x} of {unit} for guests alone; on a virtual machine the host hides it, else a newer kernel may"
    )]
    NoEvent {
        /// `cpu`, or its name for a kind of cores.
        unit: String,
        /// The event.
        config: u64,
    },
    /// All counters are in use.
    #[error(
        "all hardware counters are in use; end other profilers, and the kernel's watchdog has one: `sudo sysctl kernel.nmi_watchdog=0`"
    )]
    Busy,
    /// The counter was taken away for some time.
    #[error(
        "the counter was taken away for a while ({running} of {enabled} ns counted), so its count is worth nothing; end other profilers"
    )]
    Shared {
        /// Nanoseconds that it was meant to count.
        enabled: u64,
        /// Nanoseconds that it did.
        running: u64,
    },
    /// Something else failed.
    #[error("the kernel refused {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// [`PmuError::Refused`]
pub(super) fn refused(what: &'static str) -> impl Fn(io::Error) -> PmuError {
    move |source| PmuError::Refused { what, source }
}
