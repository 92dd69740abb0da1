//! What was recorded is replayed, whatever entered and however time passed.

mod toy;

use dejavm_machine::{End, Input};
use dejavm_replay::{
    CutShort, Ending, IdleAnswer, Observer, Polled, Progress, ReplayOptions, Replayer, SEMANTICS,
    SEMANTICS_OLDEST, Summary, World, record,
};
use dejavm_units::{GuestNs, Position};
use std::io::{self, Cursor, Write};
use toy::{Mistake, RandomWorld, Toy, debugged, options, recording, replay};

#[test]
fn random_inputs_and_waits_replay_equal() {
    let (mut inputs, mut digests) = (0, 0);
    for seed in 0..300 {
        let make = if seed % 2 == 0 { recording } else { debugged };
        let (file, recorded, world) = make(seed, 700);
        let (replayed, toy, console) =
            replay(&file, Mistake::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(replayed.at, recorded.at, "seed {seed}");
        assert_eq!(replayed.ending, Some(recorded.ending), "seed {seed}");
        assert_eq!(replayed.cut_short, None, "seed {seed}");
        assert_eq!(replayed.inputs, world.brought, "seed {seed}");
        assert_eq!(console, world.console, "seed {seed}");
        assert_eq!(replayed.console, recorded.console, "seed {seed}");
        assert_eq!(replayed.last_digest.as_ref(), Some(&recorded.digest), "seed {seed}");
        assert_eq!(toy.state.position, recorded.at.position.0, "seed {seed}");
        inputs += replayed.inputs;
        digests += replayed.digests;
    }
    assert!(inputs > 10_000 && digests > 1000, "{inputs} inputs, {digests} digests");
}

#[test]
fn how_often_the_world_is_asked_changes_nothing_without_inputs() {
    /// Looks often, lets every wait end in many small steps, or in one.
    struct Quiet {
        steps: u64,
        polls: u64,
    }
    impl World for Quiet {
        fn poll(&mut self) -> Polled {
            self.polls += 1;
            Polled { flush: self.steps > 1, stop: self.polls > 50_000, ..Polled::default() }
        }
        fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
            let wake = wake.expect("before position 3000 the toy waits only for its timer");
            IdleAnswer::Until(GuestNs(now.0 + (wake.0 - now.0).div_ceil(self.steps)))
        }
        fn output(&mut self, _output: &[dejavm_machine::Output]) {}
        fn progress(&mut self, _progress: Progress) {}
    }
    for seed in 0..50 {
        let mut results = Vec::new();
        for steps in [1, 2, 7] {
            let mut options = options(500);
            options.until = Some(Position(3000));
            let mut file = Vec::new();
            let mut world = Quiet { steps, polls: 0 };
            let recorded = record(&mut Toy::new(seed), &mut world, &mut file, &options).unwrap();
            replay(&file, Mistake::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            results.push((recorded.at, recorded.digest, recorded.console));
        }
        assert_eq!(results[0], results[1], "seed {seed}");
        assert_eq!(results[0], results[2], "seed {seed}");
    }
}

#[test]
fn a_replay_stops_where_it_is_told_in_the_state_that_was_there() {
    let (file, recorded, _) = recording(11, 700);
    let last = recorded.at.position.0;
    let at = |until: u64| {
        let mut replayer = Replayer::open(Cursor::new(&file)).unwrap();
        let mut toy = Toy::from_state(replayer.start_state().unwrap());
        replayer.load_pages(&mut toy).unwrap();
        let options = ReplayOptions { until: Some(Position(until)), unverified: false };
        let replayed = replayer.run(&mut toy, &options, &mut toy::Console::default()).unwrap();
        (replayed, toy)
    };
    for until in [0, 1, 699, 700, 701, last / 2, last - 1] {
        let (replayed, toy) = at(until);
        assert_eq!(replayed.at.position, Position(until));
        assert_eq!(toy.state.position, until);
        assert_eq!((replayed.ending, replayed.cut_short), (None, None));
        assert_eq!(replayed.digests, until / 700);
    }
    for until in [last, last + 1, u64::MAX] {
        assert_eq!(at(until).0.ending, Some(recorded.ending));
    }
}

#[test]
fn an_observer_stops_a_replay() {
    struct Impatient(u32);
    impl Observer for Impatient {
        fn progress(&mut self, _at: dejavm_replay::Moment) -> bool {
            self.0 -= 1;
            self.0 > 0
        }
    }
    let (file, recorded, _) = recording(5, 0);
    let mut replayer = Replayer::open(Cursor::new(&file)).unwrap();
    let mut toy = Toy::from_state(replayer.start_state().unwrap());
    replayer.load_pages(&mut toy).unwrap();
    let replayed = replayer.run(&mut toy, &ReplayOptions::default(), &mut Impatient(3)).unwrap();
    assert_eq!(replayed.ending, None);
    assert!(replayed.at < recorded.at);
}

#[test]
fn an_input_can_end_the_machine() {
    struct Button(u32);
    impl World for Button {
        fn poll(&mut self) -> Polled {
            self.0 += 1;
            let inputs = if self.0 == 2 { vec![Input::PowerButton] } else { Vec::new() };
            Polled { inputs, ..Polled::default() }
        }
        fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
            IdleAnswer::Until(wake.unwrap_or(now))
        }
        fn output(&mut self, _output: &[dejavm_machine::Output]) {}
        fn progress(&mut self, _progress: Progress) {}
    }
    let mut file = Vec::new();
    let recorded = record(&mut Toy::new(1), &mut Button(0), &mut file, &options(0)).unwrap();
    assert_eq!(recorded.ending, Ending::Guest(End::PowerOff));
    let (replayed, _, _) = replay(&file, Mistake::default()).unwrap();
    assert_eq!(replayed.ending, Some(recorded.ending));
}

#[test]
fn a_flood_of_input_is_cut_into_chunks_that_can_be_read() {
    /// 6 MiB at once.
    struct Flood(bool);
    impl World for Flood {
        fn poll(&mut self) -> Polled {
            let bytes = vec![0xa5; 1 << 20];
            let input = Input::Serial { port: 0, bytes };
            let first = !std::mem::replace(&mut self.0, true);
            let inputs = if first { vec![input; 6] } else { Vec::new() };
            Polled { inputs, flush: true, stop: !first }
        }
        fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
            IdleAnswer::Until(wake.unwrap_or(now))
        }
        fn output(&mut self, _output: &[dejavm_machine::Output]) {}
        fn progress(&mut self, _progress: Progress) {}
    }
    let mut options = options(0);
    options.until = Some(Position(100));
    let mut file = Vec::new();
    record(&mut Toy::new(1), &mut Flood(false), &mut file, &options).unwrap();
    let (replayed, _, _) = replay(&file, Mistake::default()).unwrap();
    assert_eq!((replayed.inputs, replayed.cut_short), (6, None));
}

#[test]
fn a_full_disk_ends_the_recording_and_what_was_written_replays() {
    /// Takes so many bytes and no more, and the last ones only in part, as a disk does.
    struct Disk {
        room: usize,
        file: Vec<u8>,
    }
    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room - self.file.len());
            self.file.extend_from_slice(&bytes[..taken]);
            match taken {
                0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
                taken => Ok(taken),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (file, recorded, _) = recording(3, 700);
    let log = (file.len() - recorded.log_bytes as usize).next_multiple_of(97);
    for room in (log..file.len()).step_by(97) {
        let mut disk = Disk { room, file: Vec::new() };
        let error = record(&mut Toy::new(3), &mut RandomWorld::new(3), &mut disk, &options(700))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the recording could not be written at offset "), "{error}");
        assert_eq!(disk.file, file[..room]);
        let (replayed, _, _) = replay(&disk.file, Mistake::default()).unwrap();
        let expected = if replayed.ending.is_some() {
            // Only the index is missing.
            None
        } else {
            Some(CutShort::Ends { offset: room as u64 })
        };
        assert_eq!(replayed.cut_short, expected);
    }
}

#[test]
fn a_summary_tells_what_is_in_a_file() {
    let (file, recorded, world) = recording(11, 700);
    let summary = Summary::read(Cursor::new(&file)).unwrap();
    assert_eq!(summary.last, recorded.at);
    assert_eq!(summary.ending, Some(recorded.ending));
    assert_eq!(summary.inputs, world.brought);
    assert_eq!(summary.console_bytes, Some(world.console.len() as u64));
    assert_eq!(summary.file_bytes, file.len() as u64);
    assert_eq!(summary.cut_short, None);

    let summary = Summary::read(Cursor::new(&file[..file.len() / 2])).unwrap();
    assert_eq!(summary.ending, None);
    assert_eq!(summary.cut_short, Some(CutShort::Ends { offset: file.len() as u64 / 2 }));
    assert!(summary.last < recorded.at);
}

/// A recording of an older machine is tried, one of a machine that nobody knows here is not.
#[test]
fn recordings_of_machines_that_behave_otherwise() {
    let made_by = |semantics: u32| {
        let mut options = options(500);
        options.header.semantics = semantics;
        options.until = Some(Position(3000));
        let mut file = Vec::new();
        record(&mut Toy::new(1), &mut RandomWorld::new(1), &mut file, &options).unwrap();
        file
    };
    for semantics in SEMANTICS_OLDEST..=SEMANTICS {
        let file = made_by(semantics);
        let replayer = Replayer::open(Cursor::new(&file[..])).unwrap();
        assert_eq!(replayer.header().corrected_since().is_some(), semantics < SEMANTICS);
        let (replayed, ..) = replay(&file, Mistake::default()).unwrap();
        assert!(replayed.ending.is_some());
    }
    for semantics in [SEMANTICS_OLDEST - 1, SEMANTICS + 1] {
        let refused = Replayer::open(Cursor::new(made_by(semantics))).err().expect("it is refused");
        let known = format!("machine behaviour {semantics}; this dejavm has {SEMANTICS}");
        assert!(refused.to_string().contains(&known), "{refused}");
    }
}
