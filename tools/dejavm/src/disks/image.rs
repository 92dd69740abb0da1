//! A disk image, opened to be read.

use super::option::Format;
use dejavm_machine::Storage;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An image that is read and never written.
pub enum Image {
    /// As it is.
    Raw {
        /// The file.
        file: File,
        /// Its length.
        bytes: u64,
    },
}

impl Image {
    /// Opens an image of a format; `file` is the same file.
    pub fn open(_path: &Path, file: &File, format: Format) -> io::Result<Image> {
        match format {
            Format::Raw => {
                let file = file.try_clone()?;
                let bytes = file.metadata()?.len();
                Ok(Image::Raw { file, bytes })
            }
        }
    }

    /// Bytes of the disk in it.
    pub fn bytes(&self) -> u64 {
        match self {
            Image::Raw { bytes, .. } => *bytes,
        }
    }

    /// How it holds them.
    pub fn format(&self) -> Format {
        match self {
            Image::Raw { .. } => Format::Raw,
        }
    }
}

impl Storage for Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Image::Raw { file, bytes } => {
                let there = bytes.saturating_sub(offset).min(into.len() as u64) as usize;
                let (inside, behind) = into.split_at_mut(there);
                behind.fill(0);
                file.read_exact_at(inside, offset)
            }
        }
    }
}
