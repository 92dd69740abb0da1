//! Reads chunks back, believing nothing.

use super::chunk::{Chunk, Kind};
use super::frame::{Codec, FILE_HEADER_BYTES, FRAME_BYTES, FileError, Frame, check_file_header};
use std::io::{self, Read, Seek, SeekFrom};

/// Why reading failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file says something impossible.
    #[error(transparent)]
    File(#[from] FileError),
    /// The host could not read it.
    #[error("the recording could not be read at offset {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// The host's answer.
        source: io::Error,
    },
}

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Offset of its frame.
    pub offset: u64,
    /// Its kind's number; see [`Kind::from_number`].
    pub kind: u16,
    /// Bytes in the file, frame included.
    pub bytes: u64,
}

/// A chunk and where it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Offset of its frame.
    pub offset: u64,
    /// What it holds.
    pub chunk: Chunk,
}

/// Reads the chunks of a recording in order.
pub struct Reader<R> {
    source: R,
    offset: u64,
    end: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Opens a recording and checks its header.
    pub fn new(mut source: R) -> Result<Reader<R>, ReadError> {
        let io = |offset| move |source| ReadError::Io { offset, source };
        let end = source.seek(SeekFrom::End(0)).map_err(io(0))?;
        source.seek(SeekFrom::Start(0)).map_err(io(0))?;
        let mut header = [0; FILE_HEADER_BYTES];
        let have = (end as usize).min(FILE_HEADER_BYTES);
        source.read_exact(&mut header[..have]).map_err(io(0))?;
        if have < FILE_HEADER_BYTES {
            return Err(FileError::NotARecording.into());
        }
        check_file_header(&header)?;
        Ok(Reader { source, offset: FILE_HEADER_BYTES as u64, end })
    }

    /// What is read.
    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.end
    }

    /// Where the next chunk starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next chunk of a kind that this version knows; `None` at the end of the file. After an
    /// error the reader stays where it was.
    pub fn next_chunk(&mut self) -> Result<Option<Located>, ReadError> {
        loop {
            let Some((place, frame)) = self.next_frame()? else { return Ok(None) };
            let offset = place.offset;
            let kind = Kind::from_number(frame.kind);
            if kind.is_some_and(|kind| frame.length > kind.length_max()) {
                return Err(FileError::Oversized { offset, bytes: frame.length }.into());
            }
            let payload = self.payload(&place, &frame)?;
            let chunk = kind.map(|kind| Chunk::decode(kind, &payload, offset)).transpose()?;
            self.offset += place.bytes;
            if let Some(chunk) = chunk {
                return Ok(Some(Located { offset, chunk }));
            }
        }
    }

    /// As [`Reader::next_chunk`]; checkpoints and their contents are skipped unread, as if they were of
    /// an unknown kind: no replay needs them.
    pub(crate) fn next_but_checkpoints(&mut self) -> Result<Option<Located>, ReadError> {
        while let Some((place, frame)) = self.next_frame()? {
            match Kind::from_number(frame.kind) {
                Some(Kind::Contents | Kind::Checkpoint | Kind::Image) => self.offset += place.bytes,
                _ => return self.next_chunk(),
            }
        }
        Ok(None)
    }

    /// The place of the next chunk, skipping its payload: for listing a file quickly. Only the frame
    /// is checked.
    pub fn next_place(&mut self) -> Result<Option<ChunkPlace>, ReadError> {
        let Some((place, _)) = self.next_frame()? else { return Ok(None) };
        self.offset += place.bytes;
        Ok(Some(place))
    }

    /// The bytes of the frame at a place that was read before.
    pub(crate) fn frame_bytes(
        &mut self,
        place: ChunkPlace,
    ) -> Result<[u8; FRAME_BYTES], ReadError> {
        let mut bytes = [0; FRAME_BYTES];
        self.read_at(place.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Continues at the first chunk.
    pub(crate) fn rewind(&mut self) {
        self.offset = FILE_HEADER_BYTES as u64;
    }

    /// Continues at a place that was read before.
    pub(crate) fn go_to(&mut self, place: ChunkPlace) {
        self.seek(place.offset);
    }

    /// Continues where the next chunk was once.
    pub(crate) fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    fn next_frame(&mut self) -> Result<Option<(ChunkPlace, Frame)>, ReadError> {
        let offset = self.offset;
        if offset == self.end {
            return Ok(None);
        }
        let truncated = FileError::Truncated { offset, end: self.end };
        if self.end - offset < FRAME_BYTES as u64 {
            return Err(truncated.into());
        }
        let mut bytes = [0; FRAME_BYTES];
        self.read_at(offset, &mut bytes)?;
        let frame = Frame::decode(&bytes, offset)?;
        let bytes = FRAME_BYTES as u64 + u64::from(frame.stored);
        if self.end - offset < bytes {
            return Err(truncated.into());
        }
        Ok(Some((ChunkPlace { offset, kind: frame.kind, bytes }, frame)))
    }

    fn payload(&mut self, place: &ChunkPlace, frame: &Frame) -> Result<Vec<u8>, ReadError> {
        let offset = place.offset;
        let mut stored = vec![0; frame.stored as usize];
        self.read_at(offset + FRAME_BYTES as u64, &mut stored)?;
        if crc32c::crc32c(&stored) != frame.payload_crc {
            return Err(FileError::DamagedPayload { offset }.into());
        }
        let undecodable = |reason: String| FileError::Undecodable { offset, reason };
        let length = frame.length as usize;
        let payload = match frame.codec {
            Codec::Plain => stored,
            Codec::Zstd => zstd::bulk::decompress(&stored, length)
                .map_err(|error| undecodable(error.to_string()))?,
        };
        if payload.len() != length {
            let reason = format!("{} bytes where {length} were declared", payload.len());
            return Err(undecodable(reason).into());
        }
        Ok(payload)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), ReadError> {
        self.source
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.source.read_exact(bytes))
            .map_err(|source| ReadError::Io { offset, source })
    }
}
