//! Machines with several processors: what they do to each other is right, and replays, whatever the TLB and whoever's turn it is.

use dejavm_cpu::Tuning;
use dejavm_images::{EXIT_OK, SMP};
use dejavm_machine::{End, Hardware, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_replay::Ending;
use dejavm_scenarios::{Desk, TINY_RAM_BYTES, Tape, expected, tape, tiny_on};

fn config(processors: u8, slice: u32, schedule_seed: Option<u64>) -> MachineConfig {
    let ram = RamLayout::new(TINY_RAM_BYTES).expect("a size");
    let hardware = Hardware { processors, slice, schedule_seed, ..Hardware::default() };
    MachineConfig { hardware, ..MachineConfig::new(ram) }
}

fn recorded(config: MachineConfig) -> (Tape, Desk) {
    let mut desk = Desk::new();
    let tape = tape(tiny_on(SMP, &config), config.clone(), &mut desk, 1_000_000, None);
    let output = String::from_utf8_lossy(desk.output_bytes()).into_owned();
    let ending = Ending::Guest(End::DebugExit(EXIT_OK.into()));
    assert_eq!(tape.recorded.ending, ending, "{:?}:\n{output}", config.hardware);
    let expected = expected("smp").expect("it is listed");
    let processors = format!("{} processors", config.hardware.processors);
    assert_eq!(desk.debug_console(), expected.replace("1 processors", &processors));
    (tape, desk)
}

fn lives_and_replays(processors: u8, slice: u32, schedule_seed: Option<u64>) {
    let (tape, desk) = recorded(config(processors, slice, schedule_seed));
    tape.assert_replays_by_all_engines(&desk);
    for tlb_slots in [1, 64, 4096] {
        for flush_seed in [None, Some(0x5eed + tlb_slots as u64)] {
            tape.assert_replays(&desk, Tuning { tlb_slots, flush_seed, ..Tuning::default() });
        }
    }
}

#[test]
fn two_processors() {
    lives_and_replays(2, Hardware::SLICE_DEFAULT, None);
}

#[test]
fn eight_processors() {
    lives_and_replays(8, Hardware::SLICE_DEFAULT, None);
}

#[test]
fn short_turns() {
    lives_and_replays(3, 100, None);
}

#[test]
fn turns_by_a_seed() {
    for seed in 0..3 {
        println!("seed {seed}");
        lives_and_replays(4, 5000, Some(seed));
    }
}
