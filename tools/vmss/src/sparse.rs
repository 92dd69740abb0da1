//! Writing files with holes.

use crate::PAGE_BYTES;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// A file that is written from front to back. Pages of zeros become holes, which take no room and no time.
pub struct SparseFile {
    file: File,
    at: u64,
}

impl SparseFile {
    /// Goes on behind what was written to a file so far.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn new(file: File) -> io::Result<SparseFile> {
        let at = file.metadata()?.len();
        Ok(SparseFile { file, at })
    }

    /// Where it goes on.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Leaves a hole.
    pub fn skip(&mut self, bytes: u64) {
        self.at += bytes;
    }

    /// Ends the file where it goes on.
    ///
    /// # Errors
    /// As the operating system has it.
    pub fn finish(self) -> io::Result<File> {
        self.file.set_len(self.at)?;
        Ok(self.file)
    }
}

impl Write for SparseFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (from, contents) in contents(bytes) {
            self.file.write_all_at(contents, self.at + from as u64)?;
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The runs of pages that are not all zeros, each with where it begins.
pub fn contents(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        at += count_pages(&bytes[at..], true);
        let run = &bytes[at..at + count_pages(&bytes[at..], false)];
        let begin = at;
        at += run.len();
        (!run.is_empty()).then_some((begin, run))
    })
}

/// Bytes of the pages in front that are zero, or are not; what is less than a page counts as one.
fn count_pages(bytes: &[u8], zero: bool) -> usize {
    let pages = bytes.chunks(PAGE_BYTES as usize);
    pages.take_while(|page| is_zero(page) == zero).map(<[u8]>::len).sum()
}

/// Whether all bytes are zero. Most pages that are not show it in front.
pub fn is_zero(page: &[u8]) -> bool {
    page.chunks(256).all(|bytes| bytes.iter().fold(0, |all, &byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_zeros_are_holes() {
        let mut file = SparseFile::new(tempfile::tempfile().unwrap()).unwrap();
        let mut bytes = vec![0; 300 * 4096 + 77];
        bytes[5000] = 1;
        bytes[299 * 4096] = 2;
        file.write_all(&bytes).unwrap();
        file.skip(4096);
        let file = file.finish().unwrap();
        let mut read = vec![1; bytes.len() + 4096];
        file.read_exact_at(&mut read, 0).unwrap();
        bytes.resize(read.len(), 0);
        assert_eq!(read, bytes);
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks <= 4 * 8, "{blocks} blocks of 512 bytes for two pages");
    }
}
