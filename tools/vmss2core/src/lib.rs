//! Core files of guests at rest, out of VMware checkpoints and other files. See `docs/formats/cores.md`.
#![forbid(unsafe_code)]

mod arguments;
mod conversion;
mod dump;
mod elf;
mod error;
mod firmware;
mod guest;
mod kdump;
mod linear;
mod linux;
mod macos;
mod output;
mod paging;
mod windows;

pub use arguments::{
    Command, Compression, Kind, LinuxOptions, MacOptions, Request, Series, USAGE, WindowsOptions,
};
pub use conversion::Conversion;
pub use dejavm_units::Gva;
pub use dump::dump;
pub use error::Error;
pub use guest::Guest;
pub use linux::{Process, processes};
pub use output::{Progress, Silent};
pub use windows::recognise as is_windows;

use std::num::NonZero;
use std::path::{Path, PathBuf};

/// Converts without telling anybody how far it is: what a test or another program wants.
///
/// # Errors
/// If it cannot be made.
pub fn convert(
    kind: &Kind,
    input: &Path,
    memory: Option<&Path>,
    output: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let guest = Guest::open(input, memory)?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    Conversion { guest: &guest, output: Some(output), threads, progress: &Silent }.make(kind)
}
