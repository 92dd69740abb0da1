//! The gdb remote protocol over a [`Target`]. Bytes in, bytes out: whoever has a socket is elsewhere.
#![forbid(unsafe_code)]

mod stops;
mod target;

pub use stops::{Breakpoint, Stops, WatchKind, Watchpoint};
pub use target::{
    Capabilities, Direction, Happening, Inspect, Interrupted, Judge, Mark, Refusal, Resume,
    Stopped, Target, Vcpu,
};
