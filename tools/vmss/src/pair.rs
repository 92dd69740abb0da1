//! Which two files belong together: those with the same name but for the last four letters.

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

/// The file with the memory of the checkpoint at a path.
///
/// # Errors
/// [`Error::NoMemoryFile`] with the names it looked for.
pub fn memory_beside(state: &Path) -> Result<PathBuf> {
    let tried = [state.with_extension("vmem"), state.with_extension("VMEM")];
    match tried.iter().find(|path| path.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(Error::NoMemoryFile { tried }),
    }
}
