//! The log as something to look things up in: its chunks are read once when the recording is opened, so
//! that it is known where it ends, and again when the timeline comes by. One chunk is in memory.

use crate::digest::Digest;
use crate::file::{
    CheckpointChunk, Chunk, ChunkPlace, EndChunk, FileError, Kind, Mark, Moment, ReadError, Reader,
};
use crate::marks;
use crate::replayer::{CutShort, ReplayError};
use dejavm_machine::Input;
use dejavm_units::Position;
use std::io::{Read, Seek};

/// What the log says happened at a moment.
pub(super) enum What {
    Input(Input),
    /// Everything up to here is in the file.
    Progress,
    Digest(Box<Digest>),
    End(EndChunk),
}

/// An entry of the log.
pub(super) struct Event {
    pub(super) at: Moment,
    pub(super) what: What,
}

/// A chunk with events. None is empty.
struct Entries {
    place: ChunkPlace,
    first: Moment,
    last: Moment,
    /// A digest that a replay was found equal to. True for all other kinds.
    verified: bool,
}

/// A place between two events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cursor {
    chunk: usize,
    event: usize,
}

/// The log of a recording.
pub(super) struct Log<R> {
    reader: Reader<R>,
    chunks: Vec<Entries>,
    /// The chunk read last, by its index, and its events.
    loaded: Option<(usize, Vec<Event>)>,
    /// Places of checkpoints, in the order of the file.
    checkpoints: Vec<ChunkPlace>,
    marks: Vec<Mark>,
    cut_short: Option<CutShort>,
    end: Moment,
}

/// The events of a chunk; `None` for the kinds that hold none.
fn events(chunk: Chunk) -> Option<Vec<Event>> {
    Some(match chunk {
        Chunk::Inputs(inputs) => inputs
            .into_iter()
            .map(|stamped| Event { at: stamped.at, what: What::Input(stamped.input) })
            .collect(),
        Chunk::Progress(at) => vec![Event { at, what: What::Progress }],
        Chunk::Digest(digest) => vec![Event { at: digest.at, what: What::Digest(digest) }],
        Chunk::End(end) => vec![Event { at: end.at, what: What::End(end) }],
        Chunk::Header(_)
        | Chunk::Start(_)
        | Chunk::Pages(_)
        | Chunk::Mark(_)
        | Chunk::External(_)
        | Chunk::Index(_)
        | Chunk::Contents(_)
        | Chunk::Checkpoint(_)
        | Chunk::Parent(_)
        | Chunk::Image(_) => return None,
    })
}

impl<R: Read + Seek> Log<R> {
    /// Reads through the log. Damage ends it; what lies before is used.
    ///
    /// # Errors
    /// Only the host's.
    pub(super) fn open(reader: Reader<R>) -> Result<Log<R>, ReplayError> {
        let mut log = Log {
            reader,
            chunks: Vec::new(),
            loaded: None,
            checkpoints: Vec::new(),
            marks: Vec::new(),
            cut_short: None,
            end: Moment::default(),
        };
        loop {
            match log.add_next() {
                Ok(true) => {}
                Ok(false) => {
                    marks::read_behind_end(&mut log.reader, &mut log.marks);
                    return Ok(log);
                }
                Err(ReadError::File(error)) => {
                    log.cut_short = Some(error.into());
                    return Ok(log);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Adds the next chunk; whether there may be more.
    fn add_next(&mut self) -> Result<bool, ReadError> {
        let Some(place) = self.reader.next_place()? else {
            let offset = self.reader.offset();
            return Err(FileError::Truncated { offset, end: offset }.into());
        };
        let offset = place.offset;
        let kind = match Kind::from_number(place.kind) {
            None => return Ok(true),
            Some(Kind::Contents | Kind::Image) => return Ok(true),
            Some(Kind::Checkpoint) => {
                self.checkpoints.push(place);
                return Ok(true);
            }
            Some(Kind::Header | Kind::Start | Kind::Pages | Kind::External | Kind::Parent) => {
                let reason = "it belongs to the beginning";
                return Err(FileError::OutOfPlace { offset, reason }.into());
            }
            Some(Kind::Index) => {
                let reason = "an index follows only the end";
                return Err(FileError::OutOfPlace { offset, reason }.into());
            }
            Some(
                kind @ (Kind::Inputs | Kind::Progress | Kind::Digest | Kind::End | Kind::Mark),
            ) => kind,
        };
        self.reader.go_to(place);
        let Some(located) = self.reader.next_chunk()? else { return Ok(false) };
        if let Chunk::Mark(mark) = located.chunk {
            marks::put(&mut self.marks, mark);
            return Ok(true);
        }
        let events = events(located.chunk).expect("only kinds with events are left");
        let mut last = self.end;
        for event in &events {
            if event.at < last {
                let reason = "its events lie before earlier ones";
                return Err(FileError::OutOfPlace { offset, reason }.into());
            }
            last = event.at;
        }
        if let Some(Event { at: first, .. }) = events.first() {
            self.end = last;
            let verified = kind != Kind::Digest;
            self.chunks.push(Entries { place, first: *first, last, verified });
        }
        Ok(kind != Kind::End)
    }

    /// The last moment that can be replayed.
    pub(super) fn end(&self) -> Moment {
        self.end
    }

    /// Why the recording has no ending, if so.
    pub(super) fn cut_short(&self) -> Option<&CutShort> {
        self.cut_short.as_ref()
    }

    /// What tells this recording, up to a position, from all others; see [`crate::Parent`].
    pub(super) fn identity(&mut self, until: Position) -> Result<[u8; 32], ReplayError> {
        let mut hash = blake3::Hasher::new();
        self.reader.rewind();
        for _ in 0..2 {
            if let Some(place) = self.reader.next_place()? {
                hash.update(&self.reader.frame_bytes(place)?);
            }
        }
        for chunk in &self.chunks {
            let counts = match Kind::from_number(chunk.place.kind) {
                Some(Kind::Inputs | Kind::Digest | Kind::End) => chunk.first.position < until,
                _ => false,
            };
            if counts {
                hash.update(&self.reader.frame_bytes(chunk.place)?);
            }
        }
        Ok(*hash.finalize().as_bytes())
    }

    /// Named moments, ascending.
    pub(super) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    fn load(&mut self, chunk: usize) -> Result<&[Event], ReplayError> {
        if self.loaded.as_ref().is_none_or(|(index, _)| *index != chunk) {
            let place = self.chunks[chunk].place;
            self.reader.go_to(place);
            let offset = place.offset;
            let located = self.reader.next_chunk()?;
            // It was there when the file was opened.
            let changed = FileError::OutOfPlace { offset, reason: "the file has changed" };
            let events = located.and_then(|located| events(located.chunk)).ok_or(changed)?;
            self.loaded = Some((chunk, events));
        }
        let (_, events) = self.loaded.as_ref().expect("it was just loaded");
        Ok(events)
    }

    /// The place before the first event that is not before `position`.
    pub(super) fn find(&mut self, position: Position) -> Result<Cursor, ReplayError> {
        let chunk = self.chunks.partition_point(|chunk| chunk.last.position < position);
        if chunk == self.chunks.len() {
            return Ok(Cursor { chunk, event: 0 });
        }
        let event = self.load(chunk)?.partition_point(|event| event.at.position < position);
        Ok(Cursor { chunk, event })
    }

    /// The event behind a place.
    pub(super) fn peek(&mut self, cursor: Cursor) -> Result<Option<&Event>, ReplayError> {
        if cursor.chunk >= self.chunks.len() {
            return Ok(None);
        }
        let offset = self.chunks[cursor.chunk].place.offset;
        let changed = FileError::OutOfPlace { offset, reason: "the file has changed" };
        Ok(Some(self.load(cursor.chunk)?.get(cursor.event).ok_or(changed)?))
    }

    /// The place behind the event that is behind `cursor`.
    pub(super) fn after(&mut self, cursor: Cursor) -> Result<Cursor, ReplayError> {
        let events = self.load(cursor.chunk)?.len();
        Ok(match cursor.event + 1 < events {
            true => Cursor { event: cursor.event + 1, ..cursor },
            false => Cursor { chunk: cursor.chunk + 1, event: 0 },
        })
    }

    /// Whether a replay was found equal to the digest behind a place.
    pub(super) fn verified(&self, cursor: Cursor) -> bool {
        self.chunks[cursor.chunk].verified
    }

    /// Remembers that a replay was found equal to the digest behind a place.
    pub(super) fn set_verified(&mut self, cursor: Cursor) {
        self.chunks[cursor.chunk].verified = true;
    }

    /// Whether the first digest at or behind a place is still to be compared.
    pub(super) fn awaits_digest(&self, cursor: Cursor) -> bool {
        let digest = |chunk: &&Entries| chunk.place.kind == Kind::Digest as u16;
        let next = self.chunks.get(cursor.chunk..).into_iter().flatten().find(digest);
        next.is_some_and(|chunk| !chunk.verified)
    }

    /// The contents of pages that the chunk at `offset` holds.
    pub(super) fn page_contents(&mut self, offset: u64) -> Result<Vec<u8>, ReplayError> {
        self.reader.seek(offset);
        match self.reader.next_chunk()?.map(|located| (located.offset, located.chunk)) {
            Some((at, Chunk::Contents(contents))) if at == offset => Ok(contents.0),
            Some((at, Chunk::Pages(batch))) if at == offset => Ok(batch.contents.0),
            _ => {
                let reason = "a checkpoint refers to it for contents of pages";
                Err(FileError::OutOfPlace { offset, reason }.into())
            }
        }
    }

    /// The `n`th checkpoint in the file, and where it is.
    pub(super) fn checkpoint(
        &mut self,
        n: usize,
    ) -> Result<Option<(u64, CheckpointChunk)>, ReplayError> {
        let Some(&place) = self.checkpoints.get(n) else { return Ok(None) };
        self.reader.go_to(place);
        let offset = place.offset;
        match self.reader.next_chunk()?.map(|located| located.chunk) {
            Some(Chunk::Checkpoint(checkpoint)) => Ok(Some((offset, *checkpoint))),
            _ => Err(FileError::OutOfPlace { offset, reason: "the file has changed" }.into()),
        }
    }
}
