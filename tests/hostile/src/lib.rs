//! Entry points that take arbitrary bytes. Whatever the bytes are, each returns: no panic, no endless
//! loop, no memory beyond a bound. `tests/` feeds them thousands of seeded mutations, `../fuzz` feeds
//! them what a fuzzer finds.
#![forbid(unsafe_code)]

mod checkpoint_file;
mod checkpoint_rounds;
mod checkpoint_seeds;
mod debugger_client;
pub mod devices;
mod guest_code;
pub mod hostile_guest;
mod random;
mod recording_file;
mod viewer;
mod windows_guest;

pub use checkpoint_file::{Converted, checkpoint_bytes, checkpoint_file};
pub use checkpoint_rounds::{Tally, checkpoint_rounds, rounds_of};
pub use checkpoint_seeds::{Change, Seed};
pub use debugger_client::{debugger_bytes, debugger_packets};
pub use guest_code::{Mode, guest_code, translated_code};
pub use random::Random;
pub use recording_file::{recording_file, repair, seed_recording, timeline};
pub use viewer::viewer;
pub use windows_guest::windows_guest;
