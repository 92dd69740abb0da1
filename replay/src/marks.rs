//! Marks: named moments, added to a recording while it is made or long after.

use crate::file::{Chunk, FileError, Kind, Mark, ReadError, Reader, encode_chunk};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// Bytes in a mark's name at most.
pub const MARK_NAME_MAX: usize = 200;

/// Why a mark was not added. The recording is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// A name that would not print.
    #[error("a mark's name has 1 to {MARK_NAME_MAX} bytes and no control characters")]
    Name,
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The recording is damaged in the middle: nothing behind that would be believed.
    #[error("no mark can be added to a damaged recording: {0}")]
    Damaged(FileError),
    /// The host refused.
    #[error("the mark could not be written: {0}")]
    Write(io::Error),
}

/// Whether a mark can be called so.
pub fn is_mark_name(name: &str) -> bool {
    (1..=MARK_NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Adds a mark to those of a recording: one of the same name gives way to it.
pub(crate) fn put(marks: &mut Vec<Mark>, mark: Mark) {
    marks.retain(|known| known.name != mark.name);
    let place = marks.partition_point(|known| known.at <= mark.at);
    marks.insert(place, mark);
}

/// Reads the marks behind the end, as far as they are intact.
pub(crate) fn read_behind_end<R: io::Read + Seek>(reader: &mut Reader<R>, marks: &mut Vec<Mark>) {
    while let Ok(Some(place)) = reader.next_place() {
        if place.kind == Kind::Mark as u16 {
            reader.go_to(place);
            let Ok(Some(located)) = reader.next_chunk() else { return };
            if let Chunk::Mark(mark) = located.chunk {
                put(marks, mark);
            }
        }
    }
}

/// Appends a mark to a recording that nobody is writing, opened for reading and writing. The file is
/// on the disk when this returns; killed on the way, it leaves a recording without the mark.
pub fn add_mark(mut file: &File, mark: &Mark) -> Result<(), MarkError> {
    if !is_mark_name(&mark.name) {
        return Err(MarkError::Name);
    }
    let mut reader = Reader::new(file)?;
    let mut ended = false;
    loop {
        match reader.next_place() {
            Ok(Some(place)) => ended |= place.kind == Kind::End as u16,
            Ok(None) => break,
            // A chunk that was torn when its writer was killed.
            Err(ReadError::File(FileError::Truncated { .. })) => break,
            // Nothing behind the end is needed.
            Err(ReadError::File(_)) if ended => break,
            Err(ReadError::File(error)) => return Err(MarkError::Damaged(error)),
            Err(error) => return Err(error.into()),
        }
    }
    let at = reader.offset();
    let bytes = encode_chunk(&Chunk::Mark(mark.clone())).map_err(MarkError::Write)?;
    let mut write = || {
        file.set_len(at)?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(MarkError::Write)
}
