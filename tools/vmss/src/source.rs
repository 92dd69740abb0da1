//! Where bytes come from.

use crate::{Error, Result};
use rustix::fs::SeekFrom;
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

    /// How many bytes from a place on are zero, as far as that is known without reading them.
    fn zeros(&self, _at: u64) -> u64 {
        0
    }

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

/// A file whose holes are not read: what a sparse file has not, need not come through the page cache.
pub(crate) struct Sparse(File);

/// Shorter reads are done as fast as one finds out where a hole is.
const LONG_READ_BYTES: usize = 64 << 10;

impl Sparse {
    /// Takes the file: its position is of no meaning from now on.
    pub(crate) fn new(file: File) -> Sparse {
        Sparse(file)
    }
}

impl ReadAt for Sparse {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let zeros = if into.len() < LONG_READ_BYTES { 0 } else { self.zeros(at) };
        if zeros == 0 {
            return self.0.read_at(into, at);
        }
        let count = usize::try_from(zeros).unwrap_or(usize::MAX).min(into.len());
        into[..count].fill(0);
        Ok(count)
    }

    /// Those of the hole that the place is in.
    fn zeros(&self, at: u64) -> u64 {
        match rustix::fs::seek(&self.0, SeekFrom::Data(at)) {
            Ok(data) => data.saturating_sub(at),
            // All the rest.
            Err(rustix::io::Errno::NXIO) => self.0.size().map_or(0, |size| size.saturating_sub(at)),
            // Not every file system knows.
            Err(_) => 0,
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn stored(&self) -> Option<u64> {
        self.0.stored()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[1; 5000], 1 << 20).unwrap();
        file.write_all_at(&[2; 5000], (2 << 20) - 100).unwrap();
        let source = Sparse::new(file.try_clone().unwrap());
        assert!(source.zeros(0) >= 1 << 19, "file systems that tests run on know holes");
        for at in
            [0, 77, (1 << 20) - 7, (1 << 20) + 4990, (2 << 20) - 200, (3 << 20) - 70_000, 3 << 20]
        {
            let (mut read, mut expected) = (vec![9; 1 << 20], vec![9; 1 << 20]);
            let count = read_some(&source, &mut read, at).unwrap();
            assert_eq!(count, read_some(&file, &mut expected, at).unwrap(), "{at:#x}");
            assert!(read == expected, "{at:#x}");
        }
    }
}
