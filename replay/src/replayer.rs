//! The replayer: runs a machine with the log in place of the world, and checks every digest.

use crate::digest::{Digest, Hash128};
use crate::divergence::Divergence;
use crate::file::{
    Chunk, EndChunk, Ending, External, FileError, Header, Moment, ReadError, Reader, SEMANTICS,
    Stamped, from_bytes,
};
use crate::guest::Guest;
use crate::pages::{PageLoader, PageStoreError};
use crate::record::hash_output;
use dejavm_machine::{Idle, Output, Stop};
use dejavm_units::Position;
use std::collections::VecDeque;
use std::io::{Read, Seek};
use xxhash_rust::xxh3::Xxh3;

/// Instructions between two calls of the observer.
const SLICE: u64 = 16 << 20;

/// Why a replay failed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The start state's pages.
    #[error("the chunk at offset {offset} holds impossible pages: {source}")]
    Pages {
        /// Where.
        offset: u64,
        /// What is wrong.
        source: PageStoreError,
    },
    /// Another version of the machine.
    #[error(
        "this recording was made on machine behaviour {recorded}; this dejavm has {known}: replay \
         it with the dejavm that recorded it ({creator})"
    )]
    Semantics {
        /// The recording's.
        recorded: u32,
        /// Ours.
        known: u32,
        /// Who made the recording.
        creator: String,
    },
    /// The machine could not be rebuilt.
    #[error("the machine in the recording cannot be rebuilt: {0}")]
    Machine(String),
    /// The replay is not what was recorded.
    #[error(transparent)]
    Divergence(Box<Divergence>),
}

impl From<FileError> for ReplayError {
    fn from(error: FileError) -> ReplayError {
        ReplayError::Read(error.into())
    }
}

/// Told how a replay goes.
pub trait Observer {
    /// The guest emitted something.
    fn output(&mut self, _output: &[Output]) {}
    /// How far the replay is. Return `false` to stop it here.
    fn progress(&mut self, _at: Moment) -> bool {
        true
    }
}

/// Choices of a replay.
#[derive(Clone, Debug, Default)]
pub struct ReplayOptions {
    /// Stop at this position.
    pub until: Option<Position>,
    /// Do not compare digests.
    pub unverified: bool,
}

/// A finished replay.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Where it ended.
    pub at: Moment,
    /// The recorded ending, if the replay came so far.
    pub ending: Option<Ending>,
    /// Why the recording has no ending, if it was cut short: what was found there instead.
    pub cut_short: Option<String>,
    /// Digests that were compared, all equal.
    pub digests: u64,
    /// Inputs applied.
    pub inputs: u64,
    /// The last digest compared.
    pub last_digest: Option<Digest>,
    /// Hash and length of the console output.
    pub console: Hash128,
    /// Bytes of console output.
    pub console_bytes: u64,
}

/// Something that the log says happened.
enum Event {
    Input(Stamped),
    Progress(Moment),
    Digest(Box<Digest>),
    End(EndChunk),
}

impl Event {
    fn at(&self) -> Moment {
        match self {
            Event::Input(stamped) => stamped.at,
            Event::Progress(at) => *at,
            Event::Digest(digest) => digest.at,
            Event::End(end) => end.at,
        }
    }
}

/// A recording opened for replay: its beginning read, its log not yet.
pub struct Replayer<R> {
    reader: Reader<R>,
    header: Header,
    externals: Vec<External>,
    state: Vec<u8>,
    state_offset: u64,
    /// The first chunk that is not part of the beginning, if it was read already.
    queue: VecDeque<Event>,
    /// Set once the log cannot be read further.
    cut_short: Option<String>,
    finished: bool,
    pages: Vec<(u64, crate::pages::PageBatch)>,
}

impl<R: Read + Seek> Replayer<R> {
    /// Reads the beginning of a recording.
    pub fn open(source: R) -> Result<Replayer<R>, ReplayError> {
        let mut reader = Reader::new(source)?;
        let offset = reader.offset();
        let header = match reader.next_chunk()? {
            Some(first) => match first.chunk {
                Chunk::Header(header) => *header,
                _ => {
                    let reason = "the first chunk must be the header";
                    return Err(FileError::OutOfPlace { offset, reason }.into());
                }
            },
            None => return Err(FileError::Truncated { offset, end: offset }.into()),
        };
        if header.semantics != SEMANTICS {
            return Err(ReplayError::Semantics {
                recorded: header.semantics,
                known: SEMANTICS,
                creator: header.creator,
            });
        }
        let mut replayer = Replayer {
            reader,
            header,
            externals: Vec::new(),
            state: Vec::new(),
            state_offset: 0,
            queue: VecDeque::new(),
            cut_short: None,
            finished: false,
            pages: Vec::new(),
        };
        replayer.read_beginning()?;
        Ok(replayer)
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Files that the recording needs besides itself.
    pub fn externals(&self) -> &[External] {
        &self.externals
    }

    /// The machine's state at position 0.
    pub fn start_state<S: serde::de::DeserializeOwned>(&self) -> Result<S, ReplayError> {
        from_bytes(&self.state)
            .map_err(|reason| FileError::Undecodable { offset: self.state_offset, reason }.into())
    }

    /// Whether the file holds the start state's pages.
    pub fn has_pages(&self) -> bool {
        !self.pages.is_empty()
    }

    fn read_beginning(&mut self) -> Result<(), ReplayError> {
        loop {
            let before = self.reader.offset();
            let located = match self.reader.next_chunk() {
                Ok(Some(located)) => located,
                Ok(None) => break,
                // A log that is damaged at once still leaves a beginning.
                Err(ReadError::File(error)) if !self.state.is_empty() => {
                    self.cut_short = Some(error.to_string());
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            match located.chunk {
                Chunk::Start(start) => {
                    self.state = start.state;
                    self.state_offset = before;
                }
                Chunk::Pages(batch) => self.pages.push((before, batch)),
                Chunk::External(external) => self.externals.push(external),
                other => {
                    self.enqueue(other, before)?;
                    break;
                }
            }
        }
        if self.state.is_empty() {
            let offset = self.reader.offset();
            let reason = "a recording's start state comes before its log";
            return Err(FileError::OutOfPlace { offset, reason }.into());
        }
        Ok(())
    }

    /// Writes the start state's pages into a machine's RAM. Once.
    pub fn load_pages<G: Guest>(&mut self, guest: &mut G) -> Result<(), ReplayError> {
        let mut loader = PageLoader::default();
        for (offset, batch) in std::mem::take(&mut self.pages) {
            loader
                .load(&batch, guest.ram_mut())
                .map_err(|source| ReplayError::Pages { offset, source })?;
        }
        Ok(())
    }

    fn enqueue(&mut self, chunk: Chunk, offset: u64) -> Result<(), ReplayError> {
        match chunk {
            Chunk::Inputs(inputs) => self.queue.extend(inputs.into_iter().map(Event::Input)),
            Chunk::Progress(at) => self.queue.push_back(Event::Progress(at)),
            Chunk::Digest(digest) => self.queue.push_back(Event::Digest(digest)),
            Chunk::End(end) => self.queue.push_back(Event::End(end)),
            Chunk::Mark(_) | Chunk::Index(_) => {}
            Chunk::Header(_) | Chunk::Start(_) | Chunk::Pages(_) | Chunk::External(_) => {
                let reason = "it belongs to the beginning";
                return Err(FileError::OutOfPlace { offset, reason }.into());
            }
        }
        Ok(())
    }

    /// The next event of the log; `None` where it ends.
    fn next_event(&mut self) -> Result<Option<Event>, ReplayError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            if self.finished || self.cut_short.is_some() {
                return Ok(None);
            }
            let offset = self.reader.offset();
            match self.reader.next_chunk() {
                Ok(Some(located)) => self.enqueue(located.chunk, located.offset)?,
                Ok(None) => {
                    let reason = format!("the file ends at offset {offset} without an ending");
                    self.cut_short = Some(reason);
                }
                Err(ReadError::File(error)) => self.cut_short = Some(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Replays on a machine that is in the start state.
    pub fn run<G: Guest>(
        mut self,
        guest: &mut G,
        options: &ReplayOptions,
        observer: &mut dyn Observer,
    ) -> Result<Replayed, ReplayError> {
        guest.ram_mut().take_dirty();
        let mut replayed = Replayed {
            at: Moment::default(),
            ending: None,
            cut_short: None,
            digests: 0,
            inputs: 0,
            last_digest: None,
            console: Hash128([0; 16]),
            console_bytes: 0,
        };
        let mut console = Xxh3::new();
        let mut since = Moment::default();
        while let Some(event) = self.next_event()? {
            let at = event.at();
            let limit = options.until.filter(|&until| until < at.position);
            let target = limit.map_or(at, |position| Moment { position, ..at });
            let mut emit = |output: &[Output]| {
                replayed.console_bytes += hash_output(&mut console, output);
                observer.output(output);
            };
            let reached = advance(guest, target, limit.is_some(), &mut emit)?;
            if limit.is_some() || !observer.progress(reached) {
                break;
            }
            let diverged = |what: &str, expected: String, got: String| {
                ReplayError::Divergence(Box::new(Divergence {
                    position: reached.position.0,
                    since: since.position.0,
                    what: what.into(),
                    expected,
                    got,
                }))
            };
            if reached != at {
                let show = |at: Moment| format!("{} ({})", at.position, at.guest_ns);
                return Err(diverged("the moment of the next event", show(at), show(reached)));
            }
            match event {
                Event::Input(stamped) => {
                    guest.apply(&stamped.input);
                    replayed.inputs += 1;
                }
                Event::Progress(_) => {}
                Event::Digest(expected) => {
                    let got = Digest::take(guest);
                    let ram = guest.ram().layout().total_bytes();
                    if !options.unverified {
                        if let Some(divergence) =
                            Divergence::between::<G>(&expected, &got, since, ram)
                        {
                            return Err(ReplayError::Divergence(Box::new(divergence)));
                        }
                        replayed.digests += 1;
                    }
                    since = at;
                    replayed.last_digest = Some(got);
                }
                Event::End(end) => {
                    let hash = Hash128(console.digest128().to_le_bytes());
                    let differs =
                        hash != end.console || replayed.console_bytes != end.console_bytes;
                    if differs && !options.unverified {
                        let show = |hash: Hash128, n: u64| format!("{hash} over {n} bytes");
                        let expected = show(end.console, end.console_bytes);
                        let got = show(hash, replayed.console_bytes);
                        return Err(diverged("the console output", expected, got));
                    }
                    replayed.ending = Some(end.ending);
                    self.finished = true;
                    break;
                }
            }
        }
        replayed.at = Moment { position: guest.position(), guest_ns: guest.guest_ns() };
        replayed.cut_short = self.cut_short;
        replayed.console = Hash128(console.digest128().to_le_bytes());
        Ok(replayed)
    }
}

/// Runs a machine to a moment. Returns where it came to stand: earlier only if it ended or cannot go
/// on, later never.
fn advance<G: Guest>(
    guest: &mut G,
    target: Moment,
    position_only: bool,
    emit: &mut dyn FnMut(&[Output]),
) -> Result<Moment, ReplayError> {
    loop {
        let position = guest.position();
        let now = Moment { position, guest_ns: guest.guest_ns() };
        if position > target.position {
            return Ok(now);
        }
        let slice = Position(target.position.0.min(position.0 + SLICE));
        // An end shows itself only when the machine is asked to go on.
        let stop = guest.run(slice);
        let output = guest.take_output();
        if !output.is_empty() {
            emit(&output);
        }
        let now = Moment { position: guest.position(), guest_ns: guest.guest_ns() };
        let arrived = now.position == target.position;
        match stop {
            Stop::Limit if arrived => return Ok(now),
            Stop::Limit => {}
            Stop::End(_) => return Ok(now),
            Stop::Idle { .. } if arrived && (position_only || now.guest_ns >= target.guest_ns) => {
                return Ok(now);
            }
            Stop::Idle { wake } => {
                let limit = if arrived { Some(target.guest_ns) } else { wake };
                let Some(limit) = limit else { return Ok(now) };
                // Runnable or not, the loop runs the machine and looks again.
                let (Idle::Runnable | Idle::Waiting) = guest.idle_until(limit);
            }
        }
    }
}
