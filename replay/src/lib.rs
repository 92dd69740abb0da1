//! Recording a machine and replaying it: the file, the recorder, the replayer, and the digests by
//! which each replay proves itself.
//!
//! Nothing here reads a clock or waits: the host side is a [`World`], which the caller implements.
#![forbid(unsafe_code)]

mod digest;
mod divergence;
mod file;
mod guest;
mod marks;
mod packed_images;
mod packing;
mod page_set;
mod pages;
mod record;
mod record_checkpoints;
mod replayer;
mod summary;
mod timeline;
mod transcribe;
mod under_way;

pub use digest::{Digest, Hash128};
pub use divergence::Divergence;
pub use file::{
    Bytes, CheckpointChunk, Chunk, ChunkPlace, Ending, External, FORMAT_VERSION, FileError, Header,
    Kind, Located, Mark, Moment, Parent, ReadError, Reader, SEMANTICS, SEMANTICS_OLDEST, Stamped,
    Start, Writer,
};
pub use guest::Guest;
pub use marks::{MARK_NAME_MAX, MarkError, add_mark, is_mark_name};
pub use packed_images::{IMAGE_BLOCK, PackError, PackedImages, append_image};
pub use packing::{Packed, Packer, Packing, PageCopies};
pub use pages::{PageBatch, PageStoreError};
pub use record::{
    Advance, IdleAnswer, Polled, Progress, RecordError, RecordOptions, Recorded, Recorder, World,
    record,
};
pub use record_checkpoints::{CheckpointInterval, CheckpointPolicy};
pub use replayer::{CutShort, Observer, ReplayError, ReplayOptions, Replayed, Replayer};
pub use summary::{KindTotal, Summary};
pub use timeline::{
    Direction, Judge, Reached, Rewind, Timeline, TimelineOptions, TimelineStop, Watcher,
};
pub use transcribe::{Follower, TranscribeError, transcribe};
