//! What can be wrong with a checkpoint.

use std::io;
use std::path::{Path, PathBuf};

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
    #[error("its byte {at:#x} cannot be read: {source}")]
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
        "its guest memory is in a file of its own, and none of these is there: {}; put it beside the checkpoint, or name \
         it (a snapshot that was taken without memory has none)",
        listed(tried)
    )]
    NoMemoryFile {
        /// The names it would have.
        tried: Vec<PathBuf>,
    },
    /// A file with guest memory that cannot be this checkpoint's.
    #[error(
        "{} cannot be its guest memory: {what}; name the file that was written together with it",
        path.display()
    )]
    OtherMemory {
        /// The file with memory.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Named like a guest dump of ESXi, and none.
    #[error("no guest dump of ESXi, as its name says: {0}")]
    GuestDump(String),
    /// Where guest memory is cannot be.
    #[error("it describes guest memory that cannot be: {0}")]
    Regions(String),
    /// A compressed file could not be unpacked.
    #[error("{}: it could not be unpacked into a temporary file in {}: {source}{advice}", path.display(), folder.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Where it was to go.
        folder: PathBuf,
        /// Why.
        source: io::Error,
        /// What to do.
        advice: &'static str,
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

    /// The same, with the name of the file that could not be read, if it is another one.
    pub(crate) fn in_file(self, path: Option<&Path>) -> Error {
        match (self, path) {
            (Error::Read { at, source }, Some(path)) => {
                let source =
                    io::Error::new(source.kind(), format!("byte {at:#x} cannot be read: {source}"));
                Error::File { path: path.into(), source }
            }
            (error, _) => error,
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}
