//! Where a run is to stop: the debugger's wishes, which no guest can see.

use dejavm_units::{Gpa, Gva};

/// Stop before an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breakpoint {
    /// Its linear address: CS base + RIP.
    pub at: Gva,
    /// Only while CR3's base (bits 51:12) equals this.
    pub space: Option<Gpa>,
}

/// Which accesses a [`Watchpoint`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchKind {
    /// Stores, also of equal values.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// Stop after an instruction that touches memory (before it, if running backwards).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watchpoint {
    /// First byte, linear.
    pub start: Gva,
    /// How many bytes, not 0.
    pub bytes: u64,
    /// Which accesses.
    pub kind: WatchKind,
    /// Only while CR3's base (bits 51:12) equals this.
    pub space: Option<Gpa>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    /// Instructions.
    pub breakpoints: Vec<Breakpoint>,
    /// Memory.
    pub watchpoints: Vec<Watchpoint>,
}
