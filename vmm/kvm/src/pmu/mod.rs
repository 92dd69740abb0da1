//! The *pmu* clock: a position is a number of retired conditional branches, the address of the next instruction, and RCX for where in a
//! string instruction.
//!
//! | module | idea |
//! |---|---|
//! | `events.rs` | which event that is on which processor, and how late its interrupt may come |
//! | `counter.rs` | the kernel's counter of it, for the guest alone |
//! | `host.rs` | whether this host has all that, and what to do if not |
//! | `landing.rs` | stopping a guest at exactly such a position, with a counter whose interrupt is late |
//!
//! **What is not wired.** No engine uses it: positions of [`KvmEngine`](crate::KvmEngine) are exits and landmarks, because no host with
//! counters was at hand to try another clock on. What is missing is an implementation of [`landing::Guest`] for the engine:
//! - [`counter::Counter`] opened on the thread that runs the vCPU, reset at its first entry and when a state is loaded, and its signal
//!   ending `KVM_RUN` as the kick's does (`immediate_exit` in its handler closes the window before the entry);
//! - `KVM_SET_GUEST_DEBUG` with a hardware breakpoint and with single steps (`BLOCKIRQ`), shared with a debugger's and the guest's own
//!   debug registers, the exit that a step may be, and RFLAGS.RF;
//! - the branch count in positions, landmarks replaced by them, and both in recordings (`docs/formats/recording.md`);
//! - where to put interrupts while recording. A stop by a kick is no place to choose: [`landing::settle`] goes on from it to the next
//!   place that is told apart by its count alone;
//! - probes for `dejavm doctor` that run guests: that counts are exact over thousands of interrupted runs, the distribution of the skid,
//!   and the conditions of [`events::Condition`]. A count read on a host that breaks them is exact most of the time.
//!
//! What was run: the landing, against a simulated counter that lies in every way known (`vmm/kvm/tests/landing`); the counter's
//! system calls, with an event of the kernel's software; the refusals, on hosts without counters. What was not: any processor's event.

mod branches;
pub mod counter;
mod error;
pub mod events;
mod host;
pub mod landing;

pub use branches::{Branches, HostCounter};
pub use error::PmuError;
pub use host::{Pmu, Unit, find};
