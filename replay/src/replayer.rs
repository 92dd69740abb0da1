//! The replayer: runs a machine with the log in place of the world, and checks every digest.

use crate::digest::{Digest, Hash128};
use crate::divergence::Divergence;
use crate::file::{
    Chunk, ChunkPlace, EndChunk, Ending, External, FileError, Header, Kind, Moment, Parent,
    ReadError, Reader, SEMANTICS, SEMANTICS_OLDEST, Stamped, from_bytes, to_bytes,
};
use crate::guest::Guest;
use crate::pages::{FilePage, PageLoader, PageStoreError};
use crate::record::{hash_output, slice};
use dejavm_machine::{Idle, Input, Machine, MachineState, Output, Stop};
use dejavm_units::{GuestNs, Pfn, Position};
use std::collections::VecDeque;
use std::fmt;
use std::io::{Read, Seek};
use xxhash_rust::xxh3::Xxh3;

/// Slices of a recorder between two calls of the observer.
const SLICES: u64 = 4;

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
    /// The machine was rebuilt from external files, and is another.
    #[error(
        "the machine rebuilt from the recording's external files differs from the recorded one"
    )]
    OtherStart,
    /// The host failed: a disk image that cannot be read.
    #[error("the replay cannot go on: {0}")]
    Host(String),
    /// The replay is not what was recorded.
    #[error(transparent)]
    Divergence(Box<Divergence>),
}

impl From<Divergence> for ReplayError {
    fn from(divergence: Divergence) -> ReplayError {
        ReplayError::Divergence(Box::new(divergence))
    }
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
    /// The machine at rest, to be looked at: after each slice of execution.
    fn look(&mut self, _machine: &Machine) {}
    /// How far the replay is: after each slice of execution. Return `false` to stop it here.
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

/// Why a recording has no ending that can be read.
#[derive(Debug, PartialEq, Eq)]
pub enum CutShort {
    /// The file ends before one was written: its recorder was killed, or its disk was full.
    Ends {
        /// Where, in bytes.
        offset: u64,
    },
    /// The file is damaged, and nothing behind the damage can be believed.
    Damaged(FileError),
}

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CutShort::Ends { offset } => {
                write!(f, "the file ends at offset {offset}, before the recording's end")
            }
            CutShort::Damaged(error) => error.fmt(f),
        }
    }
}

impl From<FileError> for CutShort {
    fn from(error: FileError) -> CutShort {
        match error {
            FileError::Truncated { offset: _, end } => CutShort::Ends { offset: end },
            error => CutShort::Damaged(error),
        }
    }
}

/// A finished replay.
#[derive(Debug)]
pub struct Replayed {
    /// Where it ended.
    pub at: Moment,
    /// The recorded ending, if the replay came so far.
    pub ending: Option<Ending>,
    /// Why the recording has no ending, if the replay came to where it breaks off.
    pub cut_short: Option<CutShort>,
    /// Digests that were compared, all equal.
    pub digests: u64,
    /// Inputs applied.
    pub inputs: u64,
    /// The last digest taken.
    pub last_digest: Option<Digest>,
    /// Hash and length of the console output.
    pub console: Hash128,
    /// Bytes of console output.
    pub console_bytes: u64,
}

/// Something that the log says happened.
pub(crate) enum Event {
    Input(Stamped),
    Progress(Moment),
    Digest(Box<Digest>),
    End(EndChunk),
}

impl Event {
    pub(crate) fn at(&self) -> Moment {
        match self {
            Event::Input(stamped) => stamped.at,
            Event::Progress(at) => *at,
            Event::Digest(digest) => digest.at,
            Event::End(end) => end.at,
        }
    }
}

/// A recording opened for replay: its beginning looked at, its pages and its log not read yet.
pub struct Replayer<R> {
    reader: Reader<R>,
    header: Header,
    externals: Vec<External>,
    parent: Option<Parent>,
    state: Vec<u8>,
    state_offset: u64,
    pages: Vec<ChunkPlace>,
    /// Once they were loaded: where the file holds which page.
    loaded: Vec<(Pfn, FilePage)>,
    /// Events that were read and not replayed: those of one chunk.
    queue: VecDeque<Event>,
    /// Set once the log cannot be read further.
    cut_short: Option<CutShort>,
}

/// What is known of a recording before its log is read.
pub(crate) struct IntoLog<R> {
    pub(crate) reader: Reader<R>,
    pub(crate) header: Header,
    pub(crate) externals: Vec<External>,
    pub(crate) parent: Option<Parent>,
    /// Where the file holds which page of the start, ascending; empty if another made the machine.
    pub(crate) loaded: Vec<(Pfn, FilePage)>,
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
        if !(SEMANTICS_OLDEST..=SEMANTICS).contains(&header.semantics) {
            return Err(ReplayError::Semantics {
                recorded: header.semantics,
                known: SEMANTICS,
                creator: header.creator,
            });
        }
        let offset = reader.offset();
        let state = match reader.next_chunk()? {
            Some(second) => match second.chunk {
                Chunk::Start(start) => start.state,
                _ => {
                    let reason = "the second chunk must be the start state";
                    return Err(FileError::OutOfPlace { offset, reason }.into());
                }
            },
            None => return Err(FileError::Truncated { offset, end: offset }.into()),
        };
        let mut replayer = Replayer {
            reader,
            header,
            externals: Vec::new(),
            parent: None,
            state,
            state_offset: offset,
            pages: Vec::new(),
            loaded: Vec::new(),
            queue: VecDeque::new(),
            cut_short: None,
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

    /// The file, which is read on.
    pub fn source(&self) -> &R {
        self.reader.source()
    }

    /// Whether the file holds the start state of RAM; if not, it follows from external files.
    pub fn is_whole(&self) -> bool {
        self.externals.iter().all(External::is_drive)
    }

    /// What it was branched from.
    pub fn parent(&self) -> Option<&Parent> {
        self.parent.as_ref()
    }

    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.reader.file_bytes()
    }

    /// The machine's state at position 0.
    pub fn start_state<S: serde::de::DeserializeOwned>(&self) -> Result<S, ReplayError> {
        from_bytes(&self.state)
            .map_err(|reason| FileError::Undecodable { offset: self.state_offset, reason }.into())
    }

    /// Finds the pages and external files, and stops before the log.
    fn read_beginning(&mut self) -> Result<(), ReplayError> {
        loop {
            let place = match self.reader.next_place() {
                Ok(Some(place)) => place,
                Ok(None) => return Ok(()),
                // The log's reader meets the same and reports it.
                Err(ReadError::File(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            match Kind::from_number(place.kind) {
                Some(Kind::Pages) => self.pages.push(place),
                Some(Kind::External) => {
                    self.reader.go_to(place);
                    if let Some(located) = self.reader.next_chunk()?
                        && let Chunk::External(external) = located.chunk
                    {
                        self.externals.push(external);
                    }
                }
                Some(Kind::Parent) => {
                    self.reader.go_to(place);
                    if let Some(located) = self.reader.next_chunk()?
                        && let Chunk::Parent(parent) = located.chunk
                    {
                        self.parent = Some(parent);
                    }
                }
                None => {}
                Some(_) => {
                    self.reader.go_to(place);
                    return Ok(());
                }
            }
        }
    }

    /// Writes the start state's pages into a machine's RAM. The machine is in the start state then.
    pub fn load_pages<G: Guest>(&mut self, guest: &mut G) -> Result<(), ReplayError> {
        let log = self.reader.offset();
        let mut loader = PageLoader::default();
        for &place in &self.pages {
            self.reader.go_to(place);
            if let Some(located) = self.reader.next_chunk()?
                && let Chunk::Pages(batch) = located.chunk
            {
                loader
                    .load(&batch, place.offset, guest.ram_mut())
                    .map_err(|source| ReplayError::Pages { offset: place.offset, source })?;
            }
        }
        self.loaded = loader.into_loaded();
        self.reader.seek(log);
        Ok(())
    }

    /// The recorded machine in its start state, from the file alone.
    pub fn rebuild(&mut self) -> Result<Machine, ReplayError> {
        let state: MachineState = self.start_state()?;
        let mut machine = Machine::from_state(&self.header.config, &state)
            .map_err(|error| ReplayError::Machine(error.to_string()))?;
        self.load_pages(&mut machine)?;
        Ok(machine)
    }

    /// Checks a machine that was rebuilt from the external files against the recorded start state. Its
    /// RAM is not compared: it follows from files whose hashes are known.
    pub fn check_start<G: Guest>(&self, guest: &G) -> Result<(), ReplayError> {
        if to_bytes(&guest.save()) == self.state { Ok(()) } else { Err(ReplayError::OtherStart) }
    }

    /// For those who read the log by themselves: the reader stands before it.
    pub(crate) fn into_log(self) -> IntoLog<R> {
        let Replayer { reader, header, externals, parent, loaded, .. } = self;
        IntoLog { reader, header, externals, parent, loaded }
    }

    fn enqueue(&mut self, chunk: Chunk, offset: u64) -> Result<(), FileError> {
        match chunk {
            Chunk::Inputs(inputs) => self.queue.extend(inputs.into_iter().map(Event::Input)),
            Chunk::Progress(at) => self.queue.push_back(Event::Progress(at)),
            Chunk::Digest(digest) => self.queue.push_back(Event::Digest(digest)),
            Chunk::End(end) => self.queue.push_back(Event::End(end)),
            Chunk::Mark(_) | Chunk::Contents(_) | Chunk::Checkpoint(_) | Chunk::Image(_) => {}
            Chunk::Header(_)
            | Chunk::Start(_)
            | Chunk::Pages(_)
            | Chunk::External(_)
            | Chunk::Parent(_) => {
                let reason = "it belongs to the beginning";
                return Err(FileError::OutOfPlace { offset, reason });
            }
            Chunk::Index(_) => {
                let reason = "an index follows only the end";
                return Err(FileError::OutOfPlace { offset, reason });
            }
        }
        Ok(())
    }

    /// The next event of the log; `None` where it breaks off.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, ReplayError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            if self.cut_short.is_some() {
                return Ok(None);
            }
            let offset = self.reader.offset();
            let read = match self.reader.next_but_checkpoints() {
                Ok(Some(located)) => self.enqueue(located.chunk, located.offset),
                Ok(None) => Err(FileError::Truncated { offset, end: offset }),
                Err(ReadError::File(error)) => Err(error),
                Err(error) => return Err(error.into()),
            };
            self.cut_short = read.err().map(CutShort::from);
        }
    }

    /// Replays on a machine that is in the start state.
    pub fn run<G: Guest>(
        mut self,
        guest: &mut G,
        options: &ReplayOptions,
        observer: &mut dyn Observer,
    ) -> Result<Replayed, ReplayError> {
        guest.take_dirty();
        let mut run = Run {
            guest,
            observer,
            console: Xxh3::new(),
            console_bytes: 0,
            since: Moment::default(),
            slice: SLICES * slice(&self.header),
        };
        let (mut digests, mut inputs) = (0, 0);
        let (mut ending, mut last_digest) = (None, None);
        while let Some(event) = self.next_event()? {
            let at = event.at();
            if let Some(until) = options.until.filter(|&until| until < at.position) {
                let reached = run.advance(until, None);
                if reached == Reached::Target || reached == Reached::Stopped {
                    break;
                }
                return Err(run.diverged("the position", until.to_string(), run.now().to_string()));
            }
            match run.advance(at.position, Some(at.guest_ns)) {
                Reached::Stopped => break,
                Reached::Target if run.now() == at => {}
                Reached::Target | Reached::Stuck => {
                    if let Some(failure) = run.guest.engine_failure() {
                        return Err(ReplayError::Host(failure.to_owned()));
                    }
                    let (expected, got) = (at.to_string(), run.now().to_string());
                    return Err(run.diverged("the moment of the next event", expected, got));
                }
            }
            match event {
                Event::Input(stamped) => {
                    run.guest.apply(&stamped.input);
                    if let (Input::Landmark { .. }, Some(failure)) =
                        (&stamped.input, run.guest.engine_failure())
                    {
                        let got = failure.to_owned();
                        return Err(run.diverged(
                            "the recorded instant",
                            "it is found".into(),
                            got,
                        ));
                    }
                    inputs += 1;
                }
                Event::Progress(_) => {}
                Event::Digest(expected) => {
                    let written = run.guest.take_dirty();
                    let got = expected.again(run.guest, &written);
                    if !options.unverified {
                        let ram = run.guest.ram();
                        if let Some(divergence) =
                            Divergence::between::<G>(&expected, &got, run.since, ram)
                        {
                            return Err(divergence.into());
                        }
                        digests += 1;
                    }
                    run.since = at;
                    last_digest = Some(got);
                }
                Event::End(end) => {
                    let (console, bytes) = run.console();
                    let differs = (console, bytes) != (end.console, end.console_bytes);
                    if differs && !options.unverified {
                        let show = |hash: Hash128, n: u64| format!("{hash} over {n} bytes");
                        let expected = show(end.console, end.console_bytes);
                        return Err(run.diverged(
                            "the console output",
                            expected,
                            show(console, bytes),
                        ));
                    }
                    ending = Some(end.ending);
                    break;
                }
            }
        }
        let (console, console_bytes) = run.console();
        let (at, cut_short) = (run.now(), self.cut_short);
        Ok(Replayed { at, ending, cut_short, digests, inputs, last_digest, console, console_bytes })
    }
}

/// A replay under way.
struct Run<'a, G> {
    guest: &'a mut G,
    observer: &'a mut dyn Observer,
    console: Xxh3,
    console_bytes: u64,
    /// When everything was last found equal.
    since: Moment,
    /// Positions between two calls of the observer.
    slice: u64,
}

/// Where [`Run::advance`] came to stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// At the position asked for.
    Target,
    /// Elsewhere: the machine has ended, waits for an input, or is beyond it.
    Stuck,
    /// Where the observer wanted it.
    Stopped,
}

impl<G: Guest> Run<'_, G> {
    fn now(&self) -> Moment {
        Moment { position: self.guest.position(), guest_ns: self.guest.guest_ns() }
    }

    fn console(&self) -> (Hash128, u64) {
        (Hash128(self.console.digest128().to_le_bytes()), self.console_bytes)
    }

    fn diverged(&self, what: &str, expected: String, got: String) -> ReplayError {
        Divergence::at(self.guest.position(), self.since, what, expected, got).into()
    }

    /// Runs to a position and there, if the machine idles and `time` is given, waits until then. The
    /// machine is asked to run even where it stands there already: it takes the interrupts that are
    /// due, and an end shows itself only then.
    fn advance(&mut self, target: Position, time: Option<GuestNs>) -> Reached {
        let mut idled = None;
        loop {
            let position = self.guest.position();
            if position > target {
                return Reached::Stuck;
            }
            let slice = target.min(Position(position.0.saturating_add(self.slice)));
            let stop = self.guest.run(slice);
            let output = self.guest.take_output();
            if !output.is_empty() {
                self.console_bytes += hash_output(&mut self.console, &output);
                self.observer.output(&output);
            }
            let now = self.now();
            let arrived = now.position == target;
            let waited = time.is_none_or(|time| now.guest_ns >= time);
            match stop {
                Stop::Limit | Stop::End(_) if arrived => return Reached::Target,
                Stop::Idle { .. } if arrived && waited => return Reached::Target,
                Stop::End(_) => return Reached::Stuck,
                Stop::Limit => {}
                Stop::Idle { wake } => {
                    let limit = if arrived { time } else { wake };
                    let Some(limit) = limit else { return Reached::Stuck };
                    // A machine in an impossible state may idle and not wait: only hostile files.
                    if idled.replace(now) == Some(now) {
                        return Reached::Stuck;
                    }
                    // Whether it can go on now shows the next run.
                    let (Idle::Runnable | Idle::Waiting) = self.guest.idle_until(limit);
                }
                Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                    unreachable!("nobody sets stops on a machine that is verified")
                }
            }
            if let Some(machine) = self.guest.machine() {
                self.observer.look(machine);
            }
            if !self.observer.progress(now) {
                return Reached::Stopped;
            }
        }
    }
}
