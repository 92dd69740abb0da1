//! The *pmu* clock: a position is a number of retired conditional branches, the address of the next instruction, and RCX for where in a
//! string instruction.
//!
//! | module | idea |
//! |---|---|
//! | `events.rs` | which event that is on which processor, and how late its interrupt may come |
//! | `counter.rs` | the kernel's counter of it, for the guest alone |
//! | `host.rs` | whether this host has all that, and what to do if not |
//! | `branches.rs` | a counter as the engine wants it |
//! | `landing.rs` | stopping a guest at exactly such a position, with a counter whose interrupt is late |
//!
//! [`KvmEngine`](crate::KvmEngine) comes to landmarks of a recording by such a clock (`../engine/landing.rs`). Its positions are exits with it as
//! without: interrupts enter at exits and at landmarks. What is *not* done is another clock for positions, with an interrupt wherever the
//! counter says; [`landing::settle`] is where that would choose its places.
//!
//! What was run: the landing, against a simulated counter that lies in every way known (`vmm/kvm/tests/landing`); the engine's landing, in the
//! lab, on a real KVM with a stand-in that is told of single steps (`tests/kvm-lab/src/counted.rs`); the counter's system calls, with
//! an event of the kernel's software; the refusals, on hosts without counters. What was not: any processor's event.

mod branches;
pub mod counter;
mod error;
pub mod events;
mod host;
pub mod landing;

pub use branches::{Branches, HostCounter};
pub use error::PmuError;
pub use host::{Pmu, Unit, find};
