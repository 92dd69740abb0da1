//! Guest time: positions along the execution, and virtual nanoseconds.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A point on the execution of a machine: the number of guest instructions completed since it
/// started, summed over vCPUs. A REP string instruction counts one when it completes; a faulting
/// instruction counts nothing.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Position(pub u64);

/// Virtual time since the machine started, in nanoseconds. A function of [`Position`] and of the
/// idle time skipped at HLT, never of the host's clock.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct GuestNs(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for GuestNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}
