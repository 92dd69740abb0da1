//! The recorder: runs a live machine and writes down what enters it.

use crate::digest::Digest;
use crate::file::{
    Chunk, EndChunk, Ending, External, Header, Mark, Moment, Parent, Stamped, Start, Writer,
    to_bytes,
};
use crate::guest::Guest;
use crate::packing::Packer;
use crate::pages;
use crate::record_checkpoints::{CheckpointPolicy, Checkpointer};
use dejavm_machine::{End, Idle, Input, Machine, MachineConfig, Output, Passed, Stop, TimeBase};
use dejavm_units::{GuestNs, Position};
use std::io::{self, Write};
use xxhash_rust::xxh3::Xxh3;

/// Positions between two looks at the world: some milliseconds.
pub(crate) fn slice(header: &Header) -> u64 {
    if header.positions_are_exits() { 10_000 } else { 4 << 20 }
}

/// Inputs in one chunk at most, and bytes in them.
const INPUTS_MAX: usize = 4096;
pub const INPUT_BYTES_MAX: usize = 1 << 20;

/// What the world has for the machine.
#[derive(Debug, Default)]
pub struct Polled {
    /// Inputs that arrived, in order. They enter here and now. Each holds at most 1 MiB.
    pub inputs: Vec<Input>,
    /// Write everything down: ask for this at least once a second.
    pub flush: bool,
    /// End the recording here.
    pub stop: bool,
}

/// How the world let an idle machine wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleAnswer {
    /// Guest time may go on to this moment, at most to the wake-up that was offered.
    Until(GuestNs),
    /// Look at the world again first; guest time stays.
    PollAgain,
}

/// How far a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the machine is.
    pub at: Moment,
    /// Bytes of the recording so far.
    pub file_bytes: u64,
    /// Of those, bytes after the start state, checkpoints apart: the log.
    pub log_bytes: u64,
}

/// The host side of a recording: where inputs come from, how idle time passes, where output goes.
pub trait World {
    /// The machine at rest, to be looked at and never changed. Shown before each `poll`.
    fn look(&mut self, _machine: &Machine) {}
    /// Frames of so many bytes together have room in the guest's network cards, those shorter than 64 bytes counted as such: more
    /// would be lost. Told before each `poll` and `idle`.
    fn room(&mut self, _bytes: usize) {}
    /// What has arrived. Never blocks. Called every few milliseconds of execution.
    fn poll(&mut self) -> Polled;
    /// The machine waits for an input, or until `wake`. May block until either is due. An answer
    /// earlier than `wake` lets time pass only so far: inputs polled next enter at that moment.
    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer;
    /// The guest emitted something.
    fn output(&mut self, output: &[Output]);
    /// Told after each slice.
    fn progress(&mut self, progress: Progress);
    /// The machine goes on after somebody held it: that time has not passed for it.
    fn resumed(&mut self) {}
}

/// Choices of a recording.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    /// The file's first chunk.
    pub header: Header,
    /// Files that the recording needs besides.
    pub externals: Vec<External>,
    /// Write the start state of RAM into the file (if not, `externals` rebuild it).
    pub embed_pages: bool,
    /// Stop at this position.
    pub until: Option<Position>,
    /// Checkpoints along the way.
    pub checkpoints: CheckpointPolicy,
    /// The recording that the machine was branched from.
    pub parent: Option<Parent>,
}

/// A finished recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Why it ended.
    pub ending: Ending,
    /// Where.
    pub at: Moment,
    /// The last digest.
    pub digest: Digest,
    /// Hash and length of the console output.
    pub console: crate::digest::Hash128,
    /// Bytes of console output.
    pub console_bytes: u64,
    /// Bytes of the file, and of the log in it.
    pub file_bytes: u64,
    /// Bytes after the start state, checkpoints apart.
    pub log_bytes: u64,
}

/// Why a recording broke off. What was written before stays valid.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The sink refused.
    #[error("the recording could not be written at offset {offset}: {source}")]
    Write {
        /// Where the file ends now, at most.
        offset: u64,
        /// The host's answer.
        source: io::Error,
    },
    /// The machine cannot go on: its engine, or a disk image that cannot be read. The recording ends before.
    #[error("the machine cannot go on: {0}")]
    Machine(String),
    /// The pages of a checkpoint could not be packed: the packer's reason.
    #[error("a checkpoint's pages could not be packed for the recording: {0}")]
    Packing(#[source] io::Error),
}

/// What [`Recorder::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// A slice has run, or some idle time has passed: go on.
    Running,
    /// The position asked for is reached. No idle time at that position has passed since.
    Limit,
    /// A breakpoint or a watchpoint of the machine's: [`Stop::Breakpoint`] or [`Stop::Watchpoint`].
    Stopped(Stop),
    /// The machine has ended, or the world wants the recording to end: [`Recorder::finish`] it.
    Ended(Ending),
}

/// A live machine, and the recording of it under way. Whatever its caller does between two calls of
/// [`Recorder::advance`], and however long, the machine does not notice: only inputs change it.
///
/// Dropped without [`Recorder::finish`], it leaves a recording that is cut short.
pub struct Recorder<G, S> {
    guest: G,
    writer: Writer<S>,
    /// Positions between two looks at the world.
    slice: u64,
    /// A slice without an exit takes some time, where guest time passes by exits and positions are instructions: a guest
    /// that waits for time in a loop would wait for ever.
    passes_time: bool,
    /// Instructions since time passed, if so.
    still: u64,
    /// Positions between digests, and the position of the next one; `u64::MAX`: none.
    interval: u64,
    next_digest: u64,
    /// The recording ends at this position; `u64::MAX`: not by itself.
    until: u64,
    /// File length when the log began.
    log_start: u64,
    pending: Vec<Stamped>,
    /// Bytes in `pending`.
    pending_bytes: usize,
    console: Xxh3,
    console_bytes: u64,
    /// What the last progress chunk said.
    flushed: Moment,
    /// The last run did not end at this position as runs to it do, but perhaps after exceptions there.
    beyond: Option<Position>,
    /// A stop that was met when the machine came to rest, and that nobody knows of yet.
    unreported: Option<Stop>,
    checkpointer: Checkpointer,
}

/// Records a machine that has not run yet, until it ends or the world says stop.
pub fn record<G: Guest, W: World, S: Write>(
    guest: &mut G,
    world: &mut W,
    sink: S,
    options: &RecordOptions,
) -> Result<Recorded, RecordError> {
    let mut recorder = Recorder::new(guest, sink, options)?;
    loop {
        match recorder.advance(world, None)? {
            Advance::Running | Advance::Limit | Advance::Stopped(_) => {}
            Advance::Ended(ending) => return recorder.finish(world, ending),
        }
    }
}

impl<G: Guest, S: Write> Recorder<G, S> {
    /// Begins the recording of a machine that has not run yet: writes its start state.
    pub fn new(guest: G, sink: S, options: &RecordOptions) -> Result<Recorder<G, S>, RecordError> {
        let writer =
            Writer::new(sink).map_err(|source| RecordError::Write { offset: 0, source })?;
        let interval = options.header.digest_interval;
        let start = guest.position();
        let mut recorder = Recorder {
            guest,
            writer,
            slice: slice(&options.header),
            passes_time: options.header.config.time_base == TimeBase::Exits
                && !options.header.positions_are_exits(),
            still: 0,
            interval,
            next_digest: if interval == 0 { u64::MAX } else { start.0.saturating_add(interval) },
            until: options.until.map_or(u64::MAX, |position| position.0),
            log_start: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            console: Xxh3::new(),
            console_bytes: 0,
            flushed: Moment::default(),
            beyond: None,
            unreported: None,
            checkpointer: Checkpointer::new(CheckpointPolicy::NONE, start, 0),
        };
        recorder.write_start(options)?;
        Ok(recorder)
    }

    /// Has the pages of checkpoints packed by another than this thread. To be called before the machine
    /// runs.
    #[must_use]
    pub fn packed_by(mut self, packer: Box<dyn Packer>) -> Recorder<G, S> {
        self.checkpointer.set_packer(packer);
        self
    }

    /// Lets no time pass but what [`Recorder::enter`] brings.
    pub(crate) fn without_passing_time(mut self) -> Recorder<G, S> {
        self.passes_time = false;
        self
    }

    /// The machine.
    pub fn guest(&self) -> &G {
        &self.guest
    }

    /// The machine, for what no guest can see: tuning and debugger stops. A change of its state would
    /// make a recording that does not replay; such changes [`enter`](Recorder::enter).
    pub fn guest_mut(&mut self) -> &mut G {
        &mut self.guest
    }

    /// Where the machine is.
    pub fn now(&self) -> Moment {
        Moment { position: self.guest.position(), guest_ns: self.guest.guest_ns() }
    }

    /// How far the recording is.
    pub fn progress(&self) -> Progress {
        let file_bytes = self.writer.bytes();
        let log_bytes = file_bytes - self.log_start - self.checkpointer.spent();
        Progress { at: self.now(), file_bytes, log_bytes }
    }

    fn append(&mut self, chunk: &Chunk) -> Result<(), RecordError> {
        let offset = self.writer.bytes();
        self.writer.append(chunk).map_err(|source| RecordError::Write { offset, source })
    }

    fn write_start(&mut self, options: &RecordOptions) -> Result<(), RecordError> {
        self.append(&Chunk::Header(Box::new(options.header.clone())))?;
        let state = to_bytes(&self.guest.save());
        let start_bytes = self.guest.ram().layout().total_bytes() + state.len() as u64;
        self.append(&Chunk::Start(Start { state }))?;
        if let Some(parent) = &options.parent {
            self.append(&Chunk::Parent(parent.clone()))?;
        }
        for external in &options.externals {
            self.append(&Chunk::External(external.clone()))?;
        }
        if options.embed_pages {
            let writer = &mut self.writer;
            pages::batches(self.guest.ram(), |batch| writer.append(&Chunk::Pages(batch)))
                .map_err(|source| RecordError::Write { offset: self.writer.bytes(), source })?;
        }
        // The first epoch begins with the first instruction.
        self.guest.ram_mut().take_dirty();
        self.log_start = self.writer.bytes();
        self.checkpointer =
            Checkpointer::new(options.checkpoints, self.guest.position(), start_bytes);
        Ok(())
    }

    /// Asks the world, then runs one slice of some milliseconds, to `limit` at most, or lets the
    /// world pass idle time. Where slices are cut leaves no trace: digests are taken where they would
    /// have been, and inputs enter a machine at rest.
    pub fn advance<W: World>(
        &mut self,
        world: &mut W,
        limit: Option<Position>,
    ) -> Result<Advance, RecordError> {
        let limit = limit.unwrap_or(Position(u64::MAX));
        self.advance_by(world, limit, |guest, target| guest.run(target))
    }

    /// As [`Recorder::advance`], until one instruction has completed: [`Advance::Limit`]. Where positions are instructions, that
    /// is one position on.
    pub fn step<W: World>(&mut self, world: &mut W) -> Result<Advance, RecordError> {
        let mut completed = false;
        let advance = self.advance_by(world, Position(u64::MAX), |guest, _| {
            let stop = guest.step();
            completed = stop == Stop::Limit;
            stop
        })?;
        Ok(if completed && advance == Advance::Running { Advance::Limit } else { advance })
    }

    fn advance_by<W: World>(
        &mut self,
        world: &mut W,
        Position(limit): Position,
        run: impl FnOnce(&mut G, Position) -> Stop,
    ) -> Result<Advance, RecordError> {
        if let Some(machine) = self.guest.machine() {
            world.look(machine);
        }
        world.room(self.guest.frame_room());
        let polled = world.poll();
        for input in polled.inputs {
            self.enter(input)?;
        }
        if polled.flush {
            self.flush()?;
        }
        let Position(start) = self.guest.position();
        if polled.stop || start >= self.until {
            return Ok(Advance::Ended(Ending::Stopped));
        }
        if let Some(stop) = self.unreported.take() {
            return Ok(Advance::Stopped(stop));
        }
        let limit = limit.max(start);
        let target =
            start.saturating_add(self.slice).min(self.next_digest).min(self.until).min(limit);
        let target = target.min(self.checkpointer.due().max(start.saturating_add(1)));
        let before = self.guest.guest_ns();
        let stop = run(&mut self.guest, Position(target));
        self.note_landmarks()?;
        let Position(position) = self.guest.position();
        self.take_output(world);
        self.checkpoint(start, stop)?;
        match stop {
            Stop::Limit => {
                let stands = self.passes_time && self.guest.guest_ns() == before;
                self.still = if stands { self.still + (position - start) } else { 0 };
                if self.still >= self.slice {
                    self.still = 0;
                    let us = self.slice / u64::from(MachineConfig::INSTRUCTIONS_PER_US_DEFAULT);
                    self.enter(Input::Time { us: us as u32 })?;
                }
            }
            // The digest that may be due here follows the idle time: it has not passed yet.
            Stop::Idle { .. } if position >= limit => return Ok(Advance::Limit),
            Stop::Idle { wake } => self.idle(world, wake),
            Stop::End(end) => {
                // What the host failed to do would not fail again in a replay.
                if end == End::EngineFailed
                    && let Some(failure) = self.guest.engine_failure()
                {
                    let failure = failure.to_owned();
                    self.flush()?;
                    return Err(RecordError::Machine(failure));
                }
                self.beyond = Some(Position(position));
                return Ok(Advance::Ended(Ending::Guest(end)));
            }
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                self.beyond = Some(Position(position));
                world.progress(self.progress());
                return Ok(Advance::Stopped(stop));
            }
        }
        if position >= self.next_digest {
            self.write_digest()?;
            self.next_digest = position.saturating_add(self.interval);
        }
        world.progress(self.progress());
        Ok(match self.unreported.take() {
            Some(stop) => Advance::Stopped(stop),
            None if position >= limit => Advance::Limit,
            None => Advance::Running,
        })
    }

    /// Lets an input enter here and now. The machine comes to rest first, as it will in replay.
    pub fn enter(&mut self, input: Input) -> Result<(), RecordError> {
        let bytes = input.bytes();
        assert!(bytes <= INPUT_BYTES_MAX, "the world cuts what arrives into pieces");
        self.log_deliveries()?;
        self.log_instant()?;
        self.settle();
        // Time may pass by it.
        let at = self.now();
        self.guest.apply(&input);
        self.log_at(at, input)
    }

    /// Where the machine came by a landmark, a replay is told of it before it goes on there.
    fn note_landmarks(&mut self) -> Result<(), RecordError> {
        for Passed { position, guest_ns, input } in self.guest.take_landmarks() {
            self.log_at(Moment { position, guest_ns }, input)?;
        }
        Ok(())
    }

    /// Where a debugger stopped the machine between two exits, a replay does not come by itself: it is told how to.
    fn log_instant(&mut self) -> Result<(), RecordError> {
        match self.guest.take_instant() {
            Some(Passed { position, guest_ns, input }) => {
                self.log_at(Moment { position, guest_ns }, input)
            }
            None => Ok(()),
        }
    }

    fn log(&mut self, input: Input) -> Result<(), RecordError> {
        self.log_at(self.now(), input)
    }

    fn log_at(&mut self, at: Moment, input: Input) -> Result<(), RecordError> {
        let bytes = input.bytes();
        if self.pending.len() >= INPUTS_MAX || self.pending_bytes + bytes > INPUT_BYTES_MAX {
            self.write_inputs()?;
        }
        self.pending.push(Stamped { at, input });
        self.pending_bytes += bytes;
        Ok(())
    }

    /// What is logged next happens here; says so if a replay's run to this position ends before.
    fn log_deliveries(&mut self) -> Result<(), RecordError> {
        let beyond = self.beyond.take() == Some(self.guest.position());
        match self.guest.deliveries() {
            count @ 1.. if beyond => self.log(Input::Deliveries { count }),
            _ => Ok(()),
        }
    }

    /// Brings the machine to rest at its position: it takes the interrupts that it takes there, and
    /// shows whether it has ended. Without this the state at a position would depend on whether somebody
    /// asked for it before the machine went on. The replayer's runs to an event do the same.
    fn settle(&mut self) {
        match self.guest.run(self.guest.position()) {
            Stop::Limit | Stop::Idle { .. } | Stop::End(_) => {}
            stop @ (Stop::Breakpoint { .. } | Stop::Watchpoint { .. }) => {
                self.unreported = Some(stop);
            }
        }
    }

    fn idle<W: World>(&mut self, world: &mut W, wake: Option<GuestNs>) {
        let now = self.guest.guest_ns();
        world.room(self.guest.frame_room());
        let IdleAnswer::Until(until) = world.idle(now, wake) else { return };
        let until = wake.map_or(until, |wake| until.min(wake));
        while self.guest.guest_ns() < until {
            if self.guest.idle_until(until) == Idle::Runnable {
                break;
            }
        }
    }

    /// Takes a checkpoint if one is due. A machine that went on and came to rest has just arrived.
    fn checkpoint(&mut self, start: u64, stop: Stop) -> Result<(), RecordError> {
        let rests = matches!(stop, Stop::Limit | Stop::Idle { .. });
        if !rests || self.guest.position().0 == start {
            return Ok(());
        }
        self.checkpointer.arrived(&mut self.guest, &mut self.writer)
    }

    fn take_output<W: World>(&mut self, world: &mut W) {
        let output = self.guest.take_output();
        if output.is_empty() {
            return;
        }
        self.console_bytes += hash_output(&mut self.console, &output);
        world.output(&output);
    }

    fn write_inputs(&mut self) -> Result<(), RecordError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let inputs = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.append(&Chunk::Inputs(inputs))
    }

    pub(crate) fn write_digest(&mut self) -> Result<Digest, RecordError> {
        self.write_digest_by(Checkpointer::digest)
    }

    fn write_digest_by(
        &mut self,
        take: impl FnOnce(&mut Checkpointer, &mut G) -> Digest,
    ) -> Result<Digest, RecordError> {
        self.log_deliveries()?;
        self.log_instant()?;
        self.write_inputs()?;
        self.settle();
        let digest = take(&mut self.checkpointer, &mut self.guest);
        self.append(&Chunk::Digest(Box::new(digest.clone())))?;
        self.flushed = digest.at;
        Ok(digest)
    }

    /// Writes everything down: killed after this, the recording replays to here.
    pub fn flush(&mut self) -> Result<(), RecordError> {
        self.write_inputs()?;
        let now = self.now();
        if now != self.flushed {
            self.flushed = now;
            self.append(&Chunk::Progress(now))?;
        }
        Ok(())
    }

    /// Names where the machine is, in the recording.
    pub fn mark(&mut self, name: &str) -> Result<(), RecordError> {
        self.write_inputs()?;
        self.append(&Chunk::Mark(Mark { at: self.now(), name: name.to_owned() }))
    }

    /// Ends the recording here.
    pub fn finish<W: World>(
        mut self,
        world: &mut W,
        ending: Ending,
    ) -> Result<Recorded, RecordError> {
        let digest = self.write_digest_by(Checkpointer::last_digest)?;
        self.checkpointer.complete(&mut self.writer)?;
        self.take_output(world);
        let at = digest.at;
        let console = crate::digest::Hash128(self.console.digest128().to_le_bytes());
        let console_bytes = self.console_bytes;
        self.append(&Chunk::End(EndChunk { ending, at, console, console_bytes }))?;
        let (log_start, offset) = (self.log_start, self.writer.bytes());
        let checkpoint_bytes = self.checkpointer.spent();
        let file_bytes =
            self.writer.finish().map_err(|source| RecordError::Write { offset, source })?;
        let log_bytes = file_bytes - log_start - checkpoint_bytes;
        Ok(Recorded { ending, at, digest, console, console_bytes, file_bytes, log_bytes })
    }
}

/// Adds output to a running console hash, ports told apart; returns how many bytes it was.
pub(crate) fn hash_output(hash: &mut Xxh3, output: &[Output]) -> u64 {
    let mut total = 0;
    for piece in output {
        let (channel, bytes) = match piece {
            Output::Serial { port, bytes } => (*port, bytes),
            Output::DebugConsole { bytes } => (0xe9, bytes),
            // The card keeps account of them, in its state.
            Output::Frame { .. } => continue,
        };
        // How bytes were grouped depends on when they were taken: hash them one by one.
        for &byte in bytes {
            hash.update(&[channel, byte]);
        }
        total += bytes.len() as u64;
    }
    total
}
