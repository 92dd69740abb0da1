//! The whole machine, with guests of our own: exactness, splits, save and restore.

use super::*;
use crate::TimeBase;
use dejavm_memory::RamLayout;
use dejavm_units::PAGE_SIZE;

/// How a guest that is content ends.
const CONTENT: End = End::DebugExit(dejavm_images::EXIT_OK as u32);
/// No guest here needs more instructions.
pub(super) const FAR: u64 = 2_000_000_000;

fn config() -> MachineConfig {
    MachineConfig::new(RamLayout::new(2 << 20).unwrap())
}

pub(super) fn boot(image: &[u8]) -> Machine {
    Machine::boot(&config(), &Boot { image, initrd: None, cmdline: "" }).unwrap()
}

/// xorshift64*: the seed is the test's, so that a failure can be run again.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// All of RAM.
pub(super) fn pages(machine: &Machine) -> Vec<Vec<u8>> {
    machine
        .ram()
        .pages()
        .map(|pfn| {
            let mut page = vec![0; PAGE_SIZE as usize];
            machine.ram().read(pfn.gpa(), &mut page).unwrap();
            page
        })
        .collect()
}

/// A machine made from another's state and RAM.
pub(super) fn copy(machine: &Machine) -> Machine {
    let mut copy = Machine::from_state(&config(), &machine.save()).unwrap();
    let pfns: Vec<_> = machine.ram().pages().collect();
    for (pfn, page) in pfns.into_iter().zip(pages(machine)) {
        copy.ram_mut().write(pfn.gpa(), &page).unwrap();
    }
    copy
}

/// Runs in steps that `step` chooses until the machine ends; what it printed, and how it ended.
pub(super) fn run_to_end(
    machine: &mut Machine,
    mut step: impl FnMut(&mut Machine) -> u64,
) -> (Vec<u8>, End) {
    let mut console = Vec::new();
    let mut chosen = step(machine);
    loop {
        let until = Position(machine.position().0 + chosen);
        let stop = machine.run(until);
        for output in machine.take_output() {
            if let Output::DebugConsole { bytes } = output {
                console.extend(bytes);
            }
        }
        match stop {
            Stop::Limit => {
                assert_eq!(machine.position(), until);
                chosen = step(machine);
            }
            Stop::Idle { wake } => {
                let wake = wake.expect("no guest here waits for input");
                // In two jumps, so that time skipped in pieces is covered too.
                let middle = GuestNs(machine.guest_ns().0.midpoint(wake.0));
                machine.idle_until(middle);
                machine.idle_until(wake);
            }
            Stop::End(end) => return (console, end),
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => unreachable!("no stops are set"),
        }
        assert!(machine.position().0 < FAR, "it does not end");
    }
}

#[test]
fn the_guests_are_content() {
    for (name, image) in dejavm_images::ALL {
        if matches!(*name, "desk" | "echo" | "demo" | "spin") {
            continue;
        }
        let mut machine = boot(image);
        let (console, end) = run_to_end(&mut machine, |_| FAR);
        assert_eq!(end, CONTENT, "{name}: {}", String::from_utf8_lossy(&console));
        assert_eq!(machine.run(Position(u64::MAX)), Stop::End(CONTENT), "it stays ended");
    }
}

#[test]
fn halted_time_is_skipped_and_the_timer_keeps_its_rate() {
    let mut machine = boot(dejavm_images::TIMER);
    let (console, end) = run_to_end(&mut machine, |_| FAR);
    assert_eq!(end, CONTENT, "{}", String::from_utf8_lossy(&console));
    // 100 ticks of 100 Hz, to the rounding of the divisor (1193182 / 100 is 11931.82).
    let seconds = machine.guest_ns().0 as f64 / 1e9;
    assert!((0.999..1.002).contains(&seconds), "{seconds}");
    assert!(machine.position().0 < 1_000_000, "{:?}", machine.position());
}

#[test]
fn where_a_run_is_split_changes_nothing() {
    let image = dejavm_images::TIMER;
    let mut whole = boot(image);
    let expected = run_to_end(&mut whole, |_| FAR);
    for seed in 1..=8 {
        let mut random = Random(seed);
        let mut split = boot(image);
        let result = run_to_end(&mut split, |_| 1 + random.below(300));
        assert_eq!(result, expected, "seed {seed}");
        assert_eq!(split.save(), whole.save(), "seed {seed}");
        assert!(pages(&split) == pages(&whole), "seed {seed}");
    }
}

#[test]
fn the_state_at_a_position_does_not_depend_on_the_way_there() {
    let image = dejavm_images::TIMER;
    let mut random = Random(7);
    let mut stepped = boot(image);
    let mut position = 0;
    for _ in 0..40 {
        position += 1 + random.below(200);
        let mut direct = boot(image);
        for machine in [&mut stepped, &mut direct] {
            while let Stop::Idle { wake: Some(wake) } = machine.run(Position(position)) {
                machine.idle_until(wake);
            }
            // Arriving again is no event.
            machine.run(Position(position));
        }
        assert_eq!(stepped.save(), direct.save(), "position {position}");
    }
}

#[test]
fn restored_is_as_never_stopped() {
    for (name, image) in [("timer", dejavm_images::TIMER), ("paging", dejavm_images::PAGING)] {
        let mut whole = boot(image);
        let expected = run_to_end(&mut whole, |_| FAR);
        let length = whole.position().0;
        for seed in 1..=2 {
            let mut random = Random(seed);
            let mut restored = boot(image);
            let mut console = Vec::new();
            // Steps end in a new machine, halted or not, until the last one runs to the end.
            let end = loop {
                let until = Position(restored.position().0 + 1 + random.below(length / 4));
                let stop = restored.run(until);
                for output in restored.take_output() {
                    if let Output::DebugConsole { bytes } = output {
                        console.extend(bytes);
                    }
                }
                match stop {
                    Stop::Limit => {}
                    Stop::Idle { wake } => {
                        restored.idle_until(wake.unwrap());
                        if random.below(8) != 0 {
                            continue;
                        }
                    }
                    Stop::End(end) => break end,
                    other => panic!("no stops are set: {other:?}"),
                }
                let copied = copy(&restored);
                assert_eq!(copied.save(), restored.save(), "{name}, seed {seed}");
                restored = copied;
            };
            assert_eq!((console, end), expected, "{name}, seed {seed}");
            assert_eq!(restored.save(), whole.save(), "{name}, seed {seed}");
            assert!(pages(&restored) == pages(&whole), "{name}, seed {seed}");
        }
    }
}

#[test]
fn a_state_survives_its_encoding() {
    let mut machine = boot(dejavm_images::TIMER);
    machine.run(Position(500));
    let state = machine.save();
    let encoding = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(&state, encoding).unwrap();
    let (decoded, _): (MachineState, usize) =
        bincode::serde::decode_from_slice(&bytes, encoding).unwrap();
    assert_eq!(decoded, state);
}

#[test]
fn typed_input_reaches_the_guest() {
    let mut machine = boot(dejavm_images::ECHO);
    let mut echoed = Vec::new();
    for key in b"hello\rq" {
        loop {
            match machine.run(Position(machine.position().0 + 1_000_000)) {
                Stop::Limit => {}
                Stop::Idle { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        machine.apply(&Input::Serial { port: 0, bytes: vec![*key] });
    }
    let end = loop {
        match machine.run(Position(machine.position().0 + 1_000_000)) {
            Stop::Limit => {}
            Stop::End(end) => break end,
            other => panic!("{other:?}"),
        }
    };
    for output in machine.take_output() {
        if let Output::Serial { port: 0, bytes } = output {
            echoed.extend(bytes);
        }
    }
    let echoed = String::from_utf8(echoed).unwrap();
    assert_eq!(end, CONTENT, "{echoed}");
    assert!(echoed.contains("HELLO"), "{echoed}");
}

#[test]
fn a_hostile_configuration_is_refused() {
    let mut hostile = config();
    hostile.time_base = TimeBase::Instructions { per_us: 1_000_001 };
    let state = boot(dejavm_images::HELLO).save();
    assert!(matches!(
        Machine::from_state(&hostile, &state),
        Err(RestoreError::Config(crate::ConfigError::InstructionRate(1_000_001)))
    ));
}
