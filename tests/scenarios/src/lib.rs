//! Whole guests, recorded and replayed in one process: what the tests of this crate share.
#![forbid(unsafe_code)]

mod desk;
mod exits;
mod guests;
mod random;
mod tape;

pub use desk::{Desk, Typing};
pub use exits::ByExits;
pub use guests::{Debian, Kernel, TINY_RAM_BYTES, expected, tiny, tiny_on, verdict};
pub use random::Random;
pub use tape::{Replay, Tape, engines, ram_hash, rebuild, replay, tape, tape_of, tape_with};

/// Nanoseconds in a guest second.
pub const SECOND_NS: u64 = 1_000_000_000;
