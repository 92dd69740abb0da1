//! Standing anywhere in a recording of a real machine: what a replay that never turned shows.

use dejavm_machine::{
    Breakpoint, CpuState, Idle, Input, Machine, MachineState, Stop, Stops, WatchKind, Watchpoint,
};
use dejavm_replay::{
    Advance, CheckpointInterval, CheckpointPolicy, Chunk, Direction, Hash128, Header, Moment,
    Reader, RecordOptions, Recorder, Replayer, SEMANTICS, Stamped, Timeline, TimelineOptions,
    TimelineStop,
};
use dejavm_scenarios::{
    Debian, Desk, Kernel, Random, SECOND_NS, Tape, Typing, ram_hash, rebuild, tape_with, tiny,
};
use dejavm_units::{GuestNs, Gva, Position};
use std::io::Cursor;

/// A replay that only goes forward and knows nothing of timelines.
struct Forward {
    machine: Machine,
    inputs: std::iter::Peekable<std::vec::IntoIter<Stamped>>,
}

impl Forward {
    fn new(file: &[u8]) -> Forward {
        let mut replayer = Replayer::open(Cursor::new(file)).unwrap();
        let machine = rebuild(&mut replayer).unwrap();
        let mut inputs = Vec::new();
        let mut reader = Reader::new(Cursor::new(file)).unwrap();
        while let Some(located) = reader.next_chunk().unwrap() {
            if let Chunk::Inputs(batch) = located.chunk {
                inputs.extend(batch);
            }
        }
        let mut forward = Forward { machine, inputs: inputs.into_iter().peekable() };
        forward.machine.run(forward.machine.position());
        forward
    }

    fn now(&self) -> Moment {
        Moment { position: self.machine.position(), guest_ns: self.machine.guest_ns() }
    }

    /// Arrives at a position, or stops on the way; whether the machine was arriving where it stops.
    fn go(&mut self, target: Position) -> Option<(Stop, bool)> {
        while self.machine.position() < target {
            let here = self.machine.position();
            let due = self.inputs.peek().map(|input| input.at);
            let limit = due.map_or(target, |due| due.position.min(target));
            let stop = self.machine.run(limit);
            let now = self.now();
            match stop {
                Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                    // Faults deliver at a position that the machine has arrived at.
                    let arriving = now.position != here && self.machine.deliveries() == 0;
                    return Some((stop, arriving));
                }
                _ if due == Some(now) && now.position == here => {
                    self.machine.apply(&self.inputs.next().unwrap().input);
                }
                Stop::Idle { wake } if now.position < target => {
                    let limit = due.filter(|due| due.position == now.position);
                    let limit = limit.map(|due| due.guest_ns).or(wake).unwrap();
                    let (Idle::Runnable | Idle::Waiting) = self.machine.idle_until(limit);
                }
                _ => {}
            }
        }
        None
    }
}

#[derive(PartialEq)]
struct Shown {
    state: MachineState,
    ram: Hash128,
}

fn shown(machine: &Machine) -> Shown {
    Shown { state: machine.save(), ram: ram_hash(machine) }
}

fn open(file: &[u8], memory_bytes: u64, spacing: u64) -> Timeline<Cursor<&[u8]>> {
    Timeline::open(Cursor::new(file), TimelineOptions { memory_bytes, spacing }).unwrap()
}

fn tiny_tape(name: &str, script: Vec<Typing>) -> Tape {
    let (_, image) = dejavm_images::ALL.iter().find(|(known, _)| *known == name).unwrap();
    let machine = tiny(image);
    let ram = machine.ram().layout();
    let config = dejavm_machine::MachineConfig::new(ram);
    let policy = CheckpointPolicy {
        interval: CheckpointInterval::Every(60_000),
        file_bytes: Some(64 << 20),
    };
    let mut desk = Desk::with_script(script);
    tape_with(machine, config, &mut desk, 50_000, Some(Position(400_000)), policy)
}

/// Stops that the guest really meets: some of its instructions, and where its stack was.
fn stops(file: &[u8], end: u64, random: &mut Random) -> Stops {
    let mut forward = Forward::new(file);
    let mut stops = Stops::default();
    let mut at: Vec<u64> = (0..4).map(|_| random.below(end)).collect();
    at.sort_unstable();
    for position in at {
        forward.go(Position(position));
        let CpuState { rip, seg, gpr, .. } = forward.machine.cpu_state();
        let at = Gva(seg[1].base.wrapping_add(rip));
        stops.breakpoints.push(Breakpoint { at, space: None });
        let start = Gva(gpr[4].wrapping_sub(8));
        let kind = [WatchKind::Write, WatchKind::Access][random.below(2) as usize];
        stops.watchpoints.push(Watchpoint { start, bytes: 8, kind, space: None });
    }
    // Guests of ours spin: two of each are enough.
    stops.breakpoints.truncate(2);
    stops.watchpoints.truncate(1);
    stops
}

/// The hits of a run from the start, at most so many, and where they end.
fn hits(file: &[u8], end: u64, stops: &Stops, most: usize) -> (Vec<(Stop, Shown)>, u64) {
    let mut forward = Forward::new(file);
    forward.machine.set_stops(stops);
    let mut hits = Vec::new();
    if let Some(at) = forward.machine.breakpoint_here() {
        hits.push((Stop::Breakpoint { at }, shown(&forward.machine)));
    }
    while let Some((stop, _)) = forward.go(Position(end)) {
        hits.push((stop, shown(&forward.machine)));
        if hits.len() == most {
            return (hits, forward.machine.position().0);
        }
    }
    (hits, end)
}

fn reason(stop: Stop) -> TimelineStop {
    match stop {
        Stop::Breakpoint { at } => TimelineStop::Breakpoint { at },
        Stop::Watchpoint { index, address, kind } => {
            TimelineStop::Watchpoint { index, address, kind }
        }
        Stop::Limit | Stop::Idle { .. } | Stop::End(_) => panic!("no stop"),
    }
}

#[test]
fn tiny_guests_are_walked_over_at_random() {
    let seed = 3;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for (name, script) in [
        ("timer", vec![]),
        ("paging", vec![]),
        ("modes", vec![]),
        ("echo", vec![Typing::new("", 1000, "hello, "), Typing::new("", 70_000, "world q")]),
    ] {
        let tape = tiny_tape(name, script);
        let end = tape.recorded.at.position.0;
        let mut timeline = open(&tape.file, 2 << 20, 20_000);
        assert_eq!(timeline.end(), Position(end));
        for operation in 0..40 {
            let here = timeline.now().position.0;
            let expected = match random.below(5) {
                0 | 1 => {
                    let target = random.below(end + 1);
                    timeline.seek(Position(target)).unwrap();
                    target
                }
                2 => {
                    timeline.step(Direction::Forward, 7).unwrap();
                    (here + 7).min(end)
                }
                _ => {
                    let count = 1 + random.below(3000);
                    timeline.step(Direction::Backward, count).unwrap();
                    here.saturating_sub(count)
                }
            };
            let mut forward = Forward::new(&tape.file);
            assert!(forward.go(Position(expected)).is_none());
            let why = format!("seed {seed}, {name}, operation {operation}, position {expected}");
            assert_eq!(timeline.now(), forward.now(), "{why}");
            assert!(shown(timeline.machine()) == shown(&forward.machine), "{why}");
        }
    }
}

#[test]
fn tiny_guests_stop_backwards_where_they_stopped_forwards() {
    let seed = 4;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut compared = 0;
    for name in ["timer", "paging", "modes", "timer", "paging"] {
        let tape = tiny_tape(name, vec![]);
        let end = tape.recorded.at.position.0;
        let stops = stops(&tape.file, end, &mut random);
        let (hits, last) = hits(&tape.file, end, &stops, 60);
        let why = format!("seed {seed}, {name}");
        let mut timeline = open(&tape.file, 64 << 20, 10_000);
        let mut all = |_: &Machine, _: &Stop| true;
        // Forwards.
        let first = usize::from(timeline.machine().breakpoint_here().is_some());
        let mut skip = first;
        if let Some((Stop::Breakpoint { .. }, met)) = hits.first()
            && met.state.cpu.position == Position(0)
        {
            skip = 1;
        }
        for (n, (stop, met)) in hits.iter().enumerate().skip(skip) {
            let got =
                timeline.run(Direction::Forward, None, &stops, &mut all, &mut |_| true).unwrap();
            assert_eq!(got, reason(*stop), "{why}, hit {n} of {}", hits.len());
            assert!(shown(timeline.machine()) == *met, "{why}, hit {n}");
            compared += 1;
        }
        // Backwards, from just behind the last.
        timeline.seek(Position((last + 1).min(end))).unwrap();
        for (n, (stop, met)) in hits.iter().enumerate().rev() {
            let position = met.state.cpu.position;
            if position > timeline.now().position {
                continue;
            }
            let got =
                timeline.run(Direction::Backward, None, &stops, &mut all, &mut |_| true).unwrap();
            match stop {
                Stop::Breakpoint { .. } => {
                    assert_eq!(got, reason(*stop), "{why}, hit {n} of {}", hits.len());
                    assert!(shown(timeline.machine()) == *met, "{why}, hit {n}");
                }
                _ => {
                    // Before the access: and one step on, or a fault further, it has happened.
                    let TimelineStop::Watchpoint { index, address, kind } = got else {
                        panic!("{why}, hit {n}: {got:?}");
                    };
                    assert_eq!(Stop::Watchpoint { index, address, kind }, *stop, "{why}, hit {n}");
                    let at = timeline.now().position;
                    assert!(at == position || at.0 + 1 == position.0, "{why}, hit {n}");
                    let mut forward = Forward::new(&tape.file);
                    forward.go(at);
                    assert!(shown(timeline.machine()) == shown(&forward.machine), "{why}, {n}");
                    forward.machine.set_stops(&stops);
                    let (again, _) = forward.go(position.max(Position(at.0 + 1))).unwrap();
                    assert_eq!(again, *stop, "{why}, hit {n}");
                }
            }
            compared += 1;
        }
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn a_branch_is_recorded_as_a_recording_of_its_own() {
    let script = vec![Typing::new("", 1000, "hello "), Typing::new("", 90_000_000, "q")];
    let tape = tiny_tape("echo", script);
    let mut timeline = open(&tape.file, 64 << 20, 10_000);
    // Halted, where the last key came.
    let mut forward = Forward::new(&tape.file);
    let start = forward.inputs.by_ref().last().unwrap().at.position;
    timeline.seek(start).unwrap();
    let parent = timeline.as_parent("echo.dvr").unwrap();
    let branch = timeline.branch().unwrap();
    assert!(shown(&branch) == shown(timeline.machine()));

    let options = RecordOptions {
        header: Header {
            creator: "branch".into(),
            semantics: SEMANTICS,
            config: timeline.header().config.clone(),
            guest: Vec::new(),
            digest_interval: 10_000,
        },
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy {
            interval: CheckpointInterval::Every(5_000),
            file_bytes: Some(64 << 20),
        },
        parent: Some(parent.clone()),
    };
    let mut file = Vec::new();
    let mut recorder = Recorder::new(branch, &mut file, &options).unwrap();
    let mut desk = Desk::with_script([Typing::new("", 100, "another way q")]);
    desk = desk.stopping_at(GuestNs(timeline.now().guest_ns.0 + 10 * SECOND_NS));
    recorder.enter(Input::Serial { port: 0, bytes: b"x".to_vec() }).unwrap();
    let ending = loop {
        if let Advance::Ended(ending) = recorder.advance(&mut desk, None).unwrap() {
            break ending;
        }
    };
    let recorded = recorder.finish(&mut desk, ending).unwrap();
    assert!(desk.console().contains("ANOTHER WAY"), "{}", desk.console());
    assert!(recorded.at.position > start);

    let replay = dejavm_scenarios::replay(&file, Default::default(), &Default::default()).unwrap();
    assert_eq!(replay.replayed.at, recorded.at);
    assert_eq!(replay.replayed.last_digest, Some(recorded.digest));
    let summary = dejavm_replay::Summary::read(Cursor::new(&file)).unwrap();
    assert_eq!(summary.parent, Some(parent));

    let mut branch = open(&file, 64 << 20, 3_000);
    assert_eq!((branch.start(), branch.end()), (start, recorded.at.position));
    let mut random = Random::new(9);
    for _ in 0..20 {
        let length = branch.end().0 - start.0;
        let position = Position(start.0 + random.below(length + 1));
        branch.seek(position).unwrap();
        let mut forward = Forward::new(&file);
        forward.go(position);
        assert!(shown(branch.machine()) == shown(&forward.machine), "{position}");
    }
    branch.seek(Position(0)).unwrap();
    assert_eq!(branch.now().position, start);
    assert_eq!(branch.step(Direction::Backward, 1).unwrap(), TimelineStop::Start);
}

#[test]
fn debian_is_the_same_whichever_way_one_comes() {
    let guest = Debian::new(Kernel::Cloud, "demo");
    let mut desk = Desk::new();
    // Some of thousands of pages, packed in many batches.
    let policy = CheckpointPolicy {
        interval: CheckpointInterval::Every(100 << 20),
        file_bytes: Some(256 << 20),
    };
    let tape = tape_with(guest.boot(), guest.config(), &mut desk, 1 << 28, None, policy);
    let end = tape.recorded.at.position.0;
    let seed = 8;
    println!("seed {seed}, {end} instructions");
    let mut random = Random::new(seed);
    let mut positions: Vec<u64> = (0..24).map(|_| random.below(end)).chain([0, end]).collect();
    positions.sort_unstable();
    let mut forward = Forward::new(&tape.file);
    let mut known = Vec::new();
    for &position in &positions {
        assert!(forward.go(Position(position)).is_none());
        known.push(shown(&forward.machine));
    }
    let memory = 96 << 20;
    let mut timeline = open(&tape.file, memory, 16 << 20);
    assert_eq!(timeline.notes(), [""; 0]);
    let in_file = timeline.checkpoint_count() as u64 - 1;
    assert!(in_file > 1 && in_file >= end / (100 << 20) - 1, "{in_file} in {end}");
    let mut watcher = |_: Moment| true;
    let mut nothing = |_: &Machine, _: &Stop| false;
    for operation in 0..40 {
        let n = random.below(positions.len() as u64) as usize;
        let target = Position(positions[n]);
        let near = 1 + random.below(5000);
        match random.below(4) {
            0 => {
                timeline.seek(target).unwrap();
            }
            1 => {
                timeline.seek(Position(target.0 + near)).unwrap();
                let count = timeline.now().position.0 - target.0;
                timeline.step(Direction::Backward, count).unwrap();
            }
            2 => {
                timeline.seek(Position(target.0.saturating_sub(near))).unwrap();
                let stops = Stops::default();
                timeline
                    .run(Direction::Forward, Some(target), &stops, &mut nothing, &mut watcher)
                    .unwrap();
            }
            _ => {
                timeline.seek(Position(target.0 + near)).unwrap();
                // Breakpoints that do not count must not matter.
                let state = timeline.machine().cpu_state();
                let at = Gva(state.rip);
                let stops =
                    Stops { breakpoints: vec![Breakpoint { at, space: None }], ..Stops::default() };
                timeline
                    .run(Direction::Backward, Some(target), &stops, &mut nothing, &mut watcher)
                    .unwrap();
            }
        }
        let why = format!("seed {seed}, operation {operation}, position {target}");
        assert_eq!(timeline.now().position, target, "{why}");
        assert!(shown(timeline.machine()) == known[n], "{why}");
        assert!(timeline.checkpoint_bytes() <= memory, "{why}");
    }
}
