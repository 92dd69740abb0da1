//! Writing zstd that can be read from any place, and that any `zstd -d` unpacks.

use super::seekable::{END_MAGIC, FOOTER_BYTES, TABLE_MAGIC};
use std::io::{self, Write};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

/// Bytes in a frame: whoever reads one byte decompresses so many.
const FRAME_BYTES: usize = 1 << 20;
/// zstd's own default: half the size of level 1's result on guest memory's text, for a third more time.
const LEVEL: i32 = 3;

/// Compresses what is written to it, in frames, and adds a table of them at the end.
pub struct SeekableWriter<W: Write> {
    out: W,
    compressor: Compressor<'static>,
    frame: Vec<u8>,
    packed: Vec<u8>,
    /// Bytes of each frame in the file, and of what it stands for.
    sizes: Vec<[u32; 2]>,
}

impl<W: Write> SeekableWriter<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(out: W) -> io::Result<SeekableWriter<W>> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        let frame = Vec::with_capacity(FRAME_BYTES);
        let packed = Vec::with_capacity(compress_bound(FRAME_BYTES));
        Ok(SeekableWriter { out, compressor, frame, packed, sizes: Vec::new() })
    }

    /// Writes what is left, and the table.
    ///
    /// # Errors
    /// As `out` has it.
    pub fn finish(mut self) -> io::Result<W> {
        if !self.frame.is_empty() {
            self.write_frame()?;
        }
        let mut table = Vec::with_capacity(8 + 8 * self.sizes.len() + FOOTER_BYTES as usize);
        let bytes = self.sizes.len() as u64 * 8 + FOOTER_BYTES;
        let bytes = u32::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut word = |value: u32| table.extend_from_slice(&value.to_le_bytes());
        word(TABLE_MAGIC);
        word(bytes);
        self.sizes.iter().flatten().for_each(|&size| word(size));
        word(self.sizes.len() as u32);
        // No checksums: frames have their own.
        table.push(0);
        table.extend_from_slice(&END_MAGIC.to_le_bytes());
        self.out.write_all(&table)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_frame(&mut self) -> io::Result<()> {
        self.packed.clear();
        let bytes = self.compressor.compress_to_buffer(&self.frame, &mut self.packed)?;
        self.out.write_all(&self.packed)?;
        self.sizes.push([bytes as u32, self.frame.len() as u32]);
        self.frame.clear();
        Ok(())
    }
}

impl<W: Write> Write for SeekableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..count]);
        if self.frame.len() == FRAME_BYTES {
            self.write_frame()?;
        }
        Ok(count)
    }

    /// Does nothing: a frame is written when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::read_some;
    use std::fs;

    #[test]
    fn it_is_read_from_any_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packed");
        let bytes: Vec<u8> = (0..700_000u64)
            .flat_map(|n| (n.wrapping_mul(0x9e37_79b9) >> 20).to_le_bytes())
            .collect();
        let mut writer = SeekableWriter::new(Vec::new()).unwrap();
        bytes.chunks(123_457).for_each(|piece| writer.write_all(piece).unwrap());
        let packed = writer.finish().unwrap();
        assert!(packed.len() < bytes.len() / 2);
        assert!(zstd::stream::decode_all(&packed[..]).unwrap() == bytes);
        fs::write(&path, &packed).unwrap();
        let source = super::super::open_file(&path).unwrap();
        assert_eq!(source.size().unwrap(), bytes.len() as u64);
        for at in [0, 1, 1_048_575, 1_048_576, 3_000_000, bytes.len() - 3, bytes.len(), usize::MAX]
        {
            let mut read = vec![0; 2_000_000];
            let count = read_some(&*source, &mut read, at as u64).unwrap();
            let rest = bytes.get(at..).unwrap_or_default();
            assert!(read[..count] == rest[..count], "{at}");
            assert_eq!(count, rest.len().min(2_000_000), "{at}");
        }
        // Threads share frames that are being decompressed.
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (source, bytes) = (&source, &bytes);
                scope.spawn(move || {
                    let mut read = vec![0; 4096];
                    for at in (0..bytes.len() - 4096).step_by(70_001).skip(n) {
                        read_some(&**source, &mut read, at as u64).unwrap();
                        assert!(read == bytes[at..at + 4096]);
                    }
                });
            }
        });
        // A frame that is damaged is named; the others are read.
        let mut damaged = packed;
        damaged[5000] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let source = super::super::open_file(&path).unwrap();
        let mut byte = [0];
        let said = source.read_at(&mut byte, 0).unwrap_err().to_string();
        assert!(said.contains("frame 0 of zstd"), "{said}");
        source.read_at(&mut byte, 2_000_000).unwrap();
    }
}
