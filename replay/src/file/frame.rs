//! The file header and the frames around chunks: what is checked before a payload is believed.

/// The version that this code writes.
pub const FORMAT_VERSION: u16 = 2;
/// The oldest reader that can read what this code writes.
const READER_VERSION: u16 = 2;

pub(super) const MAGIC: [u8; 8] = *b"\x89DVR\r\n\x1a\n";
pub(super) const FILE_HEADER_BYTES: usize = 16;
pub(super) const FRAME_BYTES: usize = 24;
const MARKER: [u8; 4] = *b"DVck";
/// Bounds on one chunk's payload, in the file and in memory.
pub(super) const STORED_MAX: u32 = 16 << 20;
pub(super) const LENGTH_MAX: u32 = 64 << 20;

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// bincode, as it is.
    Plain,
    /// bincode, zstd.
    Zstd,
}

/// Why a recording cannot be read. Offsets are in bytes from the start of the file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not a recording at all.
    #[error("this is not a dejavm recording: it does not start with the magic bytes 89 44 56 52")]
    NotARecording,
    /// Written by a later dejavm.
    #[error(
        "this recording needs a dejavm that reads format {needed}; this one reads up to {known}: \
         use a newer dejavm"
    )]
    TooNew {
        /// The reader version that the file asks for.
        needed: u16,
        /// The version that this code knows.
        known: u16,
    },
    /// The file's own header is damaged.
    #[error("the file header is damaged (checksum mismatch at offset 12)")]
    DamagedHeader,
    /// The file ends inside a frame or payload.
    #[error("the file ends at offset {end}, inside the chunk that starts at offset {offset}")]
    Truncated {
        /// Where the chunk starts.
        offset: u64,
        /// Where the file ends.
        end: u64,
    },
    /// A frame's checksum or marker is wrong.
    #[error("no intact chunk at offset {offset}: its frame is damaged")]
    DamagedFrame {
        /// Where the frame should start.
        offset: u64,
    },
    /// A frame asks for more than any recorder writes.
    #[error("the chunk at offset {offset} claims {bytes} bytes, more than a chunk may have")]
    Oversized {
        /// Where the chunk starts.
        offset: u64,
        /// What it claims.
        bytes: u32,
    },
    /// A payload's checksum is wrong.
    #[error("the chunk at offset {offset} is damaged (payload checksum mismatch)")]
    DamagedPayload {
        /// Where the chunk starts.
        offset: u64,
    },
    /// A payload does not decode.
    #[error("the chunk at offset {offset} does not decode: {reason}")]
    Undecodable {
        /// Where the chunk starts.
        offset: u64,
        /// What the decoder said.
        reason: String,
    },
    /// Chunks in an order that no recorder writes.
    #[error("the chunk at offset {offset} is out of place: {reason}")]
    OutOfPlace {
        /// Where the chunk starts.
        offset: u64,
        /// What is wrong with its place.
        reason: &'static str,
    },
}

/// The 16 bytes at the start of a file.
pub(super) fn file_header() -> [u8; FILE_HEADER_BYTES] {
    let mut bytes = [0; FILE_HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[10..12].copy_from_slice(&READER_VERSION.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Checks the 16 bytes at the start of a file.
pub(super) fn check_file_header(bytes: &[u8; FILE_HEADER_BYTES]) -> Result<(), FileError> {
    if bytes[..8] != MAGIC {
        return Err(FileError::NotARecording);
    }
    if crc32c::crc32c(&bytes[..12]) != u32_at(bytes, 12) {
        return Err(FileError::DamagedHeader);
    }
    let needed = u16::from_le_bytes([bytes[10], bytes[11]]);
    if needed > FORMAT_VERSION {
        return Err(FileError::TooNew { needed, known: FORMAT_VERSION });
    }
    Ok(())
}

/// What a frame says of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u16,
    pub(super) codec: Codec,
    pub(super) stored: u32,
    pub(super) length: u32,
    pub(super) payload_crc: u32,
}

impl Frame {
    pub(super) fn encode(self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        bytes[..4].copy_from_slice(&MARKER);
        bytes[4..6].copy_from_slice(&self.kind.to_le_bytes());
        let codec: u16 = match self.codec {
            Codec::Plain => 0,
            Codec::Zstd => 1,
        };
        bytes[6..8].copy_from_slice(&codec.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.stored.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; FRAME_BYTES], offset: u64) -> Result<Frame, FileError> {
        if bytes[..4] != MARKER || crc32c::crc32c(&bytes[..20]) != u32_at(bytes, 20) {
            return Err(FileError::DamagedFrame { offset });
        }
        let codec = match u16::from_le_bytes([bytes[6], bytes[7]]) {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            other => {
                let reason = format!("codec {other} is unknown to this dejavm");
                return Err(FileError::Undecodable { offset, reason });
            }
        };
        let (stored, length) = (u32_at(bytes, 8), u32_at(bytes, 12));
        if stored > STORED_MAX || length > LENGTH_MAX {
            return Err(FileError::Oversized { offset, bytes: stored.max(length) });
        }
        let kind = u16::from_le_bytes([bytes[4], bytes[5]]);
        Ok(Frame { kind, codec, stored, length, payload_crc: u32_at(bytes, 16) })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
