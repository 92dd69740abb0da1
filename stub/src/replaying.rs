//! A replay as a target: a [`Timeline`] and what a user adds to it.

use crate::target::{
    Capabilities, Direction, Happening, Inspect, Interrupted, Judge, Mark, Refusal, Resume,
    Stopped, Target,
};
use dejavm_machine::{Input, Machine, Register, Stop};
use dejavm_replay::{self as replay, Reached, ReplayError, Timeline, TimelineStop};
use dejavm_units::{GuestNs, Position};
use std::fmt::Write;
use std::io::{Read, Seek};

/// Told how far guest time is and the pace wished for, whenever the replay comes up for air: it waits as
/// long as it wants. See [`Target::set_pace`].
pub type Pacer = dyn FnMut(GuestNs, u32);

/// Writes a mark down where it lasts; the sentence why it cannot.
pub type MarkKeeper = dyn FnMut(&replay::Mark) -> Result<(), String>;

/// A recording under a debugger.
pub struct Replaying<R> {
    timeline: Timeline<R>,
    keeper: Option<Box<MarkKeeper>>,
    bits_64: bool,
    /// Named in this session.
    marks: Vec<Mark>,
    pace: u32,
    pacer: Option<Box<Pacer>>,
}

fn failed(error: ReplayError) -> Refusal {
    Refusal::Failed(error.to_string())
}

impl<R: Read + Seek> Replaying<R> {
    /// Debugs a recording from where its timeline stands.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn new(mut timeline: Timeline<R>) -> Result<Replaying<R>, ReplayError> {
        const LMA: u64 = 1 << 10;
        let now = timeline.machine().processor_state(0).efer & LMA != 0;
        // The last digest tells of guests that get there by a BIOS or a loader of their own.
        let later = timeline.state_behind(timeline.end())?;
        let later = later.is_some_and(|(_, state)| state.cpu.efer & LMA != 0);
        let bits_64 = now || later;
        Ok(Replaying { timeline, keeper: None, bits_64, marks: Vec::new(), pace: 0, pacer: None })
    }

    /// Who waits for the sake of the pace.
    pub fn set_pacer(&mut self, pacer: Box<Pacer>) {
        self.pacer = Some(pacer);
    }

    /// Who writes marks down.
    pub fn set_mark_keeper(&mut self, keeper: Box<MarkKeeper>) {
        self.keeper = Some(keeper);
    }

    /// The timeline.
    pub fn timeline(&self) -> &Timeline<R> {
        &self.timeline
    }

    /// The timeline, to branch from it.
    pub fn timeline_mut(&mut self) -> &mut Timeline<R> {
        &mut self.timeline
    }

    fn end_text(&self) -> String {
        match self.timeline.cut_short() {
            None => format!("the recording ends here, at position {}", self.timeline.end()),
            Some(why) => {
                format!("the recording ends here, at position {}: {why}", self.timeline.end())
            }
        }
    }
}

impl<R: Read + Seek> Target for Replaying<R> {
    fn inspect(&self) -> &dyn Inspect {
        self.timeline.machine()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { replay: true, reverse: true, writable: false }
    }

    fn is_64_bit(&self) -> bool {
        self.bits_64
    }

    fn extent(&self) -> (Position, Position) {
        (self.timeline.start(), self.timeline.end())
    }

    fn resume(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        let direction = match resume.direction {
            Direction::Forward => replay::Direction::Forward,
            Direction::Backward => replay::Direction::Backward,
        };
        let mut judge = |machine: &Machine, stop: &Stop| match *stop {
            Stop::Breakpoint { at } => judge(machine, &Stopped::Breakpoint { at }),
            Stop::Watchpoint { index, address, kind } => {
                judge(machine, &Stopped::Watchpoint { index, address, kind })
            }
            Stop::Limit | Stop::Idle { .. } | Stop::End(_) => false,
        };
        let (pace, pacer) = (self.pace, &mut self.pacer);
        let mut watcher = |now: replay::Moment| {
            if let Some(pacer) = pacer
                && resume.direction == Direction::Forward
            {
                pacer(now.guest_ns, pace);
            }
            !interrupted()
        };
        let stop =
            self.timeline.run(direction, resume.until, resume.stops, &mut judge, &mut watcher);
        Ok(match stop.map_err(failed)? {
            TimelineStop::Breakpoint { at } => Stopped::Breakpoint { at },
            TimelineStop::Watchpoint { index, address, kind } => {
                Stopped::Watchpoint { index, address, kind }
            }
            TimelineStop::Position => Stopped::Until,
            TimelineStop::Start => Stopped::Start,
            TimelineStop::End => Stopped::End(self.end_text()),
            TimelineStop::Interrupted => Stopped::Interrupted,
        })
    }

    fn seek(
        &mut self,
        to: Position,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Position, Refusal> {
        let end = self.timeline.end();
        if to > end {
            let sentence = format!("position {to} lies behind the recording's end, {end}");
            return Err(Refusal::Unsupported(sentence));
        }
        let reached = self.timeline.seek_watched(to, &mut |_| !interrupted()).map_err(failed)?;
        let (Reached::Position | Reached::Start | Reached::End | Reached::Interrupted) = reached;
        Ok(self.timeline.now().position)
    }

    fn marks(&self) -> Vec<Mark> {
        let renamed = |name: &str| self.marks.iter().any(|mark| mark.name == name);
        let recorded = self.timeline.marks().iter().filter(|mark| !renamed(&mark.name));
        let recorded = recorded.map(|mark| Mark { name: mark.name.clone(), at: mark.at.position });
        let mut marks: Vec<Mark> = self.marks.iter().cloned().chain(recorded).collect();
        marks.sort_by_key(|mark| mark.at);
        marks
    }

    fn set_mark(&mut self, name: &str) -> Result<(), Refusal> {
        self.marks.retain(|mark| mark.name != name);
        if self.marks.len() >= 10_000 {
            return Refusal::unsupported("there are too many marks");
        }
        let at = self.timeline.now();
        self.marks.push(Mark { name: name.to_owned(), at: at.position });
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        keeper(&replay::Mark { at, name: name.to_owned() }).map_err(|why| {
            Refusal::Failed(format!("the mark is set, and lasts as long as this session: {why}"))
        })
    }

    fn branch(&mut self) -> Result<String, Refusal> {
        Refusal::unsupported("nobody here can make a live machine of this replay")
    }

    fn checkpoint(&mut self) -> Result<String, Refusal> {
        let at = self.timeline.now().position;
        let kept = self.timeline.keep();
        let megabytes = self.timeline.checkpoint_bytes() >> 20;
        let count = self.timeline.checkpoint_count();
        let what = if kept { "position" } else { "inputs entered already at position" };
        Ok(format!("{what} {at}; {count} checkpoints, {megabytes} MiB"))
    }

    fn pace(&self) -> Option<u32> {
        self.pacer.is_some().then_some(self.pace)
    }

    fn set_pace(&mut self, pace: u32) -> Result<(), Refusal> {
        if self.pacer.is_none() {
            return Refusal::unsupported("there is no pace to set here");
        }
        self.pace = pace;
        Ok(())
    }

    fn events(&mut self, from: Position, limit: usize) -> Result<Vec<Happening>, Refusal> {
        let inputs = self.timeline.inputs(from, limit).map_err(failed)?;
        let told = inputs.into_iter().map(|stamped| Happening {
            at: stamped.at.position,
            guest_ns: stamped.at.guest_ns,
            what: describe(&stamped.input),
        });
        Ok(told.collect())
    }

    fn info(&self) -> String {
        let header = self.timeline.header();
        let mut text = format!("recorded by {}, CPU {}\n", header.creator, header.config.cpu);
        for (role, what) in &header.guest {
            let _ = writeln!(text, "{role}: {}", what.escape_debug());
        }
        let (start, end) = self.extent();
        let _ = writeln!(text, "positions {start} to {end}");
        if let Some(why) = self.timeline.cut_short() {
            let _ = writeln!(text, "cut short: {why}");
        }
        let megabytes = self.timeline.checkpoint_bytes() >> 20;
        let _ = writeln!(text, "{} checkpoints, {megabytes} MiB", self.timeline.checkpoint_count());
        text
    }
}

fn describe(input: &Input) -> String {
    match input {
        Input::Serial { port, bytes } => {
            format!("COM{}: {}", u32::from(*port) + 1, bytes.escape_ascii())
        }
        Input::Key { code, extended, pressed } => {
            let prefix = if *extended { "e0 " } else { "" };
            format!("key {prefix}{code:02x} {}", if *pressed { "down" } else { "up" })
        }
        Input::Mouse { right, up, wheel, buttons } => {
            format!("mouse right {right} up {up} wheel {wheel} buttons {buttons:03b}")
        }
        Input::PowerButton => "power button".to_owned(),
        Input::Landmark { us, .. } => format!("{us} us pass at a landmark"),
        Input::Counted { counted } => {
            format!(
                "nothing, the landmark is {} branches after position {}",
                counted.branches, counted.since.0
            )
        }
        Input::Time { us } => format!("{us} us pass"),
        Input::Frames { card, frames } => {
            let bytes: usize = frames.iter().map(Vec::len).sum();
            format!("card {card}: {} frames, {bytes} bytes", frames.len())
        }
        Input::Link { card, up } => {
            format!("card {card}: cable {}", if *up { "plugged in" } else { "pulled out" })
        }
        Input::Deliveries { count } => format!("nothing, after {count} exceptions"),
        Input::WriteRegisters { values } => writes(0, values),
        Input::WriteRegistersOf { processor, values } => writes(*processor, values),
        Input::WriteMemory { at, bytes } => {
            format!("debugger writes {} bytes at physical {at}", bytes.len())
        }
    }
}

fn writes(processor: u8, values: &[(Register, u128)]) -> String {
    let mut text = String::from("debugger writes");
    if processor > 0 {
        let _ = write!(text, " of cpu{processor}");
    }
    for (register, value) in values {
        let _ = write!(text, " {register}={value:#x}");
    }
    text
}
