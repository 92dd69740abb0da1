//! A program with a data race: plain runs do not show it, some schedule does, and then every replay does.

use dejavm_cpu::Tuning;
use dejavm_images::{EXIT_FAILED, RACE};
use dejavm_machine::{End, Hardware, MachineConfig, Stop};
use dejavm_memory::RamLayout;
use dejavm_replay::Ending;
use dejavm_scenarios::{Desk, TINY_RAM_BYTES, tape, tiny_on};
use dejavm_units::Position;

/// Plain runs, and seeds, that are tried.
const RUNS: u64 = 200;
const REPLAYS: usize = 20;

/// Two processors, the program's start by the real-time clock.
fn config(rtc_epoch_s: u64, schedule_seed: Option<u64>) -> MachineConfig {
    let ram = RamLayout::new(TINY_RAM_BYTES).expect("a size");
    let hardware = Hardware { processors: 2, schedule_seed, ..Hardware::default() };
    MachineConfig { hardware, rtc_epoch_s, ..MachineConfig::new(ram) }
}

/// Whether the account is short at the end, and where that is.
fn fails(config: &MachineConfig) -> Option<Position> {
    let mut machine = tiny_on(RACE, config);
    let mut console = Vec::new();
    let stop = machine.run_alone(Position(1 << 32), &mut console);
    let console = String::from_utf8_lossy(&console).into_owned();
    let Stop::End(End::DebugExit(value)) = stop else { panic!("{stop:?}: {console}") };
    let failed = value == u32::from(EXIT_FAILED);
    assert_eq!(console, if failed { "account is short\n" } else { "account ok\n" });
    failed.then(|| machine.position())
}

#[test]
fn a_race_is_caught_by_a_seed_and_then_always_there() {
    let plain = (0..RUNS).filter(|start| fails(&config(*start, None)).is_some()).count();
    let mut caught = (0..RUNS).filter_map(|seed| Some((seed, fails(&config(0, Some(seed)))?)));
    let (seed, position) = caught.next().expect("a seed that catches it");
    println!("{plain} of {RUNS} plain runs fail, and seed {seed}, at {position}");
    assert_eq!(plain, 0);

    let config = config(0, Some(seed));
    let mut desk = Desk::new();
    let tape = tape(tiny_on(RACE, &config), config, &mut desk, 10_000, None);
    assert_eq!(tape.recorded.ending, Ending::Guest(End::DebugExit(EXIT_FAILED.into())));
    assert_eq!(tape.recorded.at.position, position);
    for _ in 0..REPLAYS {
        tape.assert_replays(&desk, Tuning::default());
    }
}
