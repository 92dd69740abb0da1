//! The recorder: runs a live machine and writes down what enters it.

use crate::digest::Digest;
use crate::file::{
    Chunk, EndChunk, Ending, External, Header, Moment, Stamped, Start, Writer, to_bytes,
};
use crate::guest::Guest;
use crate::pages;
use dejavm_machine::{Idle, Input, Output, Stop};
use dejavm_units::{GuestNs, Position};
use std::io::{self, Write};
use xxhash_rust::xxh3::Xxh3;

/// Instructions between two looks at the world: some milliseconds.
const SLICE: u64 = 4 << 20;
/// Inputs in one chunk at most, and bytes that arrived on serial lines in them.
const INPUTS_MAX: usize = 4096;
const INPUT_BYTES_MAX: usize = 1 << 20;

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
    /// Of those, bytes after the start state: the log.
    pub log_bytes: u64,
}

/// The host side of a recording: where inputs come from, how idle time passes, where output goes.
pub trait World {
    /// What has arrived. Never blocks. Called every few milliseconds of execution.
    fn poll(&mut self) -> Polled;
    /// The machine waits for an input, or until `wake`. May block until either is due. An answer
    /// earlier than `wake` lets time pass only so far: inputs polled next enter at that moment.
    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer;
    /// The guest emitted something.
    fn output(&mut self, output: &[Output]);
    /// Told after each slice.
    fn progress(&mut self, progress: Progress);
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
    /// Bytes after the start state.
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
}

struct Recorder<'a, G, W, S> {
    guest: &'a mut G,
    world: &'a mut W,
    writer: Writer<S>,
    /// File length when the log began.
    log_start: u64,
    pending: Vec<Stamped>,
    /// Bytes that arrived on serial lines in `pending`.
    pending_bytes: usize,
    console: Xxh3,
    console_bytes: u64,
    /// What the last progress chunk said.
    flushed: Moment,
}

/// Records a machine that has not run yet, until it ends or the world says stop.
pub fn record<G: Guest, W: World, S: Write>(
    guest: &mut G,
    world: &mut W,
    sink: S,
    options: &RecordOptions,
) -> Result<Recorded, RecordError> {
    let writer = Writer::new(sink).map_err(|source| RecordError::Write { offset: 0, source })?;
    let mut recorder = Recorder {
        guest,
        world,
        writer,
        log_start: 0,
        pending: Vec::new(),
        pending_bytes: 0,
        console: Xxh3::new(),
        console_bytes: 0,
        flushed: Moment::default(),
    };
    recorder.write_start(options)?;
    let ending = recorder.run(options)?;
    recorder.finish(ending)
}

impl<G: Guest, W: World, S: Write> Recorder<'_, G, W, S> {
    fn append(&mut self, chunk: &Chunk) -> Result<(), RecordError> {
        let offset = self.writer.bytes();
        self.writer.append(chunk).map_err(|source| RecordError::Write { offset, source })
    }

    fn now(&self) -> Moment {
        Moment { position: self.guest.position(), guest_ns: self.guest.guest_ns() }
    }

    fn write_start(&mut self, options: &RecordOptions) -> Result<(), RecordError> {
        self.append(&Chunk::Header(Box::new(options.header.clone())))?;
        let state = to_bytes(&self.guest.save());
        self.append(&Chunk::Start(Start { state }))?;
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
        Ok(())
    }

    fn run(&mut self, options: &RecordOptions) -> Result<Ending, RecordError> {
        let interval = options.header.digest_interval;
        let mut next_digest = if interval == 0 { u64::MAX } else { interval };
        let until = options.until.map_or(u64::MAX, |position| position.0);
        loop {
            let polled = self.world.poll();
            for input in polled.inputs {
                self.enter(input)?;
            }
            if polled.flush {
                self.flush()?;
            }
            if polled.stop || self.guest.position().0 >= until {
                return Ok(Ending::Stopped);
            }
            let target = (self.guest.position().0 + SLICE).min(next_digest).min(until);
            let stop = self.guest.run(Position(target));
            assert!(self.guest.position().0 <= target, "the machine ran beyond its limit");
            self.take_output();
            match stop {
                Stop::Limit => {}
                Stop::Idle { wake } => self.idle(wake),
                Stop::End(end) => return Ok(Ending::Guest(end)),
            }
            if self.guest.position().0 == next_digest {
                self.write_digest()?;
                next_digest = next_digest.saturating_add(interval);
            }
            let file_bytes = self.writer.bytes();
            self.world.progress(Progress {
                at: self.now(),
                file_bytes,
                log_bytes: file_bytes - self.log_start,
            });
        }
    }

    /// Lets an input enter. The machine comes to rest first (see [`settle`]), as it will in replay.
    fn enter(&mut self, input: Input) -> Result<(), RecordError> {
        let bytes = if let Input::Serial { bytes, .. } = &input { bytes.len() } else { 0 };
        assert!(bytes <= INPUT_BYTES_MAX, "the world cuts what arrives into pieces");
        if self.pending.len() >= INPUTS_MAX || self.pending_bytes + bytes > INPUT_BYTES_MAX {
            self.write_inputs()?;
        }
        settle(self.guest);
        self.guest.apply(&input);
        self.pending.push(Stamped { at: self.now(), input });
        self.pending_bytes += bytes;
        Ok(())
    }

    fn idle(&mut self, wake: Option<GuestNs>) {
        let now = self.guest.guest_ns();
        let IdleAnswer::Until(until) = self.world.idle(now, wake) else { return };
        let until = wake.map_or(until, |wake| until.min(wake));
        while self.guest.guest_ns() < until {
            if self.guest.idle_until(until) == Idle::Runnable {
                break;
            }
        }
    }

    fn take_output(&mut self) {
        let output = self.guest.take_output();
        if output.is_empty() {
            return;
        }
        self.console_bytes += hash_output(&mut self.console, &output);
        self.world.output(&output);
    }

    fn write_inputs(&mut self) -> Result<(), RecordError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let inputs = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.append(&Chunk::Inputs(inputs))
    }

    fn write_digest(&mut self) -> Result<Digest, RecordError> {
        self.write_inputs()?;
        settle(self.guest);
        let digest = Digest::take(self.guest);
        self.append(&Chunk::Digest(Box::new(digest.clone())))?;
        self.flushed = digest.at;
        Ok(digest)
    }

    fn flush(&mut self) -> Result<(), RecordError> {
        self.write_inputs()?;
        let now = self.now();
        if now != self.flushed {
            self.flushed = now;
            self.append(&Chunk::Progress(now))?;
        }
        Ok(())
    }

    fn finish(mut self, ending: Ending) -> Result<Recorded, RecordError> {
        let digest = self.write_digest()?;
        self.take_output();
        let at = digest.at;
        let console = crate::digest::Hash128(self.console.digest128().to_le_bytes());
        let console_bytes = self.console_bytes;
        self.append(&Chunk::End(EndChunk { ending, at, console, console_bytes }))?;
        let (log_start, offset) = (self.log_start, self.writer.bytes());
        let file_bytes =
            self.writer.finish().map_err(|source| RecordError::Write { offset, source })?;
        let log_bytes = file_bytes - log_start;
        Ok(Recorded { ending, at, digest, console, console_bytes, file_bytes, log_bytes })
    }
}

/// Brings a machine to rest at its position: it takes the interrupts that it takes there, and shows
/// whether it has ended. Without this the state at a position would depend on whether somebody asked
/// for it before the machine went on. The replayer's runs to an event do the same.
fn settle<G: Guest>(guest: &mut G) {
    let _ = guest.run(guest.position());
}

/// Adds output to a running console hash, ports told apart; returns how many bytes it was.
pub(crate) fn hash_output(hash: &mut Xxh3, output: &[Output]) -> u64 {
    let mut total = 0;
    for piece in output {
        let (channel, bytes) = match piece {
            Output::Serial { port, bytes } => (*port, bytes),
            Output::DebugConsole { bytes } => (0xe9, bytes),
        };
        // How bytes were grouped depends on when they were taken: hash them one by one.
        for &byte in bytes {
            hash.update(&[channel, byte]);
        }
        total += bytes.len() as u64;
    }
    total
}
