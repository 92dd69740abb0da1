//! Machines with several processors: what they do to each other is right, and replays, whatever the TLB and whoever's turn it is.

use dejavm_cpu::Tuning;
use dejavm_images::{EXIT_OK, SMP};
use dejavm_machine::{
    Breakpoint, End, Hardware, Machine, MachineConfig, MachineState, Stop, Stops, WatchKind,
    Watchpoint,
};
use dejavm_memory::RamLayout;
use dejavm_replay::Ending;
use dejavm_scenarios::{Desk, Random, TINY_RAM_BYTES, Tape, expected, ram_hash, tape, tiny_on};
use dejavm_units::{Gva, Position};
use std::cell::RefCell;

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
    let (tape, desk) = recorded(config(4, 5000, Some(1)));
    tape.assert_replays_by_all_engines(&desk);
    tape.assert_replays(&desk, Tuning { tlb_slots: 1, flush_seed: Some(1), ..Tuning::default() });
}

/// Where turns are short and everything happens: after the start, before the end.
const FROM: Position = Position(4_010_000);

fn to(config: &MachineConfig, until: Position) -> Machine {
    let mut machine = tiny_on(SMP, config);
    machine.run_alone(until, &mut Vec::new());
    assert_eq!(machine.position(), until);
    machine
}

/// At a position the machine is one thing, wherever runs to it were cut.
#[test]
fn pauses_change_nothing() {
    let seed = 0x5eed_0004;
    println!("seed {seed:#x}");
    let mut random = Random::new(seed);
    for config in [config(2, 100, None), config(3, 50_000, Some(7)), config(8, 1000, Some(8))] {
        let mut whole = to(&config, FROM);
        let mut pieces = to(&config, FROM);
        for _ in 0..40 {
            let until = Position(whole.position().0 + 1 + random.below(40_000));
            whole.run_alone(until, &mut Vec::new());
            let mut here = pieces.position();
            while here < until {
                let magnitude = random.below(12);
                let step = random.below(1 << magnitude);
                here = Position(here.0 + step).min(until);
                pieces.run_alone(here, &mut Vec::new());
            }
            assert!(whole.save() == pieces.save(), "{:?}, at {until}", config.hardware);
        }
        assert_eq!(ram_hash(&whole), ram_hash(&pieces));
    }
}

/// A machine that was put away in the middle of turns goes on as if it had not been.
#[test]
fn a_state_says_whose_turn_it_is() {
    let config = config(3, 1000, Some(3));
    let mut machine = to(&config, FROM);
    for n in 0..20 {
        let until = Position(machine.position().0 + 777);
        let mut other = Machine::from_state(&config, &machine.save()).expect("its own state");
        let mut page = [0; 4096];
        for pfn in machine.ram().pages() {
            machine.ram().read(pfn.gpa(), &mut page).expect("RAM");
            other.ram_mut().write(pfn.gpa(), &page).expect("RAM");
        }
        for machine in [&mut machine, &mut other] {
            machine.run_alone(until, &mut Vec::new());
        }
        assert!(machine.save() == other.save(), "{n}");
        assert_eq!(ram_hash(&machine), ram_hash(&other), "{n}");
    }
    let wrong = MachineConfig { hardware: Hardware::default(), ..config };
    let refused =
        Machine::from_state(&wrong, &machine.save()).err().expect("one processor").to_string();
    assert_eq!(refused, "the state is one of 3 processors, and the machine has 1");
}

fn next(machine: &Machine) -> (usize, u64) {
    (machine.running_processor(), machine.cpu_state().rip)
}

/// A breakpoint stops each processor wherever it is about to execute there, once.
#[test]
fn breakpoints_are_every_processors() {
    for config in [config(2, 100, None), config(3, 1000, Some(5))] {
        // What the machine does, an instruction at a time.
        let mut machine = to(&config, FROM);
        let mut trace = Vec::new();
        for _ in 0..20_000 {
            let position = Position(machine.position().0 + 1);
            machine.run_alone(position, &mut Vec::new());
            trace.push((position, next(&machine)));
        }
        let mut places: Vec<u64> = trace.iter().map(|(_, (_, rip))| *rip).collect();
        places.sort_unstable();
        places.dedup();
        let mut stopped = 0;
        for at in places.into_iter().step_by(3) {
            let mut machine = to_start(&config, &trace);
            let breakpoint = Breakpoint { at: Gva(at), space: None };
            machine.set_stops(&Stops { breakpoints: vec![breakpoint], watchpoints: Vec::new() });
            let expected = trace.iter().filter(|(_, (_, rip))| *rip == at);
            for (position, (processor, _)) in expected {
                let stop = machine.run_alone(Position(u64::MAX), &mut Vec::new());
                assert_eq!(stop, Stop::Breakpoint { at: Gva(at) });
                assert_eq!((machine.position(), next(&machine).0), (*position, *processor));
                stopped += 1;
            }
        }
        assert!(stopped > 1000, "{stopped}");
    }
}

/// A machine at the beginning of a trace, by way of a saved state: it takes a moment to get there.
fn to_start(config: &MachineConfig, trace: &[(Position, (usize, u64))]) -> Machine {
    assert_eq!(trace[0].0, Position(FROM.0 + 1));
    thread_local! {
        static STARTS: RefCell<Vec<(MachineConfig, MachineState, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
    }
    STARTS.with_borrow_mut(|starts| {
        if !starts.iter().any(|(of, ..)| of == config) {
            let machine = to(config, FROM);
            let mut bytes = vec![0; TINY_RAM_BYTES as usize];
            for pfn in machine.ram().pages() {
                let start = pfn.gpa().0 as usize;
                machine.ram().read(pfn.gpa(), &mut bytes[start..start + 4096]).expect("RAM");
            }
            starts.push((config.clone(), machine.save(), bytes));
        }
        let (_, state, bytes) = starts.iter().find(|(of, ..)| of == config).expect("put there");
        let mut machine = Machine::from_state(config, state).expect("its own state");
        let pages: Vec<_> = machine.ram().pages().collect();
        for pfn in pages {
            let start = pfn.gpa().0 as usize;
            machine.ram_mut().write(pfn.gpa(), &bytes[start..start + 4096]).expect("RAM");
        }
        machine
    })
}

/// A watchpoint says who it was.
#[test]
fn watchpoints_tell_the_processor() {
    let config = config(2, 100, None);
    let mut machine = to(&config, FROM);
    let mut seen = [0; 2];
    let watch =
        Watchpoint { start: Gva(0x10_0000), bytes: 0x10_0000, kind: WatchKind::Write, space: None };
    machine.set_stops(&Stops { breakpoints: Vec::new(), watchpoints: vec![watch] });
    for _ in 0..2000 {
        let stop = machine.run_alone(Position(u64::MAX), &mut Vec::new());
        assert!(matches!(stop, Stop::Watchpoint { .. }), "{stop:?}");
        seen[machine.acting_processor()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
}
