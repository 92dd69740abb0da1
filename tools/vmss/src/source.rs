//! Where bytes come from.

use crate::{Error, Result};
use std::fs::File;
use std::io;

/// Bytes that can be read from any place, by several readers at a time.
pub trait ReadAt: Send + Sync {
    /// Reads some bytes from a place; 0 at the end.
    ///
    /// # Errors
    /// As the operating system has it.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// As the operating system has it.
    fn size(&self) -> io::Result<u64>;

    /// How many of them take up room, if that can be told: files have holes.
    fn stored(&self) -> Option<u64> {
        None
    }
}

impl ReadAt for File {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, into, at)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn stored(&self) -> Option<u64> {
        Some(std::os::unix::fs::MetadataExt::blocks(&self.metadata().ok()?) * 512)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let rest = usize::try_from(at).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// Reads as many bytes as there are, up to all; how many.
pub(crate) fn read_some(source: &dyn ReadAt, into: &mut [u8], at: u64) -> Result<usize> {
    let mut done = 0;
    while done < into.len() {
        let place = at.saturating_add(done as u64);
        match source.read_at(&mut into[done..], place) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::Read { at: place, source }),
        }
    }
    Ok(done)
}

/// Reads all bytes, or says that the file ends there.
pub(crate) fn read_all(source: &dyn ReadAt, into: &mut [u8], at: u64) -> Result<()> {
    let count = read_some(source, into, at)?;
    if count < into.len() {
        return Err(Error::damaged(at + count as u64, "the file ends there; was it copied whole?"));
    }
    Ok(())
}
