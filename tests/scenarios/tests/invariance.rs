//! What must not change anything: what executes, the TLB's size, when it is flushed, whether digests are taken and
//! compared, and where a replay pauses.

use dejavm_cpu::Tuning;
use dejavm_replay::{Ending, ReplayOptions, Replayer};
use dejavm_scenarios::{Debian, Desk, Kernel, Random, Tape, ram_hash, rebuild, replay, tape};
use dejavm_units::Position;
use std::io::Cursor;

/// The first instructions of a boot: real unpacking, page tables built and switched. With one TLB
/// slot nearly every access walks the tables, so that run is shorter.
const BOOT: Position = Position(700_000_000);
const BOOT_ONE_SLOT: Position = Position(250_000_000);

fn boot(digest_interval: u64, until: Position) -> (Tape, Desk) {
    let guest = Debian::new(Kernel::Cloud, "demo");
    let mut desk = Desk::new();
    let tape = tape(guest.boot(), guest.config(), &mut desk, digest_interval, Some(until));
    assert_eq!(tape.recorded.ending, Ending::Stopped);
    assert_eq!(tape.recorded.at.position, until);
    (tape, desk)
}

#[test]
fn one_tlb_slot_replays_the_same() {
    let (tape, desk) = boot(10_000_000, BOOT_ONE_SLOT);
    tape.assert_replays(&desk, Tuning { tlb_slots: 1, flush_seed: None, ..Tuning::default() });
}

#[test]
fn tlb_sizes_and_random_flushes_replay_the_same() {
    let (tape, desk) = boot(50_000_000, BOOT);
    tape.assert_replays(&desk, Tuning { tlb_slots: 64, flush_seed: None, ..Tuning::default() });
    tape.assert_replays(&desk, Tuning { tlb_slots: 4096, flush_seed: None, ..Tuning::default() });
    for flush_seed in [0x5eed_0001, 0x5eed_0002] {
        println!("flush seed {flush_seed:#x}");
        tape.assert_replays(
            &desk,
            Tuning { tlb_slots: 4096, flush_seed: Some(flush_seed), ..Tuning::default() },
        );
        tape.assert_replays(
            &desk,
            Tuning { tlb_slots: 64, flush_seed: Some(!flush_seed), ..Tuning::default() },
        );
    }
}

#[test]
fn engines_replay_the_same() {
    let (tape, desk) = boot(10_000_000, BOOT);
    tape.assert_replays_by_all_engines(&desk);
}

#[test]
fn digests_change_nothing() {
    let (often, _) = boot(7_654_321, BOOT);
    let (rarely, desk) = boot(0, BOOT);
    assert!(often.state == rarely.state, "the final state depends on the digest interval");
    assert_eq!(often.ram, rarely.ram);
    assert_eq!(often.recorded.console, rarely.recorded.console);
    // Without digests along the way only the last one is compared: it sees everything.
    let replayed = rarely.assert_replays(&desk, Tuning::default()).replayed;
    assert_eq!(replayed.digests, 1);

    let options = ReplayOptions { until: None, unverified: true };
    let unverified = replay(&often.file, Tuning::default(), &options).expect("it replays");
    assert_eq!(unverified.replayed.digests, 0);
    assert_eq!(unverified.replayed.at, often.recorded.at);
    assert!(unverified.state == often.state);
    assert_eq!(unverified.ram, often.ram);
}

/// Replays to positions of no meaning are prefixes of the whole, whichever way they are reached.
#[test]
fn pauses_change_nothing() {
    let seed = 0x5eed_0003;
    println!("seed {seed:#x}");
    let mut random = Random::new(seed);
    let (tape, desk) = boot(50_000_000, BOOT);
    let whole = tape.assert_replays(&desk, Tuning::default());
    let until = Position(BOOT.0 / 2 + random.below(BOOT.0 / 4));

    let options = ReplayOptions { until: Some(until), unverified: false };
    let straight = replay(&tape.file, Tuning::default(), &options).expect("it replays");
    assert_eq!(straight.replayed.at.position, until);
    assert!(whole.console.starts_with(&straight.console));

    // The machine itself, stopped wherever the seed says.
    let mut replayer = Replayer::open(Cursor::new(&tape.file)).expect("it opens");
    let mut machine = rebuild(&mut replayer).expect("it can be rebuilt");
    let mut pauses = 0;
    while machine.position() < until {
        let magnitude = random.below(23);
        let step = 1 + random.below(1 << magnitude);
        machine.run(Position(machine.position().0 + step).min(until));
        pauses += 1;
    }
    println!("{pauses} pauses before {until}");
    assert!(pauses > 100);
    assert!(machine.save() == straight.state, "the state depends on where the run paused");
    assert_eq!(ram_hash(&machine), straight.ram);
}
