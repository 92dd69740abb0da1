//! Recordings whose positions are exits: they replay, and the software CPU makes recordings of them whose positions are
//! instructions.

use dejavm_cpu::{Breakpoint, Stops, Tuning};
use dejavm_machine::{Boot, Input, Machine, MachineConfig, Register, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    Advance, CheckpointPolicy, Direction, Header, Observer, RecordOptions, Recorded, Recorder,
    ReplayError, ReplayOptions, Replayed, Replayer, SEMANTICS, Timeline, TimelineOptions,
    TranscribeError, transcribe,
};
use dejavm_scenarios::{ByExits, Desk, Random, rebuild, replay, tape};
use dejavm_units::{Gva, Position};
use std::io::Cursor;

/// Exits between two digests.
const DIGEST_INTERVAL: u64 = 500;

fn config() -> MachineConfig {
    let ram = RamLayout::new(2 << 20).unwrap();
    MachineConfig { time_base: TimeBase::Exits, ..MachineConfig::new(ram) }
}

/// A recording by an engine that is stopped at random instants.
fn recording(image: &[u8], seed: u64) -> Vec<u8> {
    let mut machine = Machine::boot(&config(), &Boot { image, initrd: None, cmdline: "" }).unwrap();
    machine.set_executor(Some(Box::new(ByExits::live(seed, 200_000))));
    tape(machine, config(), &mut Desk::new(), DIGEST_INTERVAL, None).file
}

struct Nobody;
impl Observer for Nobody {}

fn replay_by_exits(file: &[u8]) -> Result<Replayed, ReplayError> {
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let mut machine = rebuild(&mut replayer)?;
    machine.set_executor(Some(Box::new(ByExits::replaying())));
    replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody)
}

fn transcribed(file: &[u8]) -> Result<(Vec<u8>, Recorded), TranscribeError> {
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let machine = rebuild(&mut replayer)?;
    let mut header = replayer.header().clone();
    header.set_positions_are_exits(false);
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    };
    let mut out = Vec::new();
    let recorded = transcribe(replayer, machine, &mut out, &options, &mut |_| true)?;
    Ok((out, recorded))
}

#[test]
fn a_recording_of_exits_replays_and_becomes_one_of_instructions() {
    for (name, image) in [
        ("hello", dejavm_images::HELLO),
        ("paging", dejavm_images::PAGING),
        ("timer", dejavm_images::TIMER),
        ("counter", dejavm_images::COUNTER),
        ("priority", dejavm_images::PRIORITY),
    ] {
        for seed in 1..=3 {
            eprintln!("{name}, seed {seed}");
            let file = recording(image, seed);
            let replayed = replay_by_exits(&file).unwrap();
            let (instructions, recorded) = transcribed(&file).unwrap();
            assert_eq!(Some(recorded.ending), replayed.ending);
            assert_eq!(recorded.console, replayed.console);
            let again = replay(&instructions, Tuning::default(), &ReplayOptions::default());
            assert_eq!(again.unwrap().replayed.last_digest, Some(recorded.digest));
        }
    }
}

/// What gdb needs to go backwards.
#[test]
fn every_instruction_of_it_can_be_stood_at() {
    let file = recording(dejavm_images::COUNTER, 7);
    let (instructions, recorded) = transcribed(&file).unwrap();
    let mut replayer = Replayer::open(Cursor::new(&instructions)).unwrap();
    let machine = rebuild(&mut replayer).unwrap();
    let mut timeline = Timeline::new(replayer, machine, TimelineOptions::default()).unwrap();
    let end = recorded.at.position.0;
    let places: Vec<u64> = (1..40).map(|n| end / 40 * n).collect();
    let mut states = Vec::new();
    for &place in &places {
        timeline.seek(Position(place)).unwrap();
        states.push(timeline.machine().save());
    }
    for (&place, state) in places.iter().zip(&states).rev() {
        timeline.seek(Position(place + 3)).unwrap();
        timeline.step(Direction::Backward, 3).unwrap();
        assert!(timeline.machine().save() == *state, "position {place}");
    }
}

/// A log that says something else is not believed.
#[test]
fn what_differs_is_found() {
    let file = recording(dejavm_images::COUNTER, 8);
    let other = recording(dejavm_images::COUNTER, 9);
    // The same machine and start, and the landmarks of another run's instants would do; digests of another guest do not.
    assert!(transcribed(&file).is_ok() && transcribed(&other).is_ok());
    let mut replayer = Replayer::open(Cursor::new(&file)).unwrap();
    let mut machine = rebuild(&mut replayer).unwrap();
    let image = dejavm_images::COUNTER;
    let at = image.windows(4).position(|bytes| bytes == [0x8d, 0x5c, 0x5b, 0x01]).unwrap();
    let mut code = [0; 4];
    let text = machine.ram().pages().find_map(|pfn| {
        let mut page = [0; 4096];
        machine.ram().read(pfn.gpa(), &mut page).ok()?;
        let found = page.windows(4).position(|bytes| bytes == &image[at..at + 4])?;
        Some(pfn.gpa().wrapping_add(found as u64))
    });
    let text = text.unwrap();
    machine.ram().read(text, &mut code).unwrap();
    // lea ebx, [ebx + ebx * 2 + 1] becomes + 2.
    machine.ram_mut().write(text, &[code[0], code[1], code[2], 2]).unwrap();
    let mut header = replayer.header().clone();
    header.set_positions_are_exits(false);
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    };
    let result = transcribe(replayer, machine, Vec::new(), &options, &mut |_| true);
    assert!(
        matches!(result, Err(TranscribeError::Replay(ReplayError::Divergence(_)))),
        "{result:?}"
    );
}

/// A branch of such a recording is live on the software CPU: time passes for it too.
#[test]
fn a_live_machine_by_software_does_not_wait_for_ever() {
    let boot = Boot { image: dejavm_images::COUNTER, initrd: None, cmdline: "" };
    let machine = Machine::boot(&config(), &boot).unwrap();
    let mut desk = Desk::new();
    let tape = tape(machine, config(), &mut desk, 1_000_000, None);
    let said = desk.debug_console();
    assert!(said.contains("counter ticks at"), "{said}");
    tape.assert_replays(&desk, Tuning::default());
}

/// Records a guest under a debugger that stops it where it has been, steps, and writes now and then what no guest looks at: the file, and
/// how often it wrote.
fn debugged(image: &[u8], seed: u64) -> (Vec<u8>, usize) {
    let mut random = Random::new(seed);
    let mut machine = Machine::boot(&config(), &Boot { image, initrd: None, cmdline: "" }).unwrap();
    machine.set_executor(Some(Box::new(ByExits::live(seed, 200_000))));
    let mut header = Header {
        creator: "dejavm-scenarios".to_owned(),
        semantics: SEMANTICS,
        config: config(),
        guest: Vec::new(),
        digest_interval: DIGEST_INTERVAL,
    };
    header.set_positions_are_exits(true);
    let options = RecordOptions {
        header,
        externals: Vec::new(),
        embed_pages: true,
        until: None,
        checkpoints: CheckpointPolicy::NONE,
        parent: None,
    };
    let (mut file, mut desk) = (Vec::new(), Desk::new());
    let mut recorder = Recorder::new(machine, &mut file, &options).unwrap();
    let (mut writes, mut seen) = (0, Vec::new());
    loop {
        let steps = random.below(4) != 0 && seen.len() < 400;
        let advance =
            if steps { recorder.step(&mut desk) } else { recorder.advance(&mut desk, None) };
        match advance.unwrap() {
            Advance::Running => {}
            Advance::Limit | Advance::Stopped(_) => {
                let state = recorder.guest().cpu_state();
                seen.push(Breakpoint { at: Gva(state.rip), space: None });
                let mut breakpoints = Vec::new();
                if seen.len() < 400 {
                    breakpoints.push(seen[random.below(seen.len() as u64) as usize]);
                }
                recorder.guest_mut().set_stops(&Stops { breakpoints, ..Stops::default() });
                if random.below(8) == 0 {
                    let values = vec![(Register::Xmm(5), u128::from(random.below(1 << 50)))];
                    recorder.enter(Input::WriteRegisters { values }).unwrap();
                    writes += 1;
                }
            }
            Advance::Ended(ending) => {
                recorder.finish(&mut desk, ending).unwrap();
                return (file, writes);
            }
        }
    }
}

/// A debugger stops between two exits, which no position tells; what it writes there is found there again.
#[test]
fn what_a_debugger_does_between_exits_replays() {
    let mut all = 0;
    for (name, image) in [
        ("hello", dejavm_images::HELLO),
        ("paging", dejavm_images::PAGING),
        ("timer", dejavm_images::TIMER),
        ("counter", dejavm_images::COUNTER),
    ] {
        for seed in 1..=3 {
            let (file, writes) = debugged(image, seed);
            eprintln!("{name}, seed {seed}: {writes} writes");
            all += writes;
            let replayed = replay_by_exits(&file).unwrap();
            let (instructions, recorded) = transcribed(&file).unwrap();
            assert_eq!(recorded.console, replayed.console);
            let again = replay(&instructions, Tuning::default(), &ReplayOptions::default());
            assert_eq!(again.unwrap().replayed.last_digest, Some(recorded.digest));
        }
    }
    assert!(all > 50, "{all} writes");
}
