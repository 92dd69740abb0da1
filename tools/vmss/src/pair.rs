//! Which two files belong together: those with the same name but for the last four letters, and perhaps `.gz` or
//! `.zst` behind.

use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The files of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The `.vmss` or `.vmsn`.
    pub state: PathBuf,
    /// The `.vmem`, if memory is not in the other.
    pub memory: Option<PathBuf>,
}

/// What compressed files have behind their names.
const WRAPPINGS: [&str; 2] = ["zst", "gz"];

/// A name without `.gz` or `.zst`.
pub fn unwrapped(path: &Path) -> PathBuf {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    match WRAPPINGS.iter().any(|wrapping| extension.eq_ignore_ascii_case(wrapping)) {
        true => path.with_extension(""),
        false => path.into(),
    }
}

/// The file with the memory of the checkpoint at a path.
///
/// # Errors
/// [`Error::NoMemoryFile`] with the names it looked for.
pub fn memory_beside(state: &Path) -> Result<PathBuf> {
    let state = unwrapped(state);
    let is_upper =
        state.extension().is_some_and(|extension| extension.to_ascii_uppercase() == extension);
    let plain = state.with_extension(if is_upper { "VMEM" } else { "vmem" });
    let wrapped = WRAPPINGS.map(|wrapping| {
        let mut name = plain.as_os_str().to_owned();
        name.push(".");
        name.push(wrapping);
        PathBuf::from(name)
    });
    let tried = [vec![plain], wrapped.to_vec()].concat();
    match tried.iter().find(|path| path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(Error::NoMemoryFile { tried }),
    }
}
