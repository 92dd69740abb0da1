//! A disk image, opened to be read.

use super::option::Format;
use super::vmdk::Vmdk;
use dejavm_machine::Storage;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// An image that is read and never written. Somebody else who writes it meanwhile is found out at the next read: what was read then
/// may not be what the recording's hash is of.
pub struct Image {
    contents: Contents,
    file: File,
    opened: Stamp,
}

/// When a file was last written, and how long it is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp { bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    }
}

/// How a disk's contents lie in a file.
enum Contents {
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
        let opened = Stamp::of(file)?;
        let contents = Contents::open(path, file.try_clone()?, format)?;
        Ok(Image { contents, file: file.try_clone()?, opened })
    }

    /// Bytes of the disk in it.
    pub fn bytes(&self) -> u64 {
        self.contents.bytes()
    }

    /// How it holds them.
    pub fn format(&self) -> Format {
        match self.contents {
            Contents::Raw { .. } => Format::Raw,
            Contents::Qcow2(_) => Format::Qcow2,
            Contents::Vmdk(_) => Format::Vmdk,
        }
    }
}

impl Contents {
    fn open(path: &Path, file: File, format: Format) -> io::Result<Contents> {
        Ok(match format {
            Format::Raw => {
                let bytes = file.metadata()?.len();
                Contents::Raw { file, bytes }
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
                Contents::Qcow2(Box::new(FormatAccess::new(opened)))
            }
            Format::Vmdk => Contents::Vmdk(Vmdk::open(file)?),
        })
    }

    fn bytes(&self) -> u64 {
        match self {
            Contents::Raw { bytes, .. } => *bytes,
            Contents::Qcow2(image) => image.size(),
            Contents::Vmdk(image) => image.bytes(),
        }
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Contents::Raw { file, .. } => file.read_exact_at(into, offset),
            Contents::Qcow2(image) => image.read(into, offset),
            Contents::Vmdk(image) => image.read(into, offset),
        }
    }
}

impl Storage for Image {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let there = self.bytes().saturating_sub(offset).min(into.len() as u64) as usize;
        let (inside, behind) = into.split_at_mut(there);
        behind.fill(0);
        let read = self.contents.read(offset, inside);
        // Looked at afterwards: whoever wrote what was just read had changed the time before.
        if Stamp::of(&self.file)? != self.opened {
            return Err(io::Error::other(
                "somebody has written to it since the machine was started; put it back as it was, and \
                 give each machine whose disk others write a copy",
            ));
        }
        read
    }
}
