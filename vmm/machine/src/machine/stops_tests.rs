//! Breakpoints, watchpoints and inspection on whole machines: exact, at rest, and without a trace.

use super::tests::{FAR, Random, boot, copy, pages, run_to_end};
use super::*;
use crate::{Breakpoint, Stops, WatchHit, Watchpoint};

/// A stop, where it was, and what the machine was there.
#[derive(Debug, PartialEq)]
struct Met {
    position: Position,
    stop: Stop,
    hits: Vec<WatchHit>,
    rip: u64,
}

/// Runs to the end in steps that `step` chooses, past all stops.
fn run_past_stops(
    machine: &mut Machine,
    mut step: impl FnMut() -> u64,
    mut at_stop: impl FnMut(&mut Machine),
) -> (Vec<Met>, End) {
    let mut met = Vec::new();
    loop {
        let until = Position(machine.position().0 + step());
        match machine.run(until) {
            Stop::Limit => assert_eq!(machine.position(), until),
            Stop::Idle { wake } => {
                machine.idle_until(wake.expect("no guest here waits for input"));
            }
            Stop::End(end) => return (met, end),
            stop @ (Stop::Breakpoint { .. } | Stop::Watchpoint { .. }) => {
                let hits =
                    if let Stop::Watchpoint { .. } = stop { machine.watch_hits() } else { vec![] };
                let rip = machine.cpu_state().rip;
                met.push(Met { position: machine.position(), stop, hits, rip });
                at_stop(machine);
            }
        }
        machine.take_output();
        assert!(machine.position().0 < FAR, "it does not end");
    }
}

/// Breakpoints on instructions that the guest executes, watchpoints on what lies around its stack.
fn stops_for(image: &[u8], random: &mut Random) -> Stops {
    let mut machine = boot(image);
    let mut stops = Stops::default();
    for _ in 0..24 {
        let _ = machine.run(Position(machine.position().0 + 1 + random.below(60)));
        machine.idle_until(GuestNs(machine.guest_ns().0 + 20_000_000));
        let state = machine.cpu_state();
        if random.below(2) == 0 {
            let at = Gva(state.seg[1].base + state.rip);
            let space = (random.below(2) == 0).then_some(Gpa(state.cr3));
            stops.breakpoints.push(Breakpoint { at, space });
        } else {
            let start = Gva(state.gpr[random.below(16) as usize].saturating_sub(random.below(64)));
            let kind = [WatchKind::Write, WatchKind::Read, WatchKind::Access];
            let kind = kind[random.below(3) as usize];
            let bytes = [1, 4, 8, 64, 4096][random.below(5) as usize];
            stops.watchpoints.push(Watchpoint { start, bytes, kind, space: None });
        }
    }
    stops
}

#[test]
fn stops_leave_no_trace_and_are_met_wherever_a_run_is_split() {
    let mut count = 0;
    for (name, image) in [("timer", dejavm_images::TIMER), ("paging", dejavm_images::PAGING)] {
        let mut whole = boot(image);
        let expected = run_to_end(&mut whole, |_| FAR).1;
        for seed in 1..=3 {
            let mut random = Random(seed);
            let stops = stops_for(image, &mut random);
            let mut stopped = boot(image);
            stopped.set_stops(&stops);
            let (met, end) = run_past_stops(&mut stopped, || FAR, |_| {});
            assert_eq!(end, expected, "{name}, seed {seed}");
            assert!(stopped.save() == whole.save(), "{name}, seed {seed}");
            assert!(pages(&stopped) == pages(&whole), "{name}, seed {seed}");
            count += met.len();

            // Split, by the reference semantics, and as a debugger does that takes its stops out.
            let mut split = boot(image);
            split.set_stops(&stops);
            split.set_tuning(dejavm_cpu::Tuning {
                engine: if seed == 1 {
                    dejavm_cpu::Engine::Reference
                } else {
                    dejavm_cpu::Engine::Translator
                },
                translate_after: 0,
                ..Default::default()
            });
            let toggle = |machine: &mut Machine| {
                machine.set_stops(&Stops::default());
                machine.set_stops(&stops);
            };
            let (again, _) = run_past_stops(&mut split, || 1 + random.below(300), toggle);
            assert!(split.save() == whole.save(), "{name}, seed {seed}");
            assert_eq!(again, met, "{name}, seed {seed}");
        }
    }
    assert!(count > 1000, "only {count} stops were met");
}

/// Where a run stops, the machine is what a run to that position leaves.
#[test]
fn a_stopped_machine_is_at_rest() {
    let image = dejavm_images::TIMER;
    let mut random = Random(5);
    let stops = stops_for(image, &mut random);
    let mut stopped = boot(image);
    stopped.set_stops(&stops);
    let mut direct = boot(image);
    let mut checked = 0;
    while checked < 300 {
        match stopped.run(Position(FAR)) {
            Stop::Idle { wake } => {
                stopped.idle_until(wake.unwrap());
            }
            Stop::End(_) | Stop::Limit => break,
            Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                let (position, time) = (stopped.position(), stopped.guest_ns());
                while let Stop::Idle { wake: Some(wake) } = direct.run(position) {
                    // Halted there: the stop may be before the time jumps, or after.
                    if direct.guest_ns() >= time {
                        break;
                    }
                    direct.idle_until(wake);
                }
                assert_eq!(direct.guest_ns(), time);
                assert!(direct.save() == stopped.save(), "{position:?}");
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked} stops");
}

#[test]
fn a_machine_made_from_a_stopped_one_goes_on_alike() {
    let image = dejavm_images::TIMER;
    let stops = stops_for(image, &mut Random(9));
    let mut machine = boot(image);
    machine.set_stops(&stops);
    let (met, end) = run_past_stops(
        &mut machine,
        || FAR,
        |machine| {
            let stops = machine.stops().clone();
            if machine.position().0.is_multiple_of(16) {
                *machine = copy(machine);
                machine.set_stops(&stops);
            }
        },
    );
    let mut whole = boot(image);
    whole.set_stops(&stops);
    assert_eq!(run_past_stops(&mut whole, || FAR, |_| {}), (met, end));
    assert_eq!(machine.save(), whole.save());
}

#[test]
fn linear_memory_is_read_and_written_without_a_trace() {
    let mut machine = boot(dejavm_images::PAGING);
    machine.run(Position(4000));
    let before = (machine.save(), pages(&machine));
    let state = machine.cpu_state();
    let rip = Gva(state.seg[1].base + state.rip);
    let gpa = machine.translate(rip, None).expect("what is executed is mapped");
    assert_eq!(machine.translate(rip, Some(Gpa(state.cr3))), Some(gpa));
    let (mut by_linear, mut by_physical) = ([0; 64], [0; 64]);
    assert_eq!(machine.read_virtual(rip, None, &mut by_linear), 64);
    machine.ram().read(gpa, &mut by_physical).unwrap();
    assert_eq!(by_linear, by_physical);
    // Everywhere, mapped or not, with any space: nothing changes.
    let mut random = Random(3);
    for _ in 0..2000 {
        let at = Gva(random.below(1 << 32) << random.below(33));
        let space = [None, Some(Gpa(state.cr3)), Some(Gpa(random.below(1 << 22)))];
        let mut bytes = [0; 100];
        let space = space[random.below(3) as usize];
        let read = machine.read_virtual(at, space, &mut bytes);
        assert!(read == 0 || machine.translate(at, space).is_some());
    }
    assert_eq!(machine.read_virtual(Gva(u64::MAX - 3), None, &mut [0; 8]), 0);
    assert_eq!(machine.save(), before.0);
    assert!(pages(&machine) == before.1);

    // A write to decoded code is executed: the same place runs other instructions now.
    let mut patched = boot(dejavm_images::SPIN);
    patched.run(Position(100_000));
    let state = patched.cpu_state();
    let rip = Gva(state.seg[1].base + state.rip);
    // UD2 until the end of the page; there is no IDT.
    let room = (PAGE_SIZE - rip.page_offset()) as usize;
    let before = patched.position();
    assert_eq!(patched.write_virtual(rip, None, &[0x0f, 0x0b].repeat(room / 2)), room / 2 * 2);
    assert!(matches!(patched.run(Position(200_000)), Stop::End(_)));
    assert!(patched.position().0 - before.0 < 10, "{:?}", patched.position());
}

/// A breakpoint on the very instruction at which the timer is due: the interrupt comes first.
#[test]
fn what_is_due_at_a_breakpoint_comes_first() {
    let mut machine = boot(dejavm_images::DEMO);
    machine.run(Position(1_000_000));
    let state = machine.cpu_state();
    let mut gate = [0; 8];
    let vector_32 = Gva(state.idtr.base + 0x20 * 8);
    assert_eq!(machine.read_virtual(vector_32, None, &mut gate), 8);
    let handler = u64::from(u16::from_le_bytes([gate[0], gate[1]]))
        | u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16;
    let breakpoint = |at| Breakpoint { at: Gva(at), space: None };
    let tick = Stops { breakpoints: vec![breakpoint(handler)], ..Stops::default() };
    machine.set_stops(&tick);
    assert_eq!(machine.run(Position(FAR)), Stop::Breakpoint { at: Gva(handler) });
    let Position(due) = machine.position();

    let mut near = boot(dejavm_images::DEMO);
    near.run(Position(due - 10));
    let rip = near.cpu_state().rip;
    let everywhere = (rip - 100..rip + 100).chain([handler]).map(breakpoint).collect();
    near.set_stops(&Stops { breakpoints: everywhere, ..Stops::default() });
    for position in due - 9..=due {
        assert!(matches!(near.run(Position(FAR)), Stop::Breakpoint { .. }));
        let mut direct = boot(dejavm_images::DEMO);
        assert_eq!(direct.run(Position(position)), Stop::Limit);
        assert!(near.save() == direct.save(), "{position}");
    }
    assert_eq!(near.cpu_state().rip, handler);
}
