//! Appends chunks.

use super::chunk::{Chunk, Kind};
use super::frame::{Codec, FILE_HEADER_BYTES, FRAME_BYTES, Frame, STORED_MAX, file_header};
use std::io::{self, Write};
use zstd::bulk::Compressor;

/// Payloads of at least this many bytes are compressed.
const COMPRESS_FROM: usize = 128;
/// Chunks in the index at most: an entry takes up to 12 bytes.
const INDEX_MAX: usize = 1 << 20;
/// zstd's level: fast; page contents dominate and are mostly compressed kernels already.
const LEVEL: i32 = 3;
/// For contents of pages in checkpoints: while recording, time is dear.
const LEVEL_OF_CONTENTS: i32 = 1;

/// Makes chunks as they stand in the file, and keeps what that takes: fresh memory costs more than what is
/// done in it.
#[derive(Default)]
pub(crate) struct Encoder {
    payload: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Option<Compressor<'static>>,
}

impl Encoder {
    /// Frame and payload of a chunk.
    pub(crate) fn encode(&mut self, chunk: &Chunk) -> io::Result<Vec<u8>> {
        chunk.encode(&mut self.payload);
        let length_max = chunk.kind().length_max() as usize;
        let length = self.payload.len();
        assert!(length <= length_max, "recorders keep chunks within the bound");
        let mut codec = Codec::Plain;
        if length >= COMPRESS_FROM {
            let level = match chunk.kind() {
                Kind::Contents => LEVEL_OF_CONTENTS,
                _ => LEVEL,
            };
            self.compress(level)?;
            if self.compressed.len() < length {
                codec = Codec::Zstd;
            }
        }
        let stored = match codec {
            Codec::Zstd => &self.compressed,
            Codec::Plain => &self.payload,
        };
        assert!(stored.len() <= STORED_MAX as usize, "recorders keep chunks within the bound");
        let frame = Frame {
            kind: chunk.kind() as u16,
            codec,
            stored: stored.len() as u32,
            length: length as u32,
            payload_crc: crc32c::crc32c(stored),
        };
        let mut bytes = Vec::with_capacity(FRAME_BYTES + stored.len());
        bytes.extend_from_slice(&frame.encode());
        bytes.extend_from_slice(stored);
        Ok(bytes)
    }

    fn compress(&mut self, level: i32) -> io::Result<()> {
        let compressor = match &mut self.compressor {
            Some(compressor) => compressor,
            none => none.insert(Compressor::new(level)?),
        };
        compressor.set_compression_level(level)?;
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(self.payload.len()));
        compressor.compress_to_buffer(&self.payload, &mut self.compressed)?;
        Ok(())
    }
}

/// A chunk as it stands in the file: frame and payload.
pub(crate) fn encode_chunk(chunk: &Chunk) -> io::Result<Vec<u8>> {
    Encoder::default().encode(chunk)
}

/// Writes a recording, chunk after chunk. Each chunk reaches the sink in one `write_all`.
pub struct Writer<W> {
    sink: W,
    offset: u64,
    index: Vec<(u16, u64)>,
    encoder: Encoder,
}

impl<W: Write> Writer<W> {
    /// Starts a file.
    pub fn new(mut sink: W) -> io::Result<Writer<W>> {
        sink.write_all(&file_header())?;
        let (offset, index) = (FILE_HEADER_BYTES as u64, Vec::new());
        Ok(Writer { sink, offset, index, encoder: Encoder::default() })
    }

    /// Appends one chunk.
    pub fn append(&mut self, chunk: &Chunk) -> io::Result<()> {
        let bytes = self.encoder.encode(chunk)?;
        self.append_encoded(chunk.kind(), &bytes)
    }

    /// Appends one chunk as an [`Encoder`] made it.
    pub(crate) fn append_encoded(&mut self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.sink.flush()?;
        self.index.push((kind as u16, self.offset));
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Writes the index, unless there are too many chunks for one (readers scan then). Returns the
    /// file's length in bytes.
    pub fn finish(mut self) -> io::Result<u64> {
        if self.index.len() <= INDEX_MAX {
            let index = Chunk::Index(std::mem::take(&mut self.index));
            self.append(&index)?;
        }
        Ok(self.offset)
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.offset
    }
}
