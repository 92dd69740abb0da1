//! The kinds of address and time that the machine speaks in, each a type of its own so that a
//! physical address cannot be passed for a linear one, nor nanoseconds for a position.
#![forbid(unsafe_code)]

mod address;
mod time;

pub use address::{Gpa, Gva, PAGE_SHIFT, PAGE_SIZE, Pfn};
pub use time::{GuestNs, Position};
