//! A deterministic machine that does a little of everything and nothing else: computes, writes RAM,
//! prints, halts, takes timer interrupts and inputs. Fast, and small enough that every byte of its
//! recordings can be damaged once.
#![allow(dead_code, reason = "each test file uses what it needs")]

use dejavm_machine::{
    End, Idle, Input, MachineConfig, Output, Register, Stop, Stops, WatchKind, Watchpoint,
};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_replay::{
    CheckpointInterval, CheckpointPolicy, Guest, Header, IdleAnswer, Observer, Polled, Progress,
    RecordOptions, Recorded, ReplayError, ReplayOptions, Replayed, Replayer, Rewind, SEMANTICS,
    World, record,
};
use dejavm_units::{Gpa, GuestNs, Gva, Position};
use serde::{Deserialize, Serialize};
use std::io::Cursor;

pub const RAM_BYTES: u64 = 2 << 20;

/// xorshift64*: seeds are printed by whoever draws from it.
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToyState {
    pub position: u64,
    pub idle_ns: u64,
    pub registers: [u64; 4],
    pub wide: [u128; 2],
    pub timer: Option<u64>,
    pub timer_pending: bool,
    pub input_pending: bool,
    /// Instructions for which interrupts stay off.
    pub masked: u8,
    pub halted: bool,
    pub received: Vec<u8>,
    pub end: Option<End>,
}

impl ToyState {
    /// Interrupts taken since an instruction completed: one masks the others.
    pub fn deliveries(&self) -> u32 {
        u32::from(self.masked == 3)
    }
}

/// Deliberate mistakes, to see them found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mistake {
    pub at: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum What {
    #[default]
    None,
    Register,
    Wide,
    Ram,
    Output,
    EndsEarly,
    Hangs,
}

pub struct Toy {
    pub state: ToyState,
    pub ram: GuestRam,
    output: Vec<Output>,
    pub mistake: Mistake,
    stops: Stops,
    /// Where the run started.
    passed: (u64, u64),
    hit: Option<Stop>,
}

impl Toy {
    pub fn new(seed: u64) -> Toy {
        let mut ram = GuestRam::new(RamLayout::new(RAM_BYTES).unwrap()).unwrap();
        ram.write(Gpa(0x3000), &[0x5a; 4096]).unwrap();
        ram.write(Gpa(0x10_0ff0), &seed.to_le_bytes()).unwrap();
        ram.write(Gpa(0x7000), &[0x5a; 4096]).unwrap();
        let state = ToyState {
            position: 0,
            idle_ns: 0,
            registers: [seed | 1, 0, 0, 0],
            wide: [u128::MAX - 5, 1 << 100],
            timer: None,
            timer_pending: false,
            input_pending: false,
            masked: 0,
            halted: false,
            received: Vec::new(),
            end: None,
        };
        Toy {
            state,
            ram,
            output: Vec::new(),
            mistake: Mistake::default(),
            stops: Stops::default(),
            passed: (0, 0),
            hit: None,
        }
    }

    pub fn from_state(state: ToyState) -> Toy {
        let ram = GuestRam::new(RamLayout::new(RAM_BYTES).unwrap()).unwrap();
        Toy {
            state,
            ram,
            output: Vec::new(),
            mistake: Mistake::default(),
            stops: Stops::default(),
            passed: (0, 0),
            hit: None,
        }
    }

    fn now(&self) -> u64 {
        (self.state.position / 2).saturating_add(self.state.idle_ns)
    }

    fn fire(&mut self) {
        let now = self.now();
        if self.state.timer.is_some_and(|at| at <= now) {
            self.state.timer = None;
            self.state.timer_pending = true;
        }
    }

    /// Inputs have priority over the timer, so it matters that interrupts are taken where they are due.
    fn take_interrupts(&mut self) {
        let s = &mut self.state;
        while s.masked == 0 && (s.input_pending || s.timer_pending) {
            s.halted = false;
            s.masked = 3;
            if s.input_pending {
                s.input_pending = false;
                let sum: u64 = s.received.drain(..).map(u64::from).sum();
                s.registers[1] = s.registers[1].wrapping_mul(31).wrapping_add(sum + 7);
            } else {
                s.timer_pending = false;
                s.registers[1] = s.registers[1].wrapping_mul(37).wrapping_add(1);
            }
        }
    }

    /// Where the toy's next instruction lies: changes with each instruction and with interrupts.
    fn rip(&self) -> u64 {
        (self.state.registers[0] ^ self.state.registers[1]) >> 20 & 0xff
    }

    fn print(&mut self, byte: u8) {
        self.output.push(Output::Serial { port: 0, bytes: vec![byte] });
    }

    fn step(&mut self) {
        let s = &mut self.state;
        s.masked = s.masked.saturating_sub(1);
        let mut random = Random(s.registers[0]);
        let drawn = random.next();
        s.registers[0] = random.0;
        s.registers[2] = s.registers[2].rotate_left(7) ^ drawn ^ s.registers[1];
        s.wide[0] = s.wide[0].wrapping_mul(3).wrapping_add(u128::from(drawn) << 64);
        s.position += 1;
        let now = s.position / 2 + s.idle_ns;
        match drawn >> 54 {
            0..16 => {
                let address = 0x10_0000 + (drawn & 0xf_ffff);
                let value = [s.registers[2] as u8];
                self.ram.write_by_cpu(Gpa(address), &value).unwrap();
                let watched = |watch: &&Watchpoint| {
                    (watch.start.0..watch.start.0 + watch.bytes).contains(&address)
                };
                if let Some(index) = self.stops.watchpoints.iter().position(|w| watched(&w)) {
                    let (address, kind) = (Gva(address), WatchKind::Write);
                    self.hit = Some(Stop::Watchpoint { index, address, kind });
                }
            }
            16..20 => self.print(b'a' + (drawn & 15) as u8),
            20..24 if s.timer.is_none() => s.timer = Some(now + 1 + (drawn & 0x3ff)),
            24..27 if s.timer.is_some() => s.halted = true,
            27 if s.position > 3000 => s.halted = true,
            28 if s.position > 20_000 => s.end = Some(End::DebugExit(drawn as u32)),
            _ => {}
        }
        if self.state.halted {
            self.state.masked = 0;
        }
        if self.state.position == self.mistake.at {
            match self.mistake.what {
                What::None => {}
                What::Register => self.state.registers[3] ^= 0x10,
                What::Wide => self.state.wide[1] ^= 1 << 90,
                What::Ram => self.ram.write_by_cpu(Gpa(0x18_0123), &[0xee]).unwrap(),
                What::Output => self.print(b'!'),
                What::EndsEarly => self.state.end = Some(End::TripleFault),
                What::Hangs => {
                    self.state.timer = None;
                    self.state.timer_pending = false;
                    self.state.halted = true;
                }
            }
        }
    }
}

impl Guest for Toy {
    type State = ToyState;

    fn position(&self) -> Position {
        Position(self.state.position)
    }
    fn guest_ns(&self) -> GuestNs {
        GuestNs(self.now())
    }
    fn run(&mut self, until: Position) -> Stop {
        self.passed = (self.state.position, self.rip());
        self.hit = None;
        loop {
            if let Some(end) = self.state.end {
                return Stop::End(end);
            }
            self.fire();
            self.take_interrupts();
            if let Some(hit) = self.hit {
                return hit;
            }
            if let Some(at) = self.breakpoint_here()
                && self.passed != (self.state.position, at.0)
            {
                return Stop::Breakpoint { at };
            }
            if self.state.halted {
                return Stop::Idle { wake: self.state.timer.map(GuestNs) };
            }
            if self.state.position >= until.0 {
                return Stop::Limit;
            }
            self.step();
        }
    }
    fn idle_until(&mut self, limit: GuestNs) -> Idle {
        let pending = self.state.timer_pending || self.state.input_pending;
        if !self.state.halted || pending {
            return Idle::Runnable;
        }
        let target = self.state.timer.map_or(limit.0, |at| at.min(limit.0));
        self.state.idle_ns += target.saturating_sub(self.now());
        self.fire();
        if self.state.timer_pending { Idle::Runnable } else { Idle::Waiting }
    }
    fn apply(&mut self, input: &Input) {
        match input {
            Input::Serial { bytes, .. } => {
                self.state.received.extend(bytes);
                self.state.input_pending = true;
            }
            Input::PowerButton => self.state.end = Some(End::PowerOff),
            Input::Key { code, .. } => self.state.registers[3] += u64::from(*code),
            Input::Mouse { right, .. } => self.state.registers[3] ^= *right as u64,
            Input::WriteRegisters { values } | Input::WriteRegistersOf { values, .. } => {
                for (_, value) in values {
                    self.state.wide[1] = self.state.wide[1].wrapping_mul(5) ^ value;
                }
            }
            Input::WriteMemory { at, bytes } => {
                let _ = self.ram.write(*at, bytes);
            }
            Input::Deliveries { .. }
            | Input::Landmark { .. }
            | Input::Time { .. }
            | Input::Counted { .. }
            | Input::Frames { .. }
            | Input::Link { .. } => {}
        }
    }
    fn deliveries(&self) -> u32 {
        self.state.deliveries()
    }
    fn take_output(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.output)
    }
    fn save(&self) -> ToyState {
        self.state.clone()
    }
    fn ram(&self) -> &GuestRam {
        &self.ram
    }
    fn ram_mut(&mut self) -> &mut GuestRam {
        &mut self.ram
    }
}

impl Rewind for Toy {
    fn restore(&mut self, state: &ToyState) -> Result<(), String> {
        self.state = state.clone();
        self.output.clear();
        Ok(())
    }
    fn set_stops(&mut self, stops: &Stops) {
        self.stops = stops.clone();
    }
    fn breakpoint_here(&self) -> Option<Gva> {
        let rip = self.rip();
        let here = !self.state.halted
            && self.stops.breakpoints.iter().any(|breakpoint| breakpoint.at.0 == rip);
        here.then_some(Gva(rip))
    }
    fn take_deliveries(&mut self, _: u32) -> Option<Stop> {
        None
    }
}

/// A world that draws everything from a seed.
pub struct RandomWorld {
    pub random: Random,
    /// Polls that bring inputs, in 1000.
    pub inputs: u64,
    /// Inputs brought.
    pub brought: u64,
    pub console: Vec<u8>,
    /// Idle waits are cut short at random.
    pub cuts: bool,
    /// A debugger writes registers and memory.
    pub debugger: bool,
    pub polls: u64,
}

impl RandomWorld {
    pub fn new(seed: u64) -> RandomWorld {
        RandomWorld {
            random: Random::new(seed ^ 0xabcd),
            inputs: 300,
            brought: 0,
            console: Vec::new(),
            cuts: true,
            debugger: false,
            polls: 0,
        }
    }
}

impl World for RandomWorld {
    fn poll(&mut self) -> Polled {
        self.polls += 1;
        let random = &mut self.random;
        let mut inputs = Vec::new();
        while random.below(1000) < self.inputs {
            inputs.push(match random.below(if self.debugger { 10 } else { 8 }) {
                0 => Input::Key { code: 0x1c, extended: false, pressed: true },
                1 => Input::Mouse { right: random.next() as i32, up: -1, wheel: 0, buttons: 1 },
                8 => Input::WriteRegisters {
                    values: vec![
                        (Register::Rip, random.next().into()),
                        (Register::Xmm(random.below(16) as u8), u128::from(random.next()) << 64),
                    ],
                },
                9 => Input::WriteMemory {
                    at: Gpa(0x10_0000 + random.below(0x1000)),
                    bytes: vec![random.next() as u8; 1 + random.below(5000) as usize],
                },
                _ => {
                    let bytes = (0..1 + random.below(20)).map(|_| random.next() as u8).collect();
                    Input::Serial { port: 0, bytes }
                }
            });
        }
        self.brought += inputs.len() as u64;
        let flush = random.below(4) == 0;
        let stop = self.polls > 3000;
        Polled { inputs, flush, stop }
    }
    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        if !self.cuts {
            return IdleAnswer::Until(wake.unwrap_or(GuestNs(now.0 + 5)));
        }
        match self.random.below(4) {
            0 => IdleAnswer::PollAgain,
            1 => IdleAnswer::Until(GuestNs(now.0 + self.random.below(200))),
            // Beyond the wake-up: the recorder must not let it pass so far.
            2 => IdleAnswer::Until(GuestNs(now.0 + 1_000_000)),
            _ => IdleAnswer::Until(wake.unwrap_or(GuestNs(now.0 + 50))),
        }
    }
    fn output(&mut self, output: &[Output]) {
        self.console.extend(bytes_of(output));
    }
    fn progress(&mut self, progress: Progress) {
        assert!(progress.log_bytes <= progress.file_bytes);
    }
}

pub fn bytes_of(output: &[Output]) -> Vec<u8> {
    let mut all = Vec::new();
    for piece in output {
        match piece {
            Output::Serial { bytes, .. } | Output::DebugConsole { bytes } => all.extend(bytes),
            Output::Frame { .. } => {}
        }
    }
    all
}

pub fn options(digest_interval: u64) -> RecordOptions {
    RecordOptions {
        header: Header {
            creator: "toy".into(),
            semantics: SEMANTICS,
            config: MachineConfig::new(RamLayout::new(RAM_BYTES).unwrap()),
            guest: vec![("kernel".into(), "toy".into())],
            digest_interval,
        },
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    }
}

/// As [`recording`], with a checkpoint every `interval` instructions.
pub fn recording_with_checkpoints(seed: u64, interval: u64) -> (Vec<u8>, Recorded) {
    recording_with_allowance(seed, interval, Some(64 << 20))
}

/// As [`recording_with_checkpoints`], with a bound on their bytes in the file.
pub fn recording_with_allowance(
    seed: u64,
    interval: u64,
    file_bytes: Option<u64>,
) -> (Vec<u8>, Recorded) {
    let mut file = Vec::new();
    let mut options = options(700);
    options.checkpoints =
        CheckpointPolicy { interval: CheckpointInterval::Every(interval), file_bytes };
    let mut world = RandomWorld::new(seed);
    let recorded = record(&mut Toy::new(seed), &mut world, &mut file, &options).unwrap();
    (file, recorded)
}

/// Records a toy guest in a random world.
pub fn recording(seed: u64, digest_interval: u64) -> (Vec<u8>, Recorded, RandomWorld) {
    recording_in(RandomWorld::new(seed), seed, digest_interval)
}

/// The same with a debugger.
pub fn debugged(seed: u64, digest_interval: u64) -> (Vec<u8>, Recorded, RandomWorld) {
    let world = RandomWorld { debugger: true, ..RandomWorld::new(seed) };
    recording_in(world, seed, digest_interval)
}

fn recording_in(
    mut world: RandomWorld,
    seed: u64,
    digest_interval: u64,
) -> (Vec<u8>, Recorded, RandomWorld) {
    let mut file = Vec::new();
    let recorded =
        record(&mut Toy::new(seed), &mut world, &mut file, &options(digest_interval)).unwrap();
    assert_eq!(recorded.file_bytes, file.len() as u64);
    (file, recorded, world)
}

/// Collects the console.
#[derive(Default)]
pub struct Console {
    pub bytes: Vec<u8>,
}

impl Observer for Console {
    fn output(&mut self, output: &[Output]) {
        self.bytes.extend(bytes_of(output));
    }
}

/// Positions after which a hostile recording is not followed any further.
pub const PATIENCE: u64 = 200_000;

/// Replays a file on a toy guest.
pub fn replay(file: &[u8], mistake: Mistake) -> Result<(Replayed, Toy, Vec<u8>), ReplayError> {
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let mut toy = Toy::from_state(replayer.start_state()?);
    replayer.load_pages(&mut toy)?;
    toy.mistake = mistake;
    let mut console = Console::default();
    let options = ReplayOptions { until: Some(Position(PATIENCE)), unverified: false };
    let replayed = replayer.run(&mut toy, &options, &mut console)?;
    Ok((replayed, toy, console.bytes))
}
