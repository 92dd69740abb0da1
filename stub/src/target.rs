//! What a debugger can do with a machine, be it live or a replay: the seam between this crate and
//! whoever runs machines. Everything is synchronous and happens on the caller's thread.

use dejavm_cpu::{CpuState, Stops, WatchKind};
use dejavm_units::{Gpa, GuestNs, Gva, Position};

/// The number of a virtual CPU, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vcpu(pub u32);

/// A machine at rest, to be looked at. Nothing here changes anything, not even what only a CPU's caches
/// would notice.
pub trait Inspect {
    /// How many virtual CPUs there are, at least 1.
    fn vcpus(&self) -> u32;
    /// The one that a stop is the doing of, else the one that executes next.
    fn current_vcpu(&self) -> Vcpu;
    /// Its registers. `vcpu` is less than [`Inspect::vcpus`].
    fn registers(&self, vcpu: Vcpu) -> CpuState;
    /// CR8: the task priority, which is the local APIC's (its TPR's bits 7:4).
    fn task_priority(&self, vcpu: Vcpu) -> u8;
    /// Where it stands: instructions completed.
    fn position(&self) -> Position;
    /// Guest time.
    fn guest_ns(&self) -> GuestNs;
    /// The physical address behind a linear one. `space`: the page tables to walk, as CR3's base (bits
    /// 51:12), in the CPU's present mode; `None`: those in use.
    fn translate(&self, vcpu: Vcpu, at: Gva, space: Option<Gpa>) -> Option<Gpa>;
    /// Copies RAM at linear addresses and says how many bytes there were before the first that is not
    /// mapped to RAM. Never touches a device.
    fn read_virtual(&self, vcpu: Vcpu, at: Gva, space: Option<Gpa>, into: &mut [u8]) -> usize;
    /// Copies RAM at physical addresses and says how many bytes there were before the first that is
    /// not RAM. Never touches a device.
    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> usize;
    /// Where RAM is: first address and length in bytes of each range, ascending.
    fn ram(&self) -> Vec<(Gpa, u64)>;
}

/// What a target can do now. It may change: `monitor branch` makes a live machine of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It replays a recording: what happens is settled.
    pub replay: bool,
    /// It can run backwards and [`Target::seek`].
    pub reverse: bool,
    /// Registers and memory may be written.
    pub writable: bool,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As time goes.
    Forward,
    /// Against it. Only with [`Capabilities::reverse`].
    Backward,
}

/// A wish to run.
#[derive(Clone, Copy, Debug)]
pub struct Resume<'a> {
    /// Which way.
    pub direction: Direction,
    /// Not further than this position; a single step is one position on. `None`: no limit. An idle
    /// stretch before the limit is run through.
    pub until: Option<Position>,
    /// Where to stop on the way.
    pub stops: &'a Stops,
}

/// Whether a stop that was met counts: `false` runs on as if it had not been there. The machine stands
/// where it would stop. Called for [`Stopped::Breakpoint`] and [`Stopped::Watchpoint`] only.
pub type Judge<'a> = dyn FnMut(&dyn Inspect, &Stopped) -> bool + 'a;

/// Asked every few milliseconds of a run; `true`: stop as soon as possible, at rest.
pub type Interrupted<'a> = dyn FnMut() -> bool + 'a;

/// Why a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A breakpoint. Its instruction is the next to execute. The one where a run starts does not stop it.
    Breakpoint {
        /// Its linear address.
        at: Gva,
    },
    /// A watchpoint. Running forwards, the accessing instruction has completed; running backwards, it
    /// is the next to execute, so that memory is as it was before it.
    Watchpoint {
        /// Which, in [`Stops::watchpoints`].
        index: usize,
        /// The first byte of the access within it.
        address: Gva,
        /// What the access was: [`WatchKind::Write`] or [`WatchKind::Read`].
        kind: WatchKind,
    },
    /// The position asked for was reached.
    Until,
    /// Backwards: the beginning of the recording.
    Start,
    /// Forwards: the end. Of a replay, where its recording ends; of a live machine, its own end, and
    /// it is over. The text says how, for people: `the guest switched the power off`.
    End(String),
    /// [`Interrupted`] said so.
    Interrupted,
}

/// Why something was not done. Each text is a sentence for the user, without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A replay's state is settled.
    #[error(
        "this is a replay: what was recorded cannot be changed; `monitor branch` makes a live machine \
         from this position, which can"
    )]
    ReplayIsSettled,
    /// This kind of target cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// It was tried and failed: a divergence, a damaged recording, a full disk.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// [`Refusal::Unsupported`].
    pub fn unsupported<T>(sentence: &str) -> Result<T, Refusal> {
        Err(Refusal::Unsupported(sentence.to_owned()))
    }
}

/// A named position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// Where.
    pub at: Position,
}

/// Something that entered the machine from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Where.
    pub at: Position,
    /// When.
    pub guest_ns: GuestNs,
    /// What, in a line.
    pub what: String,
}

/// A machine under a debugger. Required: running and the boundaries. The rest refuses by default.
pub trait Target {
    /// To look at it. The machine is at rest between calls.
    fn inspect(&self) -> &dyn Inspect;
    /// What it can do now.
    fn capabilities(&self) -> Capabilities;
    /// Runs until something in `resume` or the world stops it. `judge` decides whether breakpoints and
    /// watchpoints count; `interrupted` is asked every few milliseconds, also while the guest idles.
    ///
    /// # Errors
    /// A replay that diverges, a file that cannot be read: the machine stands somewhere, at rest.
    fn resume(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal>;
    /// Runs forwards until one instruction has completed: [`Stopped::Until`] then. A target whose positions are instructions
    /// goes one position on.
    ///
    /// # Errors
    /// As [`Target::resume`].
    fn step(
        &mut self,
        stops: &Stops,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        let Position(now) = self.inspect().position();
        let until = Some(Position(now.saturating_add(1)));
        let resume = Resume { direction: Direction::Forward, until, stops };
        self.resume(&resume, &mut |_, _| true, interrupted)
    }
    /// The first and the last position that can be stood at, as far as known: a live machine's last is
    /// where it is.
    fn extent(&self) -> (Position, Position);

    /// Whether the guest is one of 64 bits, even where its boot loader's or BIOS's code is executed:
    /// decides which registers gdb sees at first.
    fn is_64_bit(&self) -> bool {
        const LMA: u64 = 1 << 10;
        let machine = self.inspect();
        machine.registers(Vcpu(0)).efer & LMA != 0
    }

    /// Puts registers in: those that gdb can write of what [`Inspect::registers`] gave. On a recorded
    /// machine this is an input.
    ///
    /// # Errors
    /// [`Refusal::ReplayIsSettled`] in a replay.
    fn set_registers(&mut self, _vcpu: Vcpu, _state: &CpuState) -> Result<(), Refusal> {
        Err(Refusal::ReplayIsSettled)
    }
    /// Writes RAM at linear addresses; how many bytes before the first that is not mapped to RAM.
    ///
    /// # Errors
    /// [`Refusal::ReplayIsSettled`] in a replay.
    fn write_virtual(
        &mut self,
        _vcpu: Vcpu,
        _at: Gva,
        _space: Option<Gpa>,
        _bytes: &[u8],
    ) -> Result<usize, Refusal> {
        Err(Refusal::ReplayIsSettled)
    }
    /// Writes RAM at physical addresses; how many bytes before the first that is not RAM.
    ///
    /// # Errors
    /// [`Refusal::ReplayIsSettled`] in a replay.
    fn write_physical(&mut self, _at: Gpa, _bytes: &[u8]) -> Result<usize, Refusal> {
        Err(Refusal::ReplayIsSettled)
    }

    /// Goes to a position, either way. Says where it stands then: elsewhere only if interrupted.
    ///
    /// # Errors
    /// As [`Target::resume`], and positions beyond [`Target::extent`].
    fn seek(
        &mut self,
        _to: Position,
        _interrupted: &mut Interrupted<'_>,
    ) -> Result<Position, Refusal> {
        Refusal::unsupported("only a replay can go to a position")
    }
    /// The named positions, by position.
    fn marks(&self) -> Vec<Mark> {
        Vec::new()
    }
    /// Names the present position.
    ///
    /// # Errors
    /// Where it cannot be kept.
    fn set_mark(&mut self, _name: &str) -> Result<(), Refusal> {
        Refusal::unsupported("marks cannot be set here")
    }
    /// Makes coming back here cheap; a line that says what was done.
    ///
    /// # Errors
    /// Where that is impossible.
    fn checkpoint(&mut self) -> Result<String, Refusal> {
        Refusal::unsupported("checkpoints are made of replays only")
    }
    /// Writes the machine, as it stands, as a checkpoint for other programs, under a name that the user or the target chooses;
    /// a line that says where. The machine does not notice.
    ///
    /// # Errors
    /// Where that is impossible.
    fn snapshot(&mut self, _name: Option<&str>) -> Result<String, Refusal> {
        Refusal::unsupported("no checkpoint can be written here")
    }
    /// Makes a live machine of a replay, from here on; some lines that say what that means.
    ///
    /// # Errors
    /// Where that is impossible.
    fn branch(&mut self) -> Result<String, Refusal> {
        Refusal::unsupported("this machine is live already")
    }
    /// The pace, as the product of 2007 had it: `replay.halt_delay`. 0 is full speed. `None` where there
    /// is none.
    fn pace(&self) -> Option<u32> {
        None
    }
    /// Sets it.
    ///
    /// # Errors
    /// Where there is none.
    fn set_pace(&mut self, _pace: u32) -> Result<(), Refusal> {
        Refusal::unsupported("there is no pace to set here")
    }
    /// What entered the machine from `from` (inclusive) on, at most `limit`.
    ///
    /// # Errors
    /// Where the log cannot be read.
    fn events(&mut self, _from: Position, _limit: usize) -> Result<Vec<Happening>, Refusal> {
        Refusal::unsupported("there is no log to read here")
    }
    /// About the machine and its recording, some lines.
    fn info(&self) -> String {
        String::new()
    }
    /// Called every now and then while the machine stands and the client is silent: a good moment to
    /// write things down.
    fn quiet(&mut self) {}
    /// What the client wants of the machine at its end; asked by the server after a session.
    fn killed(&mut self) {}
}
