//! Whether this host has a clock of branches.

use super::PmuError;
use super::counter::Counter;
use super::events::{Condition, Cores, Event, Microarchitecture, Processor, microarchitecture};
use std::arch::x86_64::__cpuid;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

const UNITS: &str = "/sys/bus/event_source/devices";
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
/// The highest value of it with which a user may count what kernels do, a guest's too (Linux, `perf_allow_kernel`).
const PARANOID_MAX: i32 = 1;

/// The kernel's counters of one kind of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which cores.
    pub cores: Cores,
    /// The number that `perf_event_attr.type` wants.
    pub kind: u32,
    /// The event.
    pub event: Event,
}

/// A host's clock of branches. That its event counts exactly is not shown by its being there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pmu {
    /// What the processor is.
    pub microarchitecture: Microarchitecture,
    /// Where the event can be counted: one for each kind of cores that the kernel shows.
    pub units: Vec<Unit>,
    /// What the host must have set, and has not as far as can be seen.
    pub unmet: Vec<Condition>,
}

impl fmt::Display for Pmu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} counts retired conditional branches", self.microarchitecture.name)?;
        for (n, Unit { cores, kind: _, event }) in self.units.iter().enumerate() {
            let comma = if n == 0 { ":" } else { "," };
            let rarely = if event.is_unbounded { ", rarely more" } else { "" };
            let Event { config, skid, is_unbounded: _ } = event;
            let unit = cores.unit();
            write!(out, "{comma} {unit} by event {config:#x}, up to {skid} late{rarely}")?;
        }
        for condition in &self.unmet {
            write!(out, "; {condition}")?;
        }
        Ok(())
    }
}

/// Looks for a clock of branches, and opens it once for this thread.
///
/// # Errors
/// If there is none, or it may not be used.
pub fn find() -> Result<Pmu, PmuError> {
    let kinds = units(Path::new(UNITS));
    if kinds.is_empty() {
        return Err(PmuError::NoCounters);
    }
    let microarchitecture = microarchitecture(processor())?;
    let events = microarchitecture.events.iter();
    let units: Vec<Unit> = events
        .filter_map(|&(cores, event)| {
            // A hybrid processor whose other cores are off, or a virtual machine on one, may have the plain name.
            let named = |name: &str| kinds.iter().find(|(unit, _)| unit == name);
            let (_, kind) = named(cores.unit())
                .or_else(|| named("cpu").filter(|_| cores != Cores::Efficient))?;
            Some(Unit { cores, kind: *kind, event })
        })
        .collect();
    let first = units.first().ok_or(PmuError::NoCounters)?;
    Counter::of_guest(first.kind, first.event)?;
    let frozen = number(Path::new("/sys/devices/cpu/freeze_on_smi")) == Some(1);
    let met = |condition: &Condition| *condition == Condition::FreezeOnSmi && frozen;
    let unmet =
        microarchitecture.conditions.iter().copied().filter(|condition| !met(condition)).collect();
    Ok(Pmu { microarchitecture, units, unmet })
}

/// The processor that this thread is on.
fn processor() -> Processor {
    let leaf = __cpuid(0);
    let mut vendor = [0; 12];
    for (letters, register) in vendor.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        letters.copy_from_slice(&register.to_le_bytes());
    }
    Processor::from_cpuid(vendor, __cpuid(1).eax)
}

/// The kernel's units for processors' events, and their numbers.
fn units(folder: &Path) -> Vec<(String, u32)> {
    let names = ["cpu", "cpu_core", "cpu_atom"];
    let kind =
        |name: &str| -> Option<u32> { number(&folder.join(name).join("type"))?.try_into().ok() };
    names.iter().filter_map(|&name| Some((name.to_owned(), kind(name)?))).collect()
}

/// A number that the kernel shows in a file.
#[expect(clippy::disallowed_methods, reason = "how the host is set up; no part of any machine")]
fn number(path: &Path) -> Option<i64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sentence for a refusal of perf_event_open.
pub(super) fn why_refused(error: &io::Error, config: u64) -> PmuError {
    explain(error, config, number(&PathBuf::from(PARANOID)))
}

fn explain(error: &io::Error, config: u64, paranoid: Option<i64>) -> PmuError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => match paranoid.and_then(|it| i32::try_from(it).ok()) {
            Some(level) if level > PARANOID_MAX => PmuError::Paranoid(level),
            _ => PmuError::Forbidden,
        },
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::ENODEV | libc::EINVAL) => {
            PmuError::NoEvent { unit: "this processor".into(), config }
        }
        Some(libc::EBUSY | libc::ENOSPC) => PmuError::Busy,
        Some(libc::ENOSYS) => PmuError::NoSystemCall,
        _ => PmuError::Refused {
            what: "a counter",
            source: io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(errno: i32, paranoid: Option<i64>) -> String {
        explain(&io::Error::from_raw_os_error(errno), 0x11c4, paranoid).to_string()
    }

    /// Values of `perf_event_paranoid` from perf_event_open(2) and of distributions that have more levels.
    #[test]
    fn refusals_say_what_to_do() {
        for errno in [libc::EACCES, libc::EPERM] {
            for level in [2, 3, 4] {
                let why = sentence(errno, Some(level));
                assert!(why.contains(&format!("and it is {level}: `sudo sysctl")), "{why}");
            }
            for paranoid in [None, Some(1), Some(-1)] {
                let why = sentence(errno, paranoid);
                assert!(why.contains("seccomp"), "{why}");
            }
        }
        assert!(sentence(libc::ENOENT, Some(2)).contains("event 0x11c4"));
        assert!(sentence(libc::EBUSY, None).contains("nmi_watchdog=0"));
        assert!(sentence(libc::ENOSYS, None).contains("CONFIG_PERF_EVENTS"));
        assert!(sentence(libc::EMFILE, None).contains("Too many open files"));
    }

    #[test]
    fn a_clock_in_one_line() {
        let processor = Processor::from_cpuid(*b"GenuineIntel", 0x0009_0672);
        let microarchitecture = microarchitecture(processor).unwrap();
        let numbered = |(n, &(cores, event))| Unit { cores, kind: n as u32 + 4, event };
        let units = microarchitecture.events.iter().enumerate().map(numbered).collect();
        let pmu = Pmu { microarchitecture, units, unmet: vec![Condition::FreezeOnSmi] };
        assert_eq!(
            pmu.to_string(),
            "Alder Lake counts retired conditional branches: cpu_core by event 0x11c4, up to 125 late, cpu_atom by event 0x7ec4, \
             up to 100 late; freeze_on_smi must be 1"
        );
    }

    /// Whatever this host is: a clock with an event, or a sentence about what is missing.
    #[test]
    fn this_host() {
        let is_shown = !units(Path::new(UNITS)).is_empty();
        match find() {
            Ok(pmu) => {
                assert!(is_shown && !pmu.units.is_empty(), "{pmu:?}");
                assert!(pmu.units.iter().all(|unit| unit.event.config != 0), "{pmu:?}");
            }
            Err(PmuError::NoCounters) if !is_shown => {}
            Err(error) => {
                assert!(is_shown, "{error}");
                assert!(error.to_string().len() > 40, "{error}");
            }
        }
    }

    /// Without a unit the kernel is asked all the same: it must refuse what it cannot count.
    #[test]
    fn a_host_without_counters_opens_none() {
        if !units(Path::new(UNITS)).is_empty() {
            return;
        }
        // `PERF_TYPE_RAW`
        let event = Event { config: 0x11c4, skid: 125, is_unbounded: false };
        let error = Counter::of_guest(4, event).unwrap_err();
        let known =
            matches!(error, PmuError::NoEvent { .. } | PmuError::Paranoid(_) | PmuError::Forbidden);
        assert!(known, "{error}");
    }
}
