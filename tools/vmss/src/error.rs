//! What can be wrong with a checkpoint.

use std::io;
use std::path::PathBuf;

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with a checkpoint, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed.
    #[error("at byte {at:#x}: {source}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// Not a checkpoint.
    #[error(
        "no VMware checkpoint: it begins with {0:#010x}, and checkpoints with 0xbed2bed2 or one of its kin"
    )]
    Magic(u32),
    /// A kind of checkpoint that cannot be read.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The file contradicts itself or its own size.
    #[error("damaged at byte {at:#x}: {what}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong.
        what: String,
    },
    /// Something is missing that every checkpoint of a machine has.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Guest memory is in a file of its own, which is not there.
    #[error(
        "its guest memory is in a file of its own, and there is neither {} nor {}; put it beside the checkpoint, or \
         name it",
        tried[0].display(),
        tried[1].display()
    )]
    NoMemoryFile {
        /// The names it would have.
        tried: [PathBuf; 2],
    },
    /// The guest's memory cannot be described.
    #[error("the guest's memory cannot be written: {0}")]
    Layout(String),
    /// The guest has no memory there.
    #[error("the guest has no memory at {0:#x}")]
    NoMemory(u64),
}

impl Error {
    pub(crate) fn damaged(at: u64, what: impl Into<String>) -> Error {
        Error::Damaged { at, what: what.into() }
    }
}
