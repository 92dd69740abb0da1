//! From a recording whose positions are exits to one whose positions are instructions.
//!
//! An engine that cannot count instructions records exits and landmarks. The software CPU executes the same machine from the same
//! start, counts the same exits, and so comes by the same moments; it can also say how many instructions lie between. What it
//! records on the way is the same run, in which one can stand at every instruction, and go backwards.

use crate::digest::Digest;
use crate::divergence::Divergence;
use crate::file::{Ending, Moment, from_bytes, to_bytes};
use crate::guest::Guest;
use crate::record::{
    Advance, IdleAnswer, Polled, Progress, RecordError, RecordOptions, Recorded, Recorder, World,
};
use crate::replayer::{Event, ReplayError, Replayer};
use dejavm_machine::{Input, Machine, MachineState, Output};
use dejavm_units::{GuestNs, Position};
use std::io::{Read, Seek, Write};

/// Why a recording could not be transcribed.
#[derive(Debug, thiserror::Error)]
pub enum TranscribeError {
    /// It does not replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The new one could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The follower said so.
    #[error("stopped")]
    Stopped,
}

impl From<Divergence> for TranscribeError {
    fn from(divergence: Divergence) -> TranscribeError {
        TranscribeError::Replay(divergence.into())
    }
}

/// Told every so often where the machine is, in instructions; `false` stops.
pub type Follower<'a> = dyn FnMut(Moment) -> bool + 'a;

/// Replays a recording whose positions are exits, on a machine in its start state that the software CPU executes, and records
/// that replay. Each digest is compared on the way.
///
/// # Errors
/// A divergence (its positions are exits) if the machine does not do what was recorded; or what the host refuses.
pub fn transcribe<R: Read + Seek, S: Write>(
    mut replayer: Replayer<R>,
    machine: Machine,
    sink: S,
    options: &RecordOptions,
    follower: &mut Follower<'_>,
) -> Result<Recorded, TranscribeError> {
    let mut world = Script::default();
    let mut options = options.clone();
    // Those of the log, and no others: each ends an epoch of written pages.
    options.header.digest_interval = 0;
    let recorder = Recorder::new(machine, sink, &options)?.without_passing_time();
    let mut run = Run { recorder, since: Moment::default(), ended: None };
    while let Some(event) = replayer.next_event()? {
        let at = event.at();
        run.reach(&mut world, at, follower)?;
        match event {
            Event::Input(stamped) => run.enter(stamped.input)?,
            Event::Progress(_) => run.recorder.flush()?,
            Event::Digest(expected) => run.compare(*expected)?,
            Event::End(end) => {
                let recorded = run.recorder.finish(&mut world, run.ended.unwrap_or(end.ending))?;
                let (expected, got) =
                    ((end.console, end.console_bytes), (recorded.console, recorded.console_bytes));
                if expected != got || recorded.ending != end.ending {
                    let shown = |ending: Ending, console| format!("{ending:?}, {console:?}");
                    return Err(Divergence::at(
                        at.position,
                        run.since,
                        "the ending, and hash and length of the console output",
                        shown(end.ending, expected),
                        shown(recorded.ending, got),
                    )
                    .into());
                }
                return Ok(recorded);
            }
        }
    }
    // It was cut short: so far it goes.
    Ok(run.recorder.finish(&mut world, run.ended.unwrap_or(Ending::Stopped))?)
}

/// A world in which time passes as the log says.
#[derive(Default)]
struct Script {
    /// Idle time passes up to here.
    until: GuestNs,
}

impl World for Script {
    fn poll(&mut self) -> Polled {
        Polled::default()
    }
    fn idle(&mut self, _now: GuestNs, _wake: Option<GuestNs>) -> IdleAnswer {
        IdleAnswer::Until(self.until)
    }
    fn output(&mut self, _output: &[Output]) {}
    fn progress(&mut self, _progress: Progress) {}
}

struct Run<S> {
    recorder: Recorder<Machine, S>,
    /// When everything was last found equal.
    since: Moment,
    ended: Option<Ending>,
}

impl<S: Write> Run<S> {
    /// Where the machine is, in the log's positions.
    fn now(&self) -> Moment {
        let guest = self.recorder.guest();
        Moment { position: Position(guest.exits()), guest_ns: guest.guest_ns() }
    }

    fn diverged(&self, what: &str, expected: String, got: String) -> TranscribeError {
        Divergence::at(self.now().position, self.since, what, expected, got).into()
    }

    /// Goes to the moment of an event.
    fn reach(
        &mut self,
        world: &mut Script,
        at: Moment,
        follower: &mut Follower<'_>,
    ) -> Result<(), TranscribeError> {
        if !follower(self.recorder.now()) {
            return Err(TranscribeError::Stopped);
        }
        self.recorder.guest_mut().set_exits_max(Some(at.position.0));
        while self.now() != at && self.ended.is_none() {
            // Where it waits before the event's position, it is woken before the event's time.
            world.until = at.guest_ns;
            let before = (self.now(), self.recorder.now());
            match self.recorder.advance(world, None)? {
                Advance::Running | Advance::Limit | Advance::Stopped(_) => {}
                Advance::Ended(ending) => self.ended = Some(ending),
            }
            if before == (self.now(), self.recorder.now()) || self.now() > at {
                break;
            }
            if !follower(self.recorder.now()) {
                return Err(TranscribeError::Stopped);
            }
        }
        // An end shows itself when the machine is asked to go on.
        if self.now() == at && self.ended.is_none() {
            world.until = at.guest_ns;
            if let Advance::Ended(ending) = self.recorder.advance(world, None)? {
                self.ended = Some(ending);
            }
        }
        match self.now() == at {
            true => Ok(()),
            false => Err(self.diverged(
                "the moment of the next event, in exits",
                at.to_string(),
                self.now().to_string(),
            )),
        }
    }

    fn enter(&mut self, input: Input) -> Result<(), TranscribeError> {
        let input = match input {
            Input::Landmark { landmark, us } => {
                if let Err(error) = self.recorder.guest_mut().find(&landmark) {
                    let expected = format!("at {:#x} after some instructions", landmark.cpu.rip);
                    return Err(self.diverged("the recorded instant", expected, error.to_string()));
                }
                Input::Time { us }
            }
            // For who counts branches, and the software CPU counts instructions.
            Input::Counted { .. } => return Ok(()),
            input => input,
        };
        Ok(self.recorder.enter(input)?)
    }

    /// Takes a digest and compares it with the one in the log, but for the positions.
    fn compare(&mut self, mut expected: Digest) -> Result<(), TranscribeError> {
        let at = expected.at;
        let got = self.recorder.write_digest()?;
        let mut state: MachineState = from_bytes(&expected.state).map_err(ReplayError::Machine)?;
        let guest = self.recorder.guest();
        let mut again = expected.again(guest, &[]);
        if expected.listed.is_empty() {
            (again.memory, again.pages) = (got.memory, got.pages);
            again.buckets = got.buckets.clone();
        }
        // Each engine counts for itself.
        (state.cpu.position, state.cpu.deliveries) = (guest.position(), guest.deliveries());
        expected.at.position = got.at.position;
        expected.state = to_bytes(&state);
        expected.machine = crate::digest::Hash128::of(&expected.state);
        if let Some(divergence) =
            Divergence::between::<Machine>(&expected, &again, self.since, Guest::ram(guest))
        {
            return Err(divergence.into());
        }
        self.since = at;
        Ok(())
    }
}
