//! Core files of VMware checkpoints. See `docs/formats/cores.md`.
#![forbid(unsafe_code)]

mod arguments;
mod convert;
mod dump;
mod elf;
mod linux;
mod notes;
mod paging;

pub use arguments::{Command, Kind, USAGE};
pub use convert::{ConvertError, convert};
pub use dump::dump;
