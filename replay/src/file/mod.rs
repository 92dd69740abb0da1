//! The recording file. `docs/formats/recording.md` is the specification.

mod chunk;
mod frame;
mod reader;
mod writer;

pub use chunk::{
    Chunk, EndChunk, Ending, External, Header, Kind, Mark, Moment, SEMANTICS, Stamped, Start,
};
pub(crate) use chunk::{from_bytes, to_bytes};
pub use frame::{FORMAT_VERSION, FileError};
pub use reader::{ChunkPlace, Located, ReadError, Reader};
pub use writer::Writer;
