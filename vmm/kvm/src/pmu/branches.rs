//! What counts a guest's branches for the engine: the host's counter, or a stand-in for it where the host has none.

use super::counter::Counter;
use super::error::PmuError;
use super::host::Unit;
use crate::kick;
use std::num::NonZeroU64;
use std::thread::{self, ThreadId};

/// A counter of the conditional branches that a guest retires, on the thread that runs it.
///
/// Its interrupt ends the guest's turn, and is no more than a hint: it may be late, lost, or about something else. What the engine finds by
/// the count it compares with what was recorded.
pub trait Branches: Send {
    /// Counts on this thread from now on, if it does not. Whether it began anew: what was read before is worth nothing then.
    ///
    /// # Errors
    /// If the host gives no counter.
    fn begin(&mut self) -> Result<bool, PmuError>;

    /// The count, since some moment.
    ///
    /// # Errors
    /// If it was not counted all the time.
    fn read(&mut self) -> Result<u64, PmuError>;

    /// Interrupts the guest when so many more have retired; `None`: not any more.
    ///
    /// # Errors
    /// If the host refuses.
    fn arm(&mut self, after: Option<NonZeroU64>) -> Result<(), PmuError>;

    /// Branches that may retire between that moment and the interrupt, as far as is known.
    fn skid(&self) -> u64;

    /// Whether it is no counter of the processor's, and has to be told of each instruction: the guest is single-stepped then.
    fn is_told(&self) -> bool {
        false
    }

    /// An instruction was executed. Whether the guest is interrupted now.
    fn step(&mut self, _is_conditional_branch: bool) -> bool {
        false
    }
}

/// The host's counter.
pub struct HostCounter {
    unit: Unit,
    open: Option<(ThreadId, Counter)>,
}

impl HostCounter {
    /// Of this event, which the host has. A thread that moves to cores of another kind is found out: it was not counting there.
    pub fn new(unit: Unit) -> HostCounter {
        HostCounter { unit, open: None }
    }

    fn counter(&self) -> Result<&Counter, PmuError> {
        self.open.as_ref().map(|(_, counter)| counter).ok_or(PmuError::Busy)
    }
}

impl Branches for HostCounter {
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel counts a thread's; no part of any machine"
    )]
    fn begin(&mut self) -> Result<bool, PmuError> {
        let this = thread::current().id();
        if self.open.as_ref().is_some_and(|(of, _)| *of == this) {
            return Ok(false);
        }
        let counter = Counter::of_guest(self.unit.kind, self.unit.event)?;
        kick::handle().map_err(|source| PmuError::Refused {
            what: "a handler for a counter's signal",
            source,
        })?;
        counter.signal_this_thread(kick::signal())?;
        counter.enable()?;
        self.open = Some((this, counter));
        Ok(true)
    }

    fn read(&mut self) -> Result<u64, PmuError> {
        self.counter()?.read()
    }

    fn arm(&mut self, after: Option<NonZeroU64>) -> Result<(), PmuError> {
        self.counter()?.arm(after)
    }

    fn skid(&self) -> u64 {
        self.unit.event.skid
    }
}
