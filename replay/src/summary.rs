//! What is in a recording, found without replaying it.

use crate::file::{
    Chunk, Ending, External, FileError, Header, Kind, Mark, Moment, Parent, ReadError, Reader,
};
use crate::marks;
use crate::replayer::CutShort;
use std::collections::BTreeMap;
use std::io::{Read, Seek};

/// Chunks of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindTotal {
    /// How many.
    pub chunks: u64,
    /// Bytes in the file, frames included.
    pub bytes: u64,
}

/// What is in a recording.
#[derive(Debug)]
pub struct Summary {
    /// What was recorded.
    pub header: Header,
    /// Files that it needs besides.
    pub externals: Vec<External>,
    /// What it was branched from.
    pub parent: Option<Parent>,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// Bytes of the chunks after the start state, checkpoints apart.
    pub log_bytes: u64,
    /// Chunks by kind; unknown kinds are left out.
    pub kinds: BTreeMap<Kind, KindTotal>,
    /// Inputs in the log.
    pub inputs: u64,
    /// Named moments, ascending.
    pub marks: Vec<Mark>,
    /// The last moment that the log knows.
    pub last: Moment,
    /// Why the recording ended.
    pub ending: Option<Ending>,
    /// Bytes of console output, if it ended.
    pub console_bytes: Option<u64>,
    /// Why it has no ending.
    pub cut_short: Option<CutShort>,
}

impl Summary {
    /// Reads through a recording. Contents of pages are skipped.
    ///
    /// # Errors
    /// A file whose beginning cannot be read. Damage further on is part of the summary.
    pub fn read<R: Read + Seek>(source: R) -> Result<Summary, ReadError> {
        let mut reader = Reader::new(source)?;
        let place = reader.next_place()?;
        let offset = place.map_or(reader.offset(), |place| place.offset);
        if let Some(place) = place {
            reader.go_to(place);
        }
        let header = match reader.next_chunk()?.map(|located| located.chunk) {
            Some(Chunk::Header(header)) => *header,
            Some(_) => {
                let reason = "the first chunk must be the header";
                return Err(FileError::OutOfPlace { offset, reason }.into());
            }
            None => return Err(FileError::Truncated { offset, end: offset }.into()),
        };
        let mut summary = Summary {
            header,
            externals: Vec::new(),
            parent: None,
            file_bytes: reader.file_bytes(),
            log_bytes: 0,
            kinds: BTreeMap::new(),
            inputs: 0,
            marks: Vec::new(),
            last: Moment::default(),
            ending: None,
            console_bytes: None,
            cut_short: None,
        };
        while summary.ending.is_none() {
            match summary.add_next(&mut reader) {
                Ok(true) => {}
                Ok(false) => {
                    let offset = reader.offset();
                    summary.cut_short = Some(CutShort::Ends { offset });
                    break;
                }
                Err(ReadError::File(error)) => {
                    summary.cut_short = Some(error.into());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        // Behind the end there are the index, which nobody needs, and marks.
        let behind = reader.offset();
        if summary.ending.is_some() {
            marks::read_behind_end(&mut reader, &mut summary.marks);
            reader.seek(behind);
        }
        while let Ok(Some(place)) = reader.next_place() {
            if let Some(kind @ (Kind::Index | Kind::Mark)) = Kind::from_number(place.kind)
                && summary.ending.is_some()
            {
                summary.count(kind, place.bytes);
            }
        }
        Ok(summary)
    }

    fn count(&mut self, kind: Kind, bytes: u64) {
        let total = self.kinds.entry(kind).or_default();
        total.chunks += 1;
        total.bytes += bytes;
        match kind {
            Kind::Header
            | Kind::Start
            | Kind::Pages
            | Kind::External
            | Kind::Contents
            | Kind::Checkpoint
            | Kind::Parent
            | Kind::Image => {}
            Kind::Inputs | Kind::Progress | Kind::Digest | Kind::End | Kind::Mark | Kind::Index => {
                self.log_bytes += bytes
            }
        }
    }

    /// Adds the next chunk; whether there was one.
    fn add_next<R: Read + Seek>(&mut self, reader: &mut Reader<R>) -> Result<bool, ReadError> {
        let Some(place) = reader.next_place()? else { return Ok(false) };
        let Some(kind) = Kind::from_number(place.kind) else { return Ok(true) };
        self.count(kind, place.bytes);
        match kind {
            Kind::Header
            | Kind::Start
            | Kind::Pages
            | Kind::Contents
            | Kind::Checkpoint
            | Kind::Image => {
                return Ok(true);
            }
            Kind::Parent
            | Kind::Inputs
            | Kind::Progress
            | Kind::Digest
            | Kind::End
            | Kind::Mark
            | Kind::External
            | Kind::Index => {}
        }
        reader.go_to(place);
        let Some(located) = reader.next_chunk()? else { return Ok(false) };
        match located.chunk {
            Chunk::Inputs(inputs) => {
                self.inputs += inputs.len() as u64;
                self.last = inputs.last().map_or(self.last, |stamped| stamped.at);
            }
            Chunk::Progress(at) => self.last = at,
            Chunk::Digest(digest) => self.last = digest.at,
            Chunk::End(end) => {
                self.last = end.at;
                self.ending = Some(end.ending);
                self.console_bytes = Some(end.console_bytes);
            }
            Chunk::Mark(mark) => marks::put(&mut self.marks, mark),
            Chunk::External(external) => self.externals.push(external),
            Chunk::Parent(parent) => self.parent = Some(parent),
            Chunk::Header(_)
            | Chunk::Start(_)
            | Chunk::Pages(_)
            | Chunk::Index(_)
            | Chunk::Contents(_)
            | Chunk::Checkpoint(_)
            | Chunk::Image(_) => {}
        }
        Ok(true)
    }
}
