//! Why there is no core: each a sentence for the user.

use crate::output::sizes;
use dejavm_units::Gva;
use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file to convert, or its memory.
    #[error("{}{source}", named(path, source))]
    Input {
        /// The file that was named.
        path: PathBuf,
        /// What is wrong.
        source: vmss::Error,
    },
    /// The file to convert is of no kind that is read, or contradicts itself.
    #[error("{}: {what}", path.display())]
    Unread {
        /// The file that was named.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file to write.
    #[error("{}: {source}", path.display())]
    Output {
        /// Its name.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// Its name is taken by something that must not be lost.
    #[error("{}: {what}", path.display())]
    Occupied {
        /// The name.
        path: PathBuf,
        /// By what.
        what: &'static str,
    },
    /// A signal asked for an end.
    #[error("stopped by a signal; nothing was written")]
    Interrupted,
    /// Checked before anything is written.
    #[error(
        "{}: it may need {} and its file system has {} left; make room, or name a file elsewhere with -o",
        path.display(), sizes::shown(*needed), sizes::shown(*left)
    )]
    NoRoom {
        /// The file that was to be written.
        path: PathBuf,
        /// Bytes that it may need.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// No such processor.
    #[error("{}: it has {count} processors, numbered from 0: there is no {asked}", path.display())]
    NoProcessor {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        asked: usize,
        /// How many there are.
        count: usize,
    },
    /// The guest is no Linux, or an old one.
    #[error(
        "{}: no Linux kernel was found: {tried} of guest memory were searched for the VMCOREINFO note that Linux keeps since \
         2.6.24; -M makes a core of any guest",
        path.display()
    )]
    NoLinux {
        /// The file.
        path: PathBuf,
        /// How much was searched.
        tried: String,
    },
    /// The guest's kernel is no Linux, or cannot be read at this position.
    #[error("{}: {reason}", path.display())]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: dejavm_linux::Reason,
    },
    /// No core can be made of that process.
    #[error("{}: process {id}: {what}", path.display())]
    Process {
        /// The file.
        path: PathBuf,
        /// The process.
        id: u32,
        /// Why not.
        what: String,
    },
    /// Free pages cannot be told from others.
    #[error("{}: which pages are free cannot be told: {why}; without --without-free they are in the core", path.display())]
    NoFreePages {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// No exception of a firmware.
    #[error(
        "{}: there is no EFI_SYSTEM_CONTEXT {}; -F<address> says where the firmware has put its registers",
        path.display(),
        at.map_or("on the stack of any processor".to_owned(), |at| format!("at {:#x}", at.0))
    )]
    NoContext {
        /// The file.
        path: PathBuf,
        /// Where it was said to be.
        at: Option<Gva>,
    },
    /// The file that was given as macOS's kernel is none.
    #[error("{}: {what}", path.display())]
    MachKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A format with offsets of 32 bits.
    #[error("{}: a Mach-O core of 32 bits cannot hold that much memory; -X64 and -M can", path.display())]
    TooLargeFor32 {
        /// The file.
        path: PathBuf,
    },
    /// Page tables made to mislead.
    #[error("{}: its page tables lead to more than {runs} runs of memory, as no guest's do; -M needs none", path.display())]
    TooManyRuns {
        /// The file.
        path: PathBuf,
        /// The bound.
        runs: usize,
    },
    /// The guest is no Windows, or its kernel cannot be found.
    #[error("{}: no Windows kernel was found: {tried}; -M makes a core of any guest", path.display())]
    NoWindows {
        /// The file.
        path: PathBuf,
        /// What was tried.
        tried: String,
    },
    /// A Windows without a debugger data block.
    #[error(
        "{}: Windows' debugger data block was not found: {tried}; -WDDB<address> says where it is (x nt!KdDebuggerDataBlock in \
         a debugger)",
        path.display()
    )]
    NoDebuggerData {
        /// The file.
        path: PathBuf,
        /// What was tried.
        tried: String,
    },
}

/// The file's name before what is wrong with it, unless that begins with it.
fn named(path: &Path, source: &vmss::Error) -> String {
    match source {
        vmss::Error::File { path: said, .. } if said == path => String::new(),
        _ => format!("{}: ", path.display()),
    }
}
