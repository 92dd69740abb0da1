//! Files that stand under their names only when they are whole.

use crate::progress::size;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vmss::{SeekableWriter, SparseFile};

/// A file that is whole, and has no name yet. Dropped before [`Partial::finish`], it is gone.
pub struct Partial {
    path: PathBuf,
    partial: PathBuf,
    bytes_on_disk: u64,
}

impl Partial {
    /// Writes a file, with holes for zeros or compressed.
    ///
    /// # Errors
    /// As the operating system has it, or `contents`.
    pub fn write(
        path: &Path,
        compress: bool,
        contents: impl FnOnce(&mut (dyn Write + Send)) -> io::Result<()>,
    ) -> io::Result<Partial> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let mut written = Partial { path: path.into(), partial: partial.into(), bytes_on_disk: 0 };
        let file = File::create(&written.partial)?;
        let file = if compress {
            let mut out = SeekableWriter::new(file)?;
            contents(&mut out)?;
            out.finish()?
        } else {
            let mut out = SparseFile::new(file)?;
            contents(&mut out)?;
            out.finish()?
        };
        written.bytes_on_disk = file.metadata()?.blocks() * 512;
        Ok(written)
    }

    /// Gives it its name; the bytes that it takes up on disk.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn finish(self) -> io::Result<u64> {
        fs::rename(&self.partial, &self.path)?;
        Ok(self.bytes_on_disk)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After `finish` there is none; otherwise somebody has a better sentence to say.
        let _ = fs::remove_file(&self.partial);
    }
}

/// Says if there is no room for a file of at most so many bytes. How many it really needs is asked only then.
///
/// # Errors
/// If there is none, or as the operating system has it.
pub fn check_room(
    path: &Path,
    at_most: u64,
    needed: impl FnOnce() -> io::Result<u64>,
) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let system = rustix::fs::statvfs(folder.unwrap_or(Path::new(".")))?;
    let left = system.f_bavail.saturating_mul(system.f_frsize);
    if at_most <= left {
        return Ok(());
    }
    let needed = needed()?;
    if needed <= left {
        return Ok(());
    }
    let sentence = format!(
        "it needs {} and its file system has {} left; make room, name a file elsewhere, or --compress it",
        size(needed),
        size(left)
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, sentence))
}
