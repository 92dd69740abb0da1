//! What must be unpacked from front to back goes into a temporary file, with holes for zeros and without a name: it
//! is gone with the program.

use super::Packing;
use crate::{Error, Result, SparseFile};
use flate2::bufread::MultiGzDecoder;
use std::env;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

/// Bytes unpacked at a time, whole pages of zeros among them being left out.
const PIECE_BYTES: usize = 256 << 10;

/// Unpacks a file, up to a limit of bytes.
pub fn unpack(path: &Path, file: File, packing: Packing, limit: u64) -> Result<File> {
    let folder = env::temp_dir();
    let wrong = |source: io::Error| {
        let is_full = source.kind() == io::ErrorKind::StorageFull;
        let advice =
            "; TMPDIR names another folder to use, and a file with zstd's seek table needs none";
        Error::Unpack {
            path: path.into(),
            folder: folder.clone(),
            source,
            advice: if is_full { advice } else { "" },
        }
    };
    let packed_bytes = file.metadata().map_err(wrong)?.len();
    let into = tempfile::tempfile_in(&folder).map_err(wrong)?;
    // Unpacked it is no smaller, but for zeros, which pack to next to nothing.
    let system = rustix::fs::fstatvfs(&into).map_err(|error| wrong(error.into()))?;
    if packed_bytes > system.f_bavail.saturating_mul(system.f_frsize) {
        return Err(wrong(io::ErrorKind::StorageFull.into()));
    }
    let file = BufReader::with_capacity(PIECE_BYTES, file);
    let from: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(file)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file).map_err(wrong)?),
    };
    let mut from = from.take(limit);
    let mut into = SparseFile::new(into).map_err(wrong)?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        piece.clear();
        let read = from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        match read.map_err(|source| Error::File { path: path.into(), source: damaged(source) })? {
            0 => return into.finish().map_err(wrong),
            _ => into.write_all(&piece).map_err(wrong)?,
        }
    }
}

/// Decoders speak of themselves.
fn damaged(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its compressed data are damaged: {error}"))
}
