//! A file that stands under its name only when it is whole.

use crate::error::Error;
use crate::guest::Guest;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file being written, under a name that nobody else has. Dropped before [`Output::finish`], it is gone.
pub struct Output {
    path: PathBuf,
    partial: NamedTempFile,
}

impl Output {
    /// Begins a file, if there is room for as many bytes as it may need, and its name is free or that of another file than
    /// the guest's own.
    ///
    /// # Errors
    /// If that is not so, or as the operating system has it.
    pub fn create(guest: &Guest, path: &Path, needed: u64) -> Result<Output, Error> {
        let wrong = |source| Error::Output { path: path.into(), source };
        // A link is followed: what it leads to is replaced, not the link.
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.into());
        if let Ok(there) = fs::metadata(path) {
            let refused = |what| Err(Error::Occupied { path: path.clone(), what });
            if !there.is_file() {
                return refused(
                    "it is no file, and would be replaced by one; choose another name with -o",
                );
            }
            let is_it = |file: &PathBuf| {
                let same =
                    |file: fs::Metadata| (file.dev(), file.ino()) == (there.dev(), there.ino());
                fs::metadata(file).is_ok_and(same)
            };
            if guest.files.iter().any(is_it) {
                return refused(
                    "it is what is being converted, and would be lost; choose another name with -o",
                );
            }
        }
        Output::check_room(path, needed)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        let partial = tempfile::Builder::new()
            .prefix(&name)
            .suffix(".partial")
            // What a file is created with, less what the user's mask takes away.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder(path));
        Ok(Output { path: path.clone(), partial: partial.map_err(wrong)? })
    }

    /// Whether there is room for so many bytes beside a file.
    ///
    /// # Errors
    /// If not, or as the operating system has it.
    pub fn check_room(path: &Path, needed: u64) -> Result<(), Error> {
        let wrong = |source| Error::Output { path: path.into(), source };
        let system = rustix::fs::statvfs(folder(path)).map_err(|error| wrong(error.into()))?;
        let left = system.f_bavail.saturating_mul(system.f_frsize);
        match needed > left {
            true => Err(Error::NoRoom { path: path.into(), needed, left }),
            false => Ok(()),
        }
    }

    /// To write to.
    pub fn file(&self) -> &File {
        self.partial.as_file()
    }

    /// What became of an operation on it, with its name.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn checked<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::Output { path: self.path.clone(), source })
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn finish(self) -> Result<PathBuf, Error> {
        let Output { path, partial } = self;
        match partial.persist(&path) {
            Ok(_) => Ok(path),
            Err(failed) => Err(Error::Output { path, source: failed.error }),
        }
    }
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
