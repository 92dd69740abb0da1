//! The gdb remote protocol over a [`Target`]. Bytes in, bytes out: whoever has a socket is elsewhere.
//!
//! A [`Session`] takes a client's bytes, answers, and says when it wants to run the machine. In front of
//! the crate gdbstub stands a filter of ours, `session.rs`, that answers what the crate cannot.
#![forbid(unsafe_code)]

mod agent;
mod breakpoints;
mod bridge;
mod files;
mod lasting;
mod linux;
mod machine;
mod monitor;
mod packet;
mod registers;
mod replaying;
mod running;
mod session;
mod target;
mod threads;

pub use dejavm_cpu::{Breakpoint, Stops, WatchKind, Watchpoint};
pub use lasting::Lasting;
pub use monitor::commands as monitor_commands;
pub use packet::interrupts;
pub use registers::Layout;
pub use replaying::{MarkKeeper, Pacer, Replaying};
pub use session::{Ended, Options, Session, State};
pub use target::{
    Capabilities, Direction, Happening, Inspect, Interrupted, Judge, Mark, Refusal, Resume,
    Stopped, Target, Vcpu,
};
pub use threads::{Cpus, Thread, ThreadId, Threads, View};
