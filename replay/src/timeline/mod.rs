//! A replay that can stand at any position and go forwards or backwards.
//!
//! # Where it stands
//!
//! A position is a number of completed instructions. At one position a machine can be several things: it
//! arrives, inputs enter it, time jumps while it is halted. The timeline stands *at rest*: the machine has
//! just arrived, has taken the interrupts that were due, and nothing of the log at that position has entered
//! yet. So there is one state for each position, however one came there. Inputs and idle jumps happen when the
//! position is left. The end is the same: `seek(end)` arrives there, and what the log still holds at that
//! position (inputs that no instruction saw any more, the last digest) is checked and undone again.
//!
//! # How it goes backwards
//!
//! It goes back to a checkpoint before and runs forward to where it should be. A checkpoint holds the machine's
//! state and the pages written since the checkpoint before it; putting the machine back writes the pages that
//! differ. On the way to a position it leaves checkpoints at 1024, 2048, 4096, ... instructions before it, so
//! that whoever goes back from there step by step waits for a thousand instructions and not for millions.
//! Elsewhere they lie at a fixed spacing, and when there are too many, those go that matter least from
//! where the user stands (`policy.rs`). No clock is asked: instructions and pages are the measure of cost.

mod branch;
mod checkpoints;
mod from_file;
mod guest;
mod log;
mod look;
mod pages;
mod policy;
mod run;
mod travel;

pub use guest::Rewind;
pub use run::Judge;

use crate::file::{External, Header, Mark, Moment, Parent};
use crate::page_set::PageSet;
use crate::pages::FilePage;
use crate::replayer::{CutShort, IntoLog, ReplayError, Replayer};
use checkpoints::{Checkpoints, Console};
use dejavm_machine::{Machine, WatchKind};
use dejavm_units::{Gva, PAGE_SIZE, Pfn, Position};
use log::{Cursor, Log};
use pages::Content;
use policy::Plan;
use std::io::{Read, Seek};

/// Choices of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineOptions {
    /// Memory for checkpoints at most, in bytes. Those in the file count little.
    pub memory_bytes: u64,
    /// Instructions between checkpoints where nobody stands.
    pub spacing: u64,
}

impl Default for TimelineOptions {
    fn default() -> TimelineOptions {
        TimelineOptions { memory_bytes: 512 << 20, spacing: 32 << 20 }
    }
}

/// Where a seek came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Where it was asked to.
    Position,
    /// At the end: the position lies behind it.
    End,
    /// At the start: the position lies before it (of a branch).
    Start,
    /// Somewhere, because the observer said so.
    Interrupted,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As time goes.
    Forward,
    /// Against it.
    Backward,
}

/// Why a step or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineStop {
    /// A breakpoint. Its instruction is the next to execute.
    Breakpoint {
        /// Its linear address.
        at: Gva,
    },
    /// A watchpoint. Forwards, the access has happened; backwards, it is about to.
    Watchpoint {
        /// Which, in [`Stops::watchpoints`](dejavm_machine::Stops).
        index: usize,
        /// The first watched byte that was accessed.
        address: Gva,
        /// What the access was: `Write` or `Read`.
        kind: WatchKind,
    },
    /// The position asked for.
    Position,
    /// The first position of the recording.
    Start,
    /// The last one that can be replayed.
    End,
    /// The observer said so. It stands at rest somewhere on the way.
    Interrupted,
}

/// Told where the machine is, every so often on long ways; `false` interrupts.
pub type Watcher<'a> = dyn FnMut(Moment) -> bool + 'a;

/// A recording that can be stood in. See the module's documentation.
pub struct Timeline<R, G: Rewind = Machine> {
    guest: G,
    header: Header,
    externals: Vec<External>,
    parent: Option<Parent>,
    start: Position,
    log: Log<R>,
    options: TimelineOptions,
    checkpoints: Checkpoints,
    /// RAM is as it was at this checkpoint, apart from `dirty` and what RAM itself knows to be dirty.
    anchor: Position,
    dirty: PageSet,
    /// Before the next event of the log.
    cursor: Cursor,
    /// The machine has just arrived where it is. If not, it is further on at the same position.
    at_rest: bool,
    /// Pages written since the digest before; `None`: unknown.
    since_digest: Option<PageSet>,
    /// `None`: unknown.
    console: Option<Console>,
    /// When everything was last found equal.
    since: Moment,
    /// The log's events at the last position were replayed and found right.
    end_checked: bool,
    plan: Plan,
    notes: Vec<String>,
}

impl<R: Read + Seek> Timeline<R, Machine> {
    /// Opens a recording that needs no other file, and stands at its start.
    ///
    /// # Errors
    /// A file whose beginning cannot be read or makes no machine. Damage further on only ends the
    /// timeline earlier: see [`Timeline::cut_short`].
    pub fn open(source: R, options: TimelineOptions) -> Result<Timeline<R, Machine>, ReplayError> {
        let mut replayer = Replayer::open(source)?;
        if !replayer.externals().is_empty() {
            let reason = "it needs files that it does not hold";
            return Err(ReplayError::Machine(reason.into()));
        }
        let machine = replayer.rebuild()?;
        Timeline::new(replayer, machine, options)
    }
}

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// A timeline of a recording whose machine was rebuilt, pages and all, and has not run.
    pub fn new(
        replayer: Replayer<R>,
        mut guest: G,
        options: TimelineOptions,
    ) -> Result<Timeline<R, G>, ReplayError> {
        let IntoLog { reader, header, externals, parent, loaded } = replayer.into_log();
        let start = guest.position();
        let log = Log::open(reader)?;
        // The first epoch begins with the first instruction, as it did for the recorder.
        guest.ram_mut().take_dirty();
        let mut timeline = Timeline {
            guest,
            header,
            externals,
            parent,
            start,
            log,
            options,
            checkpoints: Checkpoints::default(),
            anchor: start,
            dirty: PageSet::default(),
            cursor: Cursor::default(),
            at_rest: true,
            since_digest: Some(PageSet::default()),
            console: Some(Console::new()),
            since: Moment::default(),
            end_checked: false,
            plan: Plan::default(),
            notes: Vec::new(),
        };
        timeline.take_start(&loaded);
        timeline.load_checkpoints()?;
        Ok(timeline)
    }

    /// The checkpoint at position 0: all of RAM. Of a large machine, what the file holds stays there.
    fn take_start(&mut self, loaded: &[(Pfn, FilePage)]) {
        // It settles, as on every arrival.
        let _ = self.guest.run(self.start);
        self.take_output();
        if loaded.len() as u64 * PAGE_SIZE > self.options.memory_bytes / 2 {
            self.take_checkpoint_of_file(loaded);
            return;
        }
        let ram = self.guest.ram();
        let zero = [0; pages::PAGE];
        let mut bytes = zero;
        let nonzero = ram.all_pages().filter(|pfn| {
            ram.read_page(*pfn, &mut bytes).expect("`all_pages` lists them");
            bytes != zero
        });
        self.dirty = PageSet::from_sorted(nonzero.collect());
        self.take_checkpoint();
    }

    /// The machine, where the timeline stands.
    pub fn machine(&self) -> &G {
        &self.guest
    }

    /// The machine alone: what the timeline held is given back.
    pub fn into_machine(self) -> (Header, G) {
        (self.header, self.guest)
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Files that the recording needs besides itself.
    pub fn externals(&self) -> &[External] {
        &self.externals
    }

    /// What it was branched from.
    pub fn parent(&self) -> Option<&Parent> {
        self.parent.as_ref()
    }

    /// Where the timeline stands.
    pub fn now(&self) -> Moment {
        Moment { position: self.guest.position(), guest_ns: self.guest.guest_ns() }
    }

    /// The first position.
    pub fn start(&self) -> Position {
        self.start
    }

    /// The last position that can be replayed.
    pub fn end(&self) -> Position {
        self.log.end().position.max(self.start)
    }

    /// Why the recording has no ending, if so.
    pub fn cut_short(&self) -> Option<&CutShort> {
        self.log.cut_short()
    }

    /// The marks in the recording.
    pub fn marks(&self) -> &[Mark] {
        self.log.marks()
    }

    /// Memory that checkpoints use, in bytes, estimated from counts.
    pub fn checkpoint_bytes(&self) -> u64 {
        self.checkpoints.bytes()
    }

    /// Where checkpoints are, ascending.
    pub fn checkpoint_positions(&self) -> impl Iterator<Item = Position> {
        self.checkpoints.positions().map(|(at, _)| at)
    }

    /// How many checkpoints there are.
    pub fn checkpoint_count(&self) -> usize {
        self.checkpoints.len()
    }

    /// Goes to a position, or to the end if it lies behind that.
    pub fn seek(&mut self, position: Position) -> Result<Reached, ReplayError> {
        self.seek_watched(position, &mut |_| true)
    }

    /// As [`Timeline::seek`]; the watcher may interrupt it.
    pub fn seek_watched(
        &mut self,
        position: Position,
        watcher: &mut Watcher<'_>,
    ) -> Result<Reached, ReplayError> {
        let target = position.clamp(self.start, self.end());
        Ok(match self.go(target, watcher)? {
            false => Reached::Interrupted,
            true if target > position => Reached::Start,
            true if target < position => Reached::End,
            true => Reached::Position,
        })
    }

    /// Goes some instructions forward or backward.
    pub fn step(&mut self, direction: Direction, count: u64) -> Result<TimelineStop, ReplayError> {
        let here = self.guest.position();
        let (target, short) = match direction {
            Direction::Forward => {
                let target = Position(here.0.saturating_add(count));
                (target.min(self.end()), (target > self.end()).then_some(TimelineStop::End))
            }
            Direction::Backward => {
                // Back to the arrival is a step of its own.
                let moved = self.back_to_arrival()?;
                let count = count.saturating_sub(u64::from(moved));
                let target = Position(here.0.saturating_sub(count)).max(self.start);
                (target, (count > here.0 - self.start.0).then_some(TimelineStop::Start))
            }
        };
        match self.go(target, &mut |_| true)? {
            true => Ok(short.unwrap_or(TimelineStop::Position)),
            false => Ok(TimelineStop::Interrupted),
        }
    }

    /// Goes back to where the machine arrived at this position; whether it was further on.
    fn back_to_arrival(&mut self) -> Result<bool, ReplayError> {
        if self.at_rest {
            return Ok(false);
        }
        let point = self.point();
        self.go(self.guest.position(), &mut |_| true)?;
        Ok(self.point() != point)
    }
}
