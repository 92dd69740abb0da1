//! A timeline stands anywhere, and is there what a replay that never stopped is.

mod toy;

use dejavm_machine::{Breakpoint, Idle, Stop, Stops, WatchKind, Watchpoint};
use dejavm_memory::GuestRam;
use dejavm_replay::{
    Chunk, Direction, Guest, Hash128, Moment, Reached, Reader, Replayer, Rewind, Timeline,
    TimelineOptions, TimelineStop,
};
use dejavm_units::{Gva, Pfn, Position};
use std::io::Cursor;
use toy::{Mistake, Random, Toy, ToyState, recording, recording_with_checkpoints, replay};

/// A page's part of the sum that stands for all of RAM.
fn page_hash(ram: &GuestRam, pfn: Pfn) -> u128 {
    let mut page = [0; 4096 + 8];
    ram.read(pfn.gpa(), &mut page[..4096]).unwrap();
    page[4096..].copy_from_slice(&pfn.0.to_le_bytes());
    u128::from_le_bytes(Hash128::of(&page).0)
}

fn ram_hash(ram: &GuestRam) -> u128 {
    ram.pages().fold(0, |sum, pfn| sum.wrapping_add(page_hash(ram, pfn)))
}

/// A stop, and what the toy was then.
struct Met {
    stop: Stop,
    state: ToyState,
    ram: u128,
    /// When the toy arrived at the position, not while it stood there.
    arriving: bool,
}

/// What the toy is at rest at every position, and where it would stop, found by going there once, step by
/// step. Nothing of this uses the timeline.
struct Reference {
    states: Vec<ToyState>,
    rams: Vec<u128>,
    met: Vec<Met>,
}

impl Reference {
    fn of(file: &[u8], stops: &Stops) -> Reference {
        let mut replayer = Replayer::open(Cursor::new(file)).unwrap();
        let mut toy = Toy::from_state(replayer.start_state().unwrap());
        replayer.load_pages(&mut toy).unwrap();
        let mut inputs = Vec::new();
        let mut end = Position(0);
        let mut reader = Reader::new(Cursor::new(file)).unwrap();
        while let Some(located) = reader.next_chunk().unwrap() {
            match located.chunk {
                Chunk::Inputs(batch) => inputs.extend(batch),
                Chunk::End(chunk) => end = chunk.at.position,
                _ => {}
            }
        }
        let mut pages: Vec<u128> = toy.ram.pages().map(|pfn| page_hash(&toy.ram, pfn)).collect();
        let numbers: Vec<Pfn> = toy.ram.pages().collect();
        let mut sum = pages.iter().fold(0u128, |sum, page| sum.wrapping_add(*page));
        let mut reference = Reference { states: Vec::new(), rams: Vec::new(), met: Vec::new() };
        toy.set_stops(stops);
        let mut inputs = inputs.into_iter().peekable();
        toy.ram.take_dirty();
        toy.run(Position(0));
        loop {
            let mut ram_now = |toy: &mut Toy| {
                for pfn in toy.ram.take_dirty() {
                    let page = &mut pages[numbers.binary_search(&pfn).unwrap()];
                    sum = sum.wrapping_sub(*page);
                    *page = page_hash(&toy.ram, pfn);
                    sum = sum.wrapping_add(*page);
                }
                sum
            };
            let here = toy.position();
            assert_eq!(here.0, reference.states.len() as u64);
            reference.states.push(toy.save());
            reference.rams.push(ram_now(&mut toy));
            if here == end {
                assert_eq!(ram_now(&mut toy), ram_hash(&toy.ram));
                return reference;
            }
            while toy.position() == here {
                let due = inputs.peek().map(|input| input.at).filter(|at| at.position == here);
                let next = Position(here.0 + u64::from(due.is_none()));
                let stop = toy.run(next);
                let now = Moment { position: toy.position(), guest_ns: toy.guest_ns() };
                if let Stop::Breakpoint { .. } | Stop::Watchpoint { .. } = stop {
                    let arriving = now.position != here;
                    let (state, ram) = (toy.save(), ram_now(&mut toy));
                    reference.met.push(Met { stop, state, ram, arriving });
                } else if due == Some(now) {
                    toy.apply(&inputs.next().unwrap().input);
                } else if let (Stop::Idle { wake }, true) = (stop, toy.position() == here) {
                    let limit = due.map(|at| at.guest_ns).or(wake).unwrap();
                    let (Idle::Runnable | Idle::Waiting) = toy.idle_until(limit);
                }
            }
            toy.take_output();
        }
    }

    fn assert_at(&self, timeline: &Timeline<Cursor<&[u8]>, Toy>, position: u64, why: &str) {
        let toy = timeline.machine();
        assert_eq!(timeline.now().position, Position(position), "{why}");
        assert_eq!(toy.state, self.states[position as usize], "{why}");
        assert_eq!(ram_hash(&toy.ram), self.rams[position as usize], "{why}: RAM");
    }
}

fn timeline(file: &[u8], options: TimelineOptions) -> Timeline<Cursor<&[u8]>, Toy> {
    let mut replayer = Replayer::open(Cursor::new(file)).unwrap();
    let mut toy = Toy::from_state(replayer.start_state().unwrap());
    replayer.load_pages(&mut toy).unwrap();
    Timeline::new(replayer, toy, options).unwrap()
}

/// Small enough that checkpoints come and go.
fn tight() -> TimelineOptions {
    TimelineOptions { memory_bytes: 700 << 10, spacing: 500 }
}

#[test]
fn a_random_walk_finds_at_each_position_what_was_there() {
    let seed = 5;
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    for (guest, operations) in [(21, 5000), (22, 2500), (23, 2500)] {
        let (file, recorded, _) = recording(guest, 700);
        let reference = Reference::of(&file, &Stops::default());
        let end = recorded.at.position.0;
        let mut timeline = timeline(&file, tight());
        assert_eq!(timeline.end(), Position(end));
        let mut removed = false;
        for operation in 0..operations {
            let here = timeline.now().position.0;
            let why = format!("seed {seed}, guest {guest}, operation {operation}");
            let expected = match random.below(4) {
                0 => {
                    let target = random.below(end + end / 8);
                    let reached = timeline.seek(Position(target)).unwrap();
                    let expected = if target > end { Reached::End } else { Reached::Position };
                    assert_eq!(reached, expected, "{why}");
                    target.min(end)
                }
                1 => {
                    let count = 1 + random.below(100);
                    let stop = timeline.step(Direction::Forward, count).unwrap();
                    let beyond = here + count > end;
                    let expected = if beyond { TimelineStop::End } else { TimelineStop::Position };
                    assert_eq!(stop, expected, "{why}");
                    (here + count).min(end)
                }
                _ => {
                    let count = 1 + random.below(40);
                    let stop = timeline.step(Direction::Backward, count).unwrap();
                    let expected =
                        if count > here { TimelineStop::Start } else { TimelineStop::Position };
                    assert_eq!(stop, expected, "{why}");
                    here.saturating_sub(count)
                }
            };
            reference.assert_at(&timeline, expected, &why);
            assert!(timeline.checkpoint_bytes() <= tight().memory_bytes, "{why}");
            removed |= timeline.checkpoint_bytes() > tight().memory_bytes * 3 / 4;
        }
        assert!(removed, "the bound was never near: {} bytes", timeline.checkpoint_bytes());
    }
}

#[test]
fn a_start_too_large_for_memory_is_read_from_the_file() {
    let (file, recorded, _) = recording(21, 700);
    let reference = Reference::of(&file, &Stops::default());
    let end = recorded.at.position.0;
    let roomy = timeline(&file, TimelineOptions { memory_bytes: 16 << 20, spacing: 500 });
    // Any memory is less than twice what the start takes up.
    let mut timeline = timeline(&file, TimelineOptions { memory_bytes: 1, spacing: 500 });
    let (kept, left) = (roomy.checkpoint_bytes(), timeline.checkpoint_bytes());
    assert!(left < kept / 8, "{left} bytes of {kept}");
    for position in [end, 0, end / 2, 1, end / 3, 0, end] {
        timeline.seek(Position(position)).unwrap();
        reference.assert_at(&timeline, position, &format!("from the file, {position}"));
    }
}

/// What a stop is to the timeline.
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
fn runs_stop_where_a_run_that_never_turned_would_have_stopped() {
    let seed = 6;
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let mut kinds = [0; 6];
    for (guest, breakpoints, watched) in
        [(21, 12, 3000), (24, 1, 800), (25, 0, 30_000), (26, 3, 0), (27, 128, 500)]
    {
        let mut stops = Stops::default();
        for _ in 0..breakpoints {
            stops.breakpoints.push(Breakpoint { at: Gva(random.below(256)), space: None });
        }
        if watched > 0 {
            let start = Gva(0x10_0000 + random.below(0x8_0000));
            let watch = Watchpoint { start, bytes: watched, kind: WatchKind::Write, space: None };
            stops.watchpoints.push(watch);
        }
        let (file, recorded, _) = recording(guest, 900);
        let reference = Reference::of(&file, &stops);
        let end = recorded.at.position.0;
        let mut timeline = timeline(&file, tight());
        // The stop at which the timeline stands, if it stands further on than at an arrival.
        let mut standing: Option<usize> = None;
        for operation in 0..1500 {
            let why = format!("seed {seed}, guest {guest}, operation {operation}");
            let here = timeline.now().position.0;
            let modulus = random.below(4);
            let counts = |state: &ToyState| match modulus {
                0 => state.deliveries() > 0,
                modulus => state.position.is_multiple_of(modulus),
            };
            let met = reference.met.iter().enumerate();
            let met = met.filter(|(_, met)| counts(&met.state));
            let mut judge = |toy: &Toy, _: &Stop| counts(&toy.state);
            let mut watcher = |_| true;
            match random.below(5) {
                0 => {
                    let target = random.below(end + 1);
                    timeline.seek(Position(target)).unwrap();
                    reference.assert_at(&timeline, target, &why);
                    standing = None;
                }
                1 if standing.is_none() => {
                    timeline.step(Direction::Backward, 1).unwrap();
                    reference.assert_at(&timeline, here.saturating_sub(1), &why);
                }
                1 => {
                    timeline.step(Direction::Backward, 1).unwrap();
                    reference.assert_at(&timeline, here, &why);
                    standing = None;
                }
                2 | 3 => {
                    let until = random.below(2) == 0;
                    let until = until.then(|| here + random.below(3000));
                    let goal = until.unwrap_or(end).min(end);
                    let ahead = |index: usize, met: &Met| {
                        let position = met.state.position;
                        match standing {
                            Some(standing) => index > standing,
                            None => position > here || position == here && !met.arriving,
                        }
                    };
                    // A run to where it stands does not start.
                    let next = met.clone().find(|(index, met)| {
                        let position = met.state.position;
                        here < goal
                            && ahead(*index, met)
                            && (position < goal || position == goal && met.arriving)
                    });
                    let until = until.map(Position);
                    let stop = timeline
                        .run(Direction::Forward, until, &stops, &mut judge, &mut watcher)
                        .unwrap();
                    match next {
                        Some((index, met)) => {
                            assert_eq!(stop, reason(met.stop), "{why}");
                            assert_eq!(timeline.machine().state, met.state, "{why}");
                            assert_eq!(ram_hash(timeline.machine().ram()), met.ram, "{why}");
                            standing = (!met.arriving).then_some(index);
                            kinds[if met.arriving { 0 } else { 1 }] += 1;
                        }
                        None if here >= goal && standing.is_some() => {}
                        None => {
                            let expected = match until {
                                Some(until) if until.0 <= end => TimelineStop::Position,
                                _ => TimelineStop::End,
                            };
                            assert_eq!(stop, expected, "{why}");
                            reference.assert_at(&timeline, goal.max(here), &why);
                            standing = None;
                        }
                    }
                }
                _ => {
                    let until = random.below(2) == 0;
                    let until = until.then(|| here.saturating_sub(random.below(3000)));
                    let floor = until.unwrap_or(0);
                    // Where it stands before the stop, and whether that is an arrival.
                    let stand = |met: &Met| {
                        let position = met.state.position;
                        match met.stop {
                            Stop::Watchpoint { .. } => (position - u64::from(met.arriving), true),
                            _ => (position, met.arriving),
                        }
                    };
                    let behind = |index: usize, met: &Met| match standing {
                        Some(standing) => match met.stop {
                            Stop::Watchpoint { .. } => index <= standing,
                            _ => index < standing,
                        },
                        None => stand(met).0 < here,
                    };
                    let last = met
                        .clone()
                        .rfind(|(index, met)| behind(*index, met) && stand(met).0 >= floor);
                    let until = until.map(Position);
                    let stop = timeline
                        .run(Direction::Backward, until, &stops, &mut judge, &mut watcher)
                        .unwrap();
                    match last {
                        Some((index, met)) => {
                            assert_eq!(stop, reason(met.stop), "{why}");
                            let (position, arrival) = stand(met);
                            if arrival {
                                reference.assert_at(&timeline, position, &why);
                                standing = None;
                            } else {
                                assert_eq!(timeline.machine().state, met.state, "{why}");
                                assert_eq!(ram_hash(timeline.machine().ram()), met.ram, "{why}");
                                standing = Some(index);
                            }
                            kinds[if arrival { 2 } else { 3 }] += 1;
                        }
                        None => {
                            let expected = match until {
                                Some(_) => TimelineStop::Position,
                                None => TimelineStop::Start,
                            };
                            assert_eq!(stop, expected, "{why}");
                            reference.assert_at(&timeline, floor, &why);
                            standing = None;
                            kinds[4] += 1;
                        }
                    }
                }
            }
        }
    }
    eprintln!(
        "forward on arrival {}, later {}; backward {}, {}; start {}",
        kinds[0], kinds[1], kinds[2], kinds[3], kinds[4]
    );
    assert!(kinds[..5].iter().all(|&count| count > 20), "{kinds:?}");
}

/// Offsets and kinds of the frames, by the format's description.
fn frames(file: &[u8]) -> Vec<(usize, u16)> {
    let mut found = Vec::new();
    let mut at = 16;
    while at < file.len() {
        found.push((at, u16::from_le_bytes(file[at + 4..at + 6].try_into().unwrap())));
        at += 24 + u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    found
}

const INDEX: u16 = 10;
const CONTENTS: u16 = 11;
const CHECKPOINT: u16 = 12;

#[test]
fn checkpoints_in_the_file_are_what_was_there_and_change_nothing_else() {
    let seed = 31;
    let (file, recorded) = recording_with_checkpoints(seed, 1000);
    let (replayed, ..) = replay(&file, Mistake::default()).unwrap();
    assert_eq!(replayed.last_digest, Some(recorded.digest));

    let reference = Reference::of(&file, &Stops::default());
    let end = recorded.at.position.0;
    let count = frames(&file).iter().filter(|(_, kind)| *kind == CHECKPOINT).count() as u64;
    assert!((end / 1000 - 1..=end / 1000).contains(&count), "{count} in {end}");
    let opened = timeline(&file, tight());
    assert_eq!(opened.checkpoint_count() as u64, 1 + count);
    assert!(opened.notes().is_empty());
    // From the end backwards, so that each seek starts from the file's own.
    for position in (0..=end).rev().step_by(397) {
        let mut timeline = timeline(&file, tight());
        timeline.seek(Position(position)).unwrap();
        reference.assert_at(&timeline, position, &format!("straight to {position}"));
        timeline.step(Direction::Backward, 1).unwrap();
        reference.assert_at(&timeline, position.saturating_sub(1), &format!("before {position}"));
        timeline.seek(Position(end)).unwrap();
        reference.assert_at(&timeline, end, "the end");
        timeline.seek(Position(0)).unwrap();
        reference.assert_at(&timeline, 0, "the start");
    }
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let mut timeline = timeline(&file, tight());
    for operation in 0..500 {
        let position = random.below(end + 1);
        timeline.seek(Position(position)).unwrap();
        reference.assert_at(&timeline, position, &format!("seed {seed}, operation {operation}"));
    }
}

#[test]
fn damaged_checkpoints_cost_time_and_a_note_and_nothing_else() {
    let (file, recorded) = recording_with_checkpoints(33, 2000);
    let reference = Reference::of(&file, &Stops::default());
    let end = recorded.at.position.0;
    let frames = frames(&file);
    let mut noted = 0;
    for &(at, kind) in frames.iter().filter(|(_, kind)| matches!(*kind, CONTENTS | CHECKPOINT)) {
        // The payload damaged; its checksum repaired; a state or a content that is another.
        for (byte, repaired) in [(30, false), (25, true), (60, true), (90, true)] {
            let mut file = file.clone();
            let stored = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
            if byte >= 24 + stored {
                continue;
            }
            file[at + byte] ^= 0x55;
            if repaired {
                let crc = crc32c::crc32c(&file[at + 24..at + 24 + stored]);
                file[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
                let crc = crc32c::crc32c(&file[at..at + 20]);
                file[at + 20..at + 24].copy_from_slice(&crc.to_le_bytes());
            }
            let (replayed, ..) = replay(&file, Mistake::default()).unwrap();
            assert_eq!(replayed.at, recorded.at, "a replay needs none of this");
            let mut timeline = timeline(&file, tight());
            for position in [end, end / 2, 0, end - 1] {
                let sought = timeline.seek(Position(position));
                if repaired {
                    // Somebody wrote this file: it may diverge, but not panic.
                    continue;
                }
                sought.unwrap();
                reference.assert_at(&timeline, position, &format!("{kind} at {at}, byte {byte}"));
            }
            assert!(repaired || !timeline.notes().is_empty(), "{kind} at {at}, byte {byte}");
            noted += timeline.notes().len();
        }
    }
    assert!(noted > 20, "{noted} notes");
}

#[test]
fn a_killed_recorders_checkpoints_behind_the_log_do_not_count() {
    let (file, _) = recording_with_checkpoints(34, 1500);
    let reference = Reference::of(&file, &Stops::default());
    for (at, kind) in frames(&file).into_iter().skip(5) {
        let mut timeline = timeline(&file[..at], tight());
        let end = timeline.end();
        assert_eq!(timeline.cut_short().is_some(), kind != INDEX);
        assert_eq!(timeline.seek(Position(u64::MAX)).unwrap(), Reached::End);
        reference.assert_at(&timeline, end.0, &format!("cut at {at}"));
    }
}

#[test]
fn an_interrupted_way_ends_at_rest_and_can_be_continued() {
    // Slices are long and the toy is short: the watcher is asked where checkpoints are due.
    let (file, recorded, _) = recording(35, 700);
    let stops = Stops {
        breakpoints: (0..256).map(|at| Breakpoint { at: Gva(at), space: None }).collect(),
        ..Stops::default()
    };
    let reference = Reference::of(&file, &stops);
    let end = recorded.at.position;
    let mut timeline = timeline(&file, TimelineOptions { spacing: 100, ..tight() });
    let mut interruptions = 0;
    for patience in 0..30 {
        let mut left = patience;
        let mut watcher = |_: Moment| {
            left -= 1;
            left >= 0
        };
        if timeline.seek_watched(end, &mut watcher).unwrap() == Reached::Interrupted {
            interruptions += 1;
        }
        let here = timeline.now().position.0;
        reference.assert_at(&timeline, here, "forward");
        let mut left = patience;
        let mut watcher = |_: Moment| {
            left -= 1;
            left >= 0
        };
        let mut judge = |_: &Toy, _: &Stop| false;
        let stop =
            timeline.run(Direction::Backward, None, &stops, &mut judge, &mut watcher).unwrap();
        interruptions += usize::from(stop == TimelineStop::Interrupted);
        let here = timeline.now().position.0;
        reference.assert_at(&timeline, here, "backward");
    }
    assert!(interruptions > 30, "{interruptions}");
}

/// A recording with every kind that version 2 has, made when they were new.
const GOLDEN: &[u8] = include_bytes!("golden/toy-v2-checkpoints.dvr");

#[test]
fn the_golden_checkpoints_still_serve() {
    let fresh = concat!(env!("CARGO_TARGET_TMPDIR"), "/toy-v2-checkpoints.dvr");
    let (file, recorded) = recording_with_checkpoints(51, 4000);
    std::fs::write(fresh, &file).unwrap();
    let what_to_do = format!("if the format has changed: copy {fresh} beside the golden files");
    let reference = Reference::of(GOLDEN, &Stops::default());
    let mut timeline = timeline(GOLDEN, tight());
    assert_eq!(timeline.end(), recorded.at.position, "{what_to_do}");
    let starts: Vec<u64> = timeline.checkpoint_positions().map(|at| at.0).collect();
    assert_eq!(starts, (0..=recorded.at.position.0).step_by(4000).collect::<Vec<_>>());
    for position in starts.into_iter().rev() {
        timeline.seek(Position(position)).unwrap();
        reference.assert_at(&timeline, position, &what_to_do);
        assert_eq!(timeline.notes(), [""; 0], "{what_to_do}");
    }
}

/// The bound is what was asked for, however large the start state is.
#[test]
fn checkpoints_keep_to_their_allowance_and_spread_over_the_whole_recording() {
    let (seed, allowance) = (52, 12 << 10);
    let (file, recorded) = toy::recording_with_allowance(seed, 100, Some(allowance));
    let frames = frames(&file);
    let mut bytes = 0;
    let mut starts = Vec::new();
    for (n, &(at, kind)) in frames.iter().enumerate() {
        if matches!(kind, CONTENTS | CHECKPOINT) {
            bytes += frames.get(n + 1).map_or(file.len(), |next| next.0) - at;
        }
        if kind == CHECKPOINT {
            starts.push(at);
        }
    }
    assert_eq!(file.len() as u64, recorded.file_bytes);
    assert!(bytes as u64 <= allowance, "{bytes} of {allowance}");
    assert!(bytes as u64 > allowance / 2, "{bytes} of {allowance}");
    let timeline = timeline(&file, TimelineOptions::default());
    let positions: Vec<u64> = timeline.checkpoint_positions().map(|at| at.0).collect();
    let end = recorded.at.position.0;
    assert!(end - positions.last().unwrap() < end / 2, "{positions:?} of {end}");
    let gaps: Vec<u64> = positions.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.last() > gaps.first(), "{gaps:?}");
}
