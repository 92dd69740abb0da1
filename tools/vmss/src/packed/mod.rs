//! Files that are compressed as a whole, by gzip or zstd: known by how they begin, read like any other.
//!
//! ESXi compresses what it dumps of a guest that it debugs, people compress what they send, and `dejavm snapshot
//! --compress` does. A zstd file with a seek table (zstd's `contrib/seekable_format`) is read in place; anything else
//! is unpacked once, into a temporary file that has no name.

mod seekable;
mod unpack;
mod write;

pub use write::SeekableWriter;

use crate::pair::unwrapped;
use crate::source::{ReadAt, Sparse, read_some};
use crate::{Error, Result};
use seekable::Seekable;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

/// How files begin that are compressed in ways that are not read.
const OTHERS: [(&[u8], &str); 4] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
];

impl Packing {
    /// By the first bytes: RFC 1952, 2.3.1, with the one method there is; RFC 8878, 3.1.1 and 3.1.2.
    fn of(begin: [u8; 4]) -> Option<Packing> {
        match begin {
            [0x1f, 0x8b, 8, _] => Some(Packing::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some(Packing::Zstd),
            _ => None,
        }
    }
}

/// Opens a file, through its compression if it is compressed by gzip or zstd.
///
/// # Errors
/// As the operating system has it, or if it cannot be unpacked.
pub fn open_file(path: &Path) -> Result<Arc<dyn ReadAt>> {
    open(path, None)
}

/// Opens a file with as many bytes of guest memory, or fewer. Guest memory may begin with any bytes: one of just this
/// size is not compressed.
pub(crate) fn open_memory(path: &Path, bytes: u64) -> Result<Arc<dyn ReadAt>> {
    open(path, Some(bytes))
}

fn open(path: &Path, memory_bytes: Option<u64>) -> Result<Arc<dyn ReadAt>> {
    let wrong = |source| Error::File { path: path.into(), source };
    let file = File::open(path).map_err(wrong)?;
    let size = file.metadata().map_err(wrong)?.len();
    let mut begin = [0; 8];
    read_some(&file, &mut begin, 0).map_err(|error| error.in_file(Some(path)))?;
    let packing = Packing::of([begin[0], begin[1], begin[2], begin[3]]);
    let Some(packing) = packing.filter(|_| memory_bytes != Some(size)) else {
        let is_named_so = unwrapped(path) != path;
        match OTHERS.iter().find(|(magic, _)| begin.starts_with(magic)) {
            Some((_, name)) if memory_bytes.is_none() => {
                let what = format!(
                    "compressed by {name}; unpack it first, or compress it by gzip or zstd"
                );
                return Err(Error::Unsupported(what));
            }
            _ if is_named_so && memory_bytes != Some(size) => {
                let what = "its name says that it is compressed, and it does not begin so";
                return Err(Error::File { path: path.into(), source: std::io::Error::other(what) });
            }
            _ => return Ok(Arc::new(Sparse::new(file))),
        }
    };
    if packing == Packing::Zstd
        && let Some(seekable) = Seekable::of(&file, size).map_err(wrong)?
    {
        return Ok(Arc::new(seekable.over(file)));
    }
    // A little more shows that it is the wrong file.
    let limit = memory_bytes.map_or(u64::MAX, |bytes| bytes.saturating_add(crate::PAGE_BYTES));
    let file = unpack::unpack(path, file, packing, limit)?;
    Ok(Arc::new(Sparse::new(file)))
}
