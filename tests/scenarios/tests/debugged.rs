//! A live machine under a debugger: what is written into it is replayed, whatever comes of it; stops,
//! steps and looks leave no trace.

use dejavm_cpu::{Breakpoint, SegReg, Stops, Tuning, WatchKind, Watchpoint};
use dejavm_images::ALL;
use dejavm_machine::{Input, Machine, MachineConfig, MachineState, Register};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    Advance, CheckpointPolicy, Direction, Hash128, Header, RecordOptions, Recorded, Recorder,
    ReplayOptions, SEMANTICS, Timeline, TimelineOptions, TimelineStop,
};
use dejavm_scenarios::{Desk, Random, SECOND_NS, TINY_RAM_BYTES, engines, ram_hash, replay, tiny};
use dejavm_units::{Gpa, GuestNs, Gva, Position};
use std::io::Cursor;

/// Nobody waits longer for a guest that was led astray.
const POSITIONS_MAX: u64 = 3_000_000;

fn options(config: MachineConfig) -> RecordOptions {
    let header = Header {
        creator: "dejavm-scenarios".to_owned(),
        semantics: SEMANTICS,
        config,
        guest: Vec::new(),
        digest_interval: 100_000,
    };
    let until = Some(Position(POSITIONS_MAX));
    RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    }
}

fn write(random: &mut Random) -> Input {
    match random.below(3) {
        0 => {
            let at = Gpa(random.below(TINY_RAM_BYTES + 0x2000));
            let bytes = (0..random.below(40)).map(|_| random.next_u64() as u8).collect();
            Input::WriteMemory { at, bytes }
        }
        _ => {
            let wide = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
            let value = wide >> random.below(128);
            let n = random.below(16) as u8;
            let value = match random.below(9) {
                0 => (Register::Rip, value >> 90),
                1 => (Register::Rflags, value),
                2 => (Register::FsBase, value),
                3 => (Register::Xmm(n), value),
                4 => (Register::Mxcsr, value),
                5 => (Register::X87(n & 7), value),
                _ => (Register::General(n), value & u128::from(u64::MAX)),
            };
            Input::WriteRegisters { values: vec![value] }
        }
    }
}

/// Where the machine is about to execute.
fn linear(machine: &Machine) -> Gva {
    let state = machine.cpu_state();
    let base = if state.efer & dejavm_cpu::control::EFER_LMA != 0 {
        0
    } else {
        state.seg[SegReg::Cs as usize].base
    };
    Gva(base.wrapping_add(state.rip))
}

/// Breakpoints where the machine was, watchpoints where its stack was.
fn random_stops(random: &mut Random, seen: &[(Gva, u64)]) -> Stops {
    let mut stops = Stops::default();
    for _ in 0..random.below(4).min(seen.len() as u64) {
        let (at, stack) = seen[random.below(seen.len() as u64) as usize];
        if random.below(2) == 0 {
            stops.breakpoints.push(Breakpoint { at, space: None });
        } else {
            let kind =
                [WatchKind::Write, WatchKind::Read, WatchKind::Access][random.below(3) as usize];
            let start = Gva(stack.wrapping_sub(random.below(64)));
            let bytes = 1 + random.below(32);
            stops.watchpoints.push(Watchpoint { start, bytes, kind, space: None });
        }
    }
    stops
}

/// Stopped how often, and the recording.
struct Session {
    stopped: u64,
    inputs: u64,
    file: Vec<u8>,
    recorded: Recorded,
    state: MachineState,
    ram: Hash128,
    console: Vec<u8>,
}

/// Records a guest with a debugger that stops, steps, looks; writes so often as allowed.
fn session(elf: &[u8], random: &mut Random, stops: bool, writes: u64) -> Session {
    let config = MachineConfig::new(RamLayout::new(TINY_RAM_BYTES).expect("a size"));
    // A guest that was led astray may sleep for ever.
    let mut desk = Desk::new().stopping_at(GuestNs(20 * SECOND_NS));
    let mut file = Vec::new();
    let mut machine = tiny(elf);
    let mut recorder =
        Recorder::new(&mut machine, &mut file, &options(config)).expect("memory takes all");
    let (mut stopped, mut inputs) = (0, 0);
    let mut seen = Vec::new();
    let recorded = loop {
        let far = if random.below(4) == 0 { 1 } else { 1 + random.below(20_000) };
        let limit = Position(recorder.now().position.0 + far);
        let debugged = stops || writes > 0;
        let advance = recorder.advance(&mut desk, debugged.then_some(limit));
        let look = match advance.expect("memory takes all") {
            Advance::Running => false,
            Advance::Limit => true,
            Advance::Stopped(_) => {
                stopped += 1;
                // A stop in a loop is left behind after a while.
                if stopped % 16 == 0 {
                    recorder.guest_mut().set_stops(&Stops::default());
                }
                true
            }
            Advance::Ended(ending) => {
                break recorder.finish(&mut desk, ending).expect("memory takes all");
            }
        };
        if !look {
            continue;
        }
        if inputs < writes && random.below(4) == 0 {
            recorder.enter(write(random)).expect("memory takes all");
            inputs += 1;
        }
        let stack = recorder.guest().cpu_state().gpr[dejavm_cpu::gpr::RSP];
        seen.push((linear(recorder.guest()), stack));
        if stops && random.below(8) == 0 {
            let stops = random_stops(random, &seen);
            recorder.guest_mut().set_stops(&stops);
        }
    };
    let (state, ram) = (machine.save(), ram_hash(&machine));
    let console = desk.output_bytes().to_vec();
    Session { stopped, inputs, file, recorded, state, ram, console }
}

impl Session {
    fn assert_replays(&self, context: &str) {
        let one_slot = Tuning { tlb_slots: 1, ..Tuning::default() };
        for tuning in engines().into_iter().chain([one_slot]) {
            let replay = replay(&self.file, tuning, &ReplayOptions::default())
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            assert_eq!(replay.replayed.at, self.recorded.at, "{context}");
            assert_eq!(replay.replayed.ending, Some(self.recorded.ending), "{context}");
            assert!(replay.replayed.inputs >= self.inputs, "{context}");
            assert!(replay.state == self.state, "{context}: the final state differs");
            assert_eq!(replay.ram, self.ram, "{context}");
            assert!(replay.console == self.console, "{context}: the console differs");
        }
    }
}

#[test]
fn stops_steps_and_looks_leave_no_trace() {
    let seed = 0x7374_6f70;
    let mut stopped = 0;
    // Nobody types, so those that wait for keys would wait for ever.
    for (name, elf) in ALL.iter().filter(|(name, _)| !["desk", "echo"].contains(name)) {
        let plain = session(elf, &mut Random::new(seed), false, 0);
        for round in 0..6 {
            let context = format!("seed {seed:#x}, {name}, round {round}");
            let debugged = session(elf, &mut Random::new(seed + round), true, 0);
            debugged.assert_replays(&context);
            assert_eq!(debugged.recorded.at, plain.recorded.at, "{context}");
            assert_eq!(debugged.recorded.ending, plain.recorded.ending, "{context}");
            assert_eq!(debugged.recorded.digest, plain.recorded.digest, "{context}");
            assert!(debugged.state == plain.state, "{context}: the final state differs");
            assert_eq!(debugged.ram, plain.ram, "{context}");
            assert!(debugged.console == plain.console, "{context}: the console differs");
            stopped += debugged.stopped;
        }
    }
    assert!(stopped > 500, "{stopped}");
}

#[test]
fn random_writes_into_a_live_machine_replay() {
    let seed = 0x6465_6275;
    let mut stopped = 0;
    let mut endings = std::collections::BTreeMap::new();
    for (name, elf) in ALL {
        for round in 0..12 {
            let context = format!("seed {seed:#x}, {name}, round {round}");
            let session = session(elf, &mut Random::new(seed + round), round % 2 == 0, 1 + round);
            session.assert_replays(&context);
            *endings.entry(format!("{:?}", session.recorded.ending)).or_insert(0) += 1;
            stopped += session.stopped;
        }
    }
    // Some guests survive, some do not.
    assert!(endings.len() > 2 && stopped > 500, "{endings:?}, {stopped} stops");
    assert!(endings.contains_key("Guest(TripleFault)"), "{endings:?}");
}

#[test]
fn a_timeline_stands_anywhere_in_what_a_debugger_wrote() {
    let seed = 0x7469_6d65;
    for (name, elf) in ALL {
        for round in 0..4 {
            let context = format!("seed {seed:#x}, {name}, round {round}");
            let mut random = Random::new(seed + round);
            let session = session(elf, &mut random, round % 2 == 0, 4 + round);
            let options = TimelineOptions { spacing: 50_000, ..TimelineOptions::default() };
            let mut timeline = Timeline::open(Cursor::new(&session.file), options)
                .unwrap_or_else(|error| panic!("{context}: {error}"));
            let end = timeline.end();
            assert_eq!(end, session.recorded.at.position, "{context}");
            let places: Vec<Position> =
                (0..6).map(|_| Position(random.below(end.0 + 1))).chain([end]).collect();
            let mut ascending = places.clone();
            ascending.sort_unstable();
            let mut states = std::collections::BTreeMap::new();
            for at in ascending {
                timeline.seek(at).unwrap_or_else(|error| panic!("{context}, to {at}: {error}"));
                states.insert(at, (timeline.machine().save(), ram_hash(timeline.machine())));
            }
            for at in places.iter().rev() {
                timeline.seek(*at).unwrap_or_else(|error| panic!("{context}, to {at}: {error}"));
                let again = (timeline.machine().save(), ram_hash(timeline.machine()));
                assert!(again == states[at], "{context}: another state at {at}");
            }
        }
    }
}

/// Where the gate of vector 14 leads, once the guest has set it.
fn page_fault_handler(elf: &'static [u8]) -> Gva {
    let mut machine = tiny(elf);
    loop {
        machine.run(Position(machine.position().0 + 100));
        let mut gate = [0; 8];
        let at = machine.cpu_state().idtr.base + 14 * 8;
        assert_eq!(machine.read_virtual(Gva(at), None, &mut gate), gate.len());
        if gate[5] & 0x80 != 0 {
            return Gva(u32::from_le_bytes([gate[0], gate[1], gate[6], gate[7]]).into());
        }
    }
}

/// Records a guest; a debugger stops in the handler and, if it is to, writes where nobody looks. Also where the frames of
/// the exceptions were.
fn stopped_in_handler(elf: &[u8], handler: Gva, writes: bool) -> (Vec<u8>, Vec<u64>) {
    let config = MachineConfig::new(RamLayout::new(TINY_RAM_BYTES).expect("a size"));
    let (mut desk, mut file, mut machine) = (Desk::new(), Vec::new(), tiny(elf));
    let mut recorder =
        Recorder::new(&mut machine, &mut file, &options(config)).expect("memory takes all");
    let breakpoints = vec![Breakpoint { at: handler, space: None }];
    recorder.guest_mut().set_stops(&Stops { breakpoints, ..Stops::default() });
    let mut frames = Vec::new();
    loop {
        match recorder.advance(&mut desk, None).expect("memory takes all") {
            Advance::Running | Advance::Limit => {}
            Advance::Stopped(_) => {
                assert_eq!(recorder.guest().deliveries(), 1);
                frames.push(recorder.guest().cpu_state().gpr[dejavm_cpu::gpr::RSP]);
                if writes {
                    let at = Gpa(TINY_RAM_BYTES - 0x1000);
                    recorder.enter(Input::WriteMemory { at, bytes: vec![0; 8] }).unwrap();
                }
            }
            Advance::Ended(ending) => {
                recorder.finish(&mut desk, ending).expect("memory takes all");
                return (file, frames);
            }
        }
    }
}

/// All stops of a timeline from end to end, and where it stood then.
fn stops_of(file: &[u8], direction: Direction, stops: &Stops) -> Vec<(TimelineStop, Position)> {
    let options = TimelineOptions { spacing: 50_000, ..TimelineOptions::default() };
    let mut timeline = Timeline::open(Cursor::new(file), options).unwrap();
    if direction == Direction::Backward {
        timeline.seek(timeline.end()).unwrap();
    }
    let mut all = Vec::new();
    loop {
        let stop = timeline.run(direction, None, stops, &mut |_, _| true, &mut |_| true).unwrap();
        if matches!(stop, TimelineStop::Start | TimelineStop::End) {
            return all;
        }
        all.push((stop, timeline.now().position));
        assert!(all.len() < 1000, "it stops for ever: {stop:?}");
    }
}

/// Between an exception and what a debugger wrote in its handler, the recording says how far the machine was. What a
/// timeline is to stop for, it sees there too: the handler's first instruction, and what the exception pushed.
#[test]
fn a_timeline_stops_where_a_debugger_wrote_in_a_handler() {
    let elf = dejavm_images::PAGING;
    let handler = page_fault_handler(elf);
    let (plain, _) = stopped_in_handler(elf, handler, false);
    let (written, frames) = stopped_in_handler(elf, handler, true);
    assert!(frames.len() >= 2, "{frames:x?}");
    let breakpoints = vec![Breakpoint { at: handler, space: None }];
    // Error code, EIP, CS and EFLAGS.
    let watchpoints: Vec<Watchpoint> = frames
        .iter()
        .map(|frame| Watchpoint {
            start: Gva(*frame),
            bytes: 16,
            kind: WatchKind::Write,
            space: None,
        })
        .collect();
    let both = Stops { breakpoints: breakpoints.clone(), watchpoints: watchpoints.clone() };
    for (what, stops) in [
        ("breakpoints", Stops { breakpoints, ..Stops::default() }),
        ("watchpoints", Stops { watchpoints, ..Stops::default() }),
        ("both", both),
    ] {
        for direction in [Direction::Forward, Direction::Backward] {
            let expected = stops_of(&plain, direction, &stops);
            assert!(expected.len() >= frames.len(), "{what}, {direction:?}: {expected:?}");
            assert_eq!(stops_of(&written, direction, &stops), expected, "{what}, {direction:?}");
        }
    }
}
