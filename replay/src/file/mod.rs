//! The recording file. `docs/formats/recording.md` is the specification.

mod bytes;
mod chunk;
mod frame;
mod reader;
mod writer;

pub use bytes::Bytes;
pub use chunk::{
    CheckpointChunk, Chunk, EndChunk, Ending, External, Header, ImageBlocks, Kind, Mark, Moment,
    Parent, SEMANTICS, SEMANTICS_OLDEST, Stamped, Start,
};
pub(crate) use chunk::{from_bytes, to_bytes};
pub use frame::{FORMAT_VERSION, FileError};
pub use reader::{ChunkPlace, Located, ReadError, Reader};
pub use writer::Writer;
pub(crate) use writer::{Encoder, encode_chunk};
