//! A file that stands under its name only when it is whole.

use crate::error::Error;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file being written. Dropped before [`Output::finish`], it is gone.
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
}

impl Output {
    /// Begins a file, if there is room for as many bytes as it may need.
    ///
    /// # Errors
    /// If there is none, or as the operating system has it.
    pub fn create(path: &Path, needed: u64) -> Result<Output, Error> {
        let wrong = |source| Error::Output { path: path.into(), source };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let system = rustix::fs::statvfs(folder).map_err(|error| wrong(error.into()))?;
        let left = system.f_bavail.saturating_mul(system.f_frsize);
        if needed > left {
            return Err(Error::NoRoom { path: path.into(), needed, left });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&partial);
        Ok(Output { path: path.into(), file: file.map_err(wrong)?, partial })
    }

    /// To write to.
    pub fn file(&self) -> &File {
        &self.file
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
        self.checked(fs::rename(&self.partial, &self.path))?;
        Ok(self.path.clone())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After `finish` there is none; otherwise somebody has a better sentence to say.
        let _ = fs::remove_file(&self.partial);
    }
}
