//! A disk image, opened to be read.

use super::option::Format;
use super::vmdk::Vmdk;
use dejavm_machine::Storage;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};
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
    /// QEMU's.
    Qcow2(Box<FormatAccess<imago::file::File>>),
    /// VMware's.
    Vmdk(Vmdk),
}

impl Image {
    /// Opens an image of a format; `file` is open already, to be read.
    pub fn open(path: &Path, file: &File, format: Format) -> io::Result<Image> {
        let file = file.try_clone()?;
        Ok(match format {
            Format::Raw => {
                let bytes = file.metadata()?.len();
                Image::Raw { file, bytes }
            }
            Format::Qcow2 => {
                let options = StorageOpenOptions::new().filename(path).write(false);
                let file = imago::file::File::from_open_file(file, options)?;
                // Files that it names are not opened: the recording would not know of them.
                let opened = Qcow2::builder(file).open(DenyImplicitOpenGate::default());
                let opened: Qcow2<imago::file::File> = opened.map_err(|error| match error.kind() {
                    io::ErrorKind::PermissionDenied => io::Error::other(format!(
                        "it is based on another file ({error}); make it whole with qemu-img convert"
                    )),
                    _ => error,
                })?;
                Image::Qcow2(Box::new(FormatAccess::new(opened)))
            }
            Format::Vmdk => Image::Vmdk(Vmdk::open(file)?),
        })
    }

    /// Bytes of the disk in it.
    pub fn bytes(&self) -> u64 {
        match self {
            Image::Raw { bytes, .. } => *bytes,
            Image::Qcow2(image) => image.size(),
            Image::Vmdk(image) => image.bytes(),
        }
    }

    /// How it holds them.
    pub fn format(&self) -> Format {
        match self {
            Image::Raw { .. } => Format::Raw,
            Image::Qcow2(_) => Format::Qcow2,
            Image::Vmdk(_) => Format::Vmdk,
        }
    }
}

impl Storage for Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let there = self.bytes().saturating_sub(offset).min(into.len() as u64) as usize;
        let (inside, behind) = into.split_at_mut(there);
        behind.fill(0);
        match self {
            Image::Raw { file, .. } => file.read_exact_at(inside, offset),
            Image::Qcow2(image) => image.read(inside, offset),
            Image::Vmdk(image) => image.read(inside, offset),
        }
    }
}
