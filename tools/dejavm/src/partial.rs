//! Files that stand under their names only when they are whole.

use crate::progress::size;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use vmss::{SeekableWriter, SparseFile};

/// A file that is whole, and has no name yet but one that nobody else uses. Dropped before [`Partial::finish`], it is gone.
pub struct Partial {
    path: PathBuf,
    partial: NamedTempFile,
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
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        let partial = tempfile::Builder::new()
            .prefix(&name)
            .suffix(".partial")
            // What a file is created with, less what the user's mask takes away.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path))?;
        let file = partial.as_file().try_clone()?;
        let file = if compress {
            let mut out = SeekableWriter::new(file)?;
            contents(&mut out)?;
            out.finish()?
        } else {
            let mut out = SparseFile::new(file)?;
            contents(&mut out)?;
            out.finish()?
        };
        let bytes_on_disk = file.metadata()?.blocks() * 512;
        Ok(Partial { path: path.into(), partial, bytes_on_disk })
    }

    /// Gives it its name; the bytes that it takes up on disk.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn finish(self) -> io::Result<u64> {
        self.partial.persist(&self.path).map_err(|failed| failed.error)?;
        Ok(self.bytes_on_disk)
    }

    /// Gives it the name of a file that was there, and that one's permissions; whenever the host dies, one of the two is there.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn finish_in_place_of(self, permissions: Permissions) -> io::Result<()> {
        let file = self.partial.as_file();
        file.set_permissions(permissions)?;
        file.sync_all()?;
        let folder = File::open(folder(&self.path))?;
        self.finish()?;
        folder.sync_all()
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Says if there is no room for a file of at most so many bytes, and what to do but make some. How many it really needs is asked
/// only then.
///
/// # Errors
/// If there is none, or as the operating system has it.
pub fn check_room(
    path: &Path,
    at_most: u64,
    needed: impl FnOnce() -> io::Result<u64>,
    advice: &str,
) -> io::Result<()> {
    let system = rustix::fs::statvfs(folder(path))?;
    let left = system.f_bavail.saturating_mul(system.f_frsize);
    if at_most <= left {
        return Ok(());
    }
    let needed = needed()?;
    if needed <= left {
        return Ok(());
    }
    let sentence = format!(
        "it needs {} and its file system has {} left; make room, {advice}",
        size(needed),
        size(left)
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, sentence))
}
