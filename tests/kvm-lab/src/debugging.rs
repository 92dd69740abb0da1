//! A debugger on KVM: it stops where it stops on the software CPU, whether debug registers found the place or not, and what it does to
//! a machine that is recorded is in the recording.

use crate::TURN_US;
use crate::{boot, by_software, config, replay, with};
use dejavm_cpu::{Breakpoint, CpuState, SegReg, Stops, WatchKind, Watchpoint, rflags};
use dejavm_kvm::{Host, KvmEngine};
use dejavm_machine::{End, Input, Machine, Register, Stop};
use dejavm_replay::{Advance, CheckpointPolicy, Header, RecordOptions, Recorder, SEMANTICS};
use dejavm_scenarios::{ByExits, Desk, Random};
use dejavm_units::{Gva, Position};

/// Guests that do the same however long it takes: they wait for no time.
const TIMELESS: [(&str, &[u8]); 4] = [
    ("hello", dejavm_images::HELLO),
    ("paging", dejavm_images::PAGING),
    ("priority", dejavm_images::PRIORITY),
    ("smc", dejavm_images::SMC),
];
/// Choices of stops for each.
const CHOICES: u64 = 4;
/// Stops and steps at each choice, before the guest runs on to its end.
const STOPS_MAX: usize = 30;
/// Places to choose from.
const PLACES_MAX: usize = 300;
/// Nowhere near the stack: what is pushed there when exceptions are delivered, debug registers need not tell.
const STACK_BYTES: u64 = 256;

/// Runs all of it; what it did.
pub fn check(host: &Host) -> Result<String, String> {
    let mut stops = 0;
    for (name, image) in TIMELESS {
        let places = places(image);
        for seed in 1..=CHOICES {
            stops += side_by_side(host, image, &places, seed)
                .map_err(|sentence| format!("{name}, seed {seed}: {sentence}"))?;
        }
    }
    let mut writes = 0;
    for (name, image) in TIMELESS.into_iter().chain([("counter", dejavm_images::COUNTER)]) {
        let places = places(image);
        writes += recorded(host, image, &places, 1)
            .map_err(|sentence| format!("{name}, recorded: {sentence}"))?;
    }
    Ok(format!(
        "{stops} stops and steps as on the software CPU; {writes} writes of a debugger's replayed"
    ))
}

fn by_exits(image: &[u8]) -> Machine {
    let mut machine = boot(image);
    machine.set_executor(Some(Box::new(ByExits::replaying())));
    machine
}

/// What of a state both engines know.
fn comparable(machine: &Machine) -> CpuState {
    let state = machine.cpu_state();
    let rflags = state.rflags & !rflags::RF;
    CpuState { deliveries: 0, pdpte: [0; 4], rflags, ..state }
}

/// In words.
fn difference(soft: &CpuState, kvm: &CpuState) -> String {
    let lines = |state: &CpuState| format!("{state:#x?}");
    let (soft, kvm) = (lines(soft), lines(kvm));
    let pairs = soft.lines().zip(kvm.lines()).filter(|(a, b)| a != b);
    pairs.map(|(a, b)| format!("{} (by software {}) ", b.trim(), a.trim())).collect()
}

/// Addresses that a guest executes, and that it accesses.
type Places = (Vec<Gva>, Vec<Gva>);

fn places(image: &[u8]) -> Places {
    let mut machine = by_exits(image);
    let all = Watchpoint { start: Gva(0), bytes: 1 << 32, kind: WatchKind::Access, space: None };
    machine.set_stops(&Stops { breakpoints: Vec::new(), watchpoints: vec![all] });
    let (mut code, mut data, mut console) = (Vec::new(), Vec::new(), Vec::new());
    while code.len() < PLACES_MAX {
        let Stop::Watchpoint { address, .. } =
            machine.run_alone(Position(u64::MAX / 2), &mut console)
        else {
            break;
        };
        let state = machine.cpu_state();
        code.push(Gva(state.seg[SegReg::Cs as usize].base.wrapping_add(state.rip)));
        if address.0.abs_diff(state.gpr[dejavm_cpu::gpr::RSP]) > STACK_BYTES {
            data.push(address);
        }
    }
    (code, data)
}

fn random_stops(random: &mut Random, (code, data): &Places) -> Stops {
    let mut stops = Stops::default();
    for _ in 0..random.below(7) {
        let at = code[random.below(code.len() as u64) as usize];
        stops.breakpoints.push(Breakpoint { at, space: None });
    }
    for _ in 0..random.below(3) {
        let at = data[random.below(data.len() as u64) as usize];
        let bytes = 1 << random.below(3);
        let kinds = [WatchKind::Write, WatchKind::Write, WatchKind::Read, WatchKind::Access];
        let kind = kinds[random.below(4) as usize];
        let start = Gva(at.0 / bytes * bytes);
        stops.watchpoints.push(Watchpoint { start, bytes, kind, space: None });
    }
    stops
}

/// One guest on both engines, with the same stops; how many were met.
fn side_by_side(host: &Host, image: &[u8], places: &Places, seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let stops = random_stops(&mut random, places);
    let mut soft = by_exits(image);
    // No landmarks: a busy lab would leave some, and time would pass there.
    let engine =
        KvmEngine::new_unchecked(host, config().cpu, 0).map_err(|error| error.to_string())?;
    let mut kvm = with(engine, boot(image));
    let mut said = [Vec::new(), Vec::new()];
    let [by_soft, by_kvm] = &mut said;
    soft.set_stops(&stops);
    kvm.set_stops(&stops);
    let mut count = 0;
    loop {
        let far = Position(u64::MAX / 2);
        let (expected, got) = if count > 0 && random.below(3) == 0 {
            (soft.step(), kvm.step())
        } else {
            (soft.run_alone(far, by_soft), kvm.run_alone(far, by_kvm))
        };
        let same = match (expected, got) {
            (
                Stop::Watchpoint { index: a, address: _, kind: k },
                Stop::Watchpoint { index: b, address: _, kind: l },
            ) => a == b && k == l,
            (a, b) => a == b,
        };
        let (a, b) = (comparable(&soft), comparable(&kvm));
        if !same || a != b {
            let what = difference(&a, &b);
            return Err(format!(
                "after {count} stops of {stops:x?}: {got:x?}, by software {expected:x?}: {what}"
            ));
        }
        match expected {
            Stop::End(End::EngineFailed) => {
                return Err(kvm.engine_failure().unwrap_or_default().to_owned());
            }
            Stop::End(_) => break,
            _ => count += 1,
        }
        if count == STOPS_MAX {
            soft.set_stops(&Stops::default());
            kvm.set_stops(&Stops::default());
        }
    }
    for (machine, said) in [&mut soft, &mut kvm].into_iter().zip(&mut said) {
        machine.run_alone(Position(u64::MAX / 2), said);
    }
    if said[0] != said[1] {
        return Err("the console differs".to_owned());
    }
    Ok(count)
}

/// One guest recorded under a debugger that stops, steps and writes; it replays on KVM and by software.
fn recorded(host: &Host, image: &[u8], places: &Places, seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed);
    let engine =
        KvmEngine::new_unchecked(host, config().cpu, 0).map_err(|error| error.to_string())?;
    let machine = with(engine.leaving_landmarks().kicked_after(TURN_US), boot(image));
    let mut header = Header {
        creator: "dejavm-kvm-lab".to_owned(),
        semantics: SEMANTICS,
        config: config(),
        guest: Vec::new(),
        digest_interval: crate::DIGEST_INTERVAL,
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
    let mut file = Vec::new();
    let mut desk = Desk::new();
    let mut recorder =
        Recorder::new(machine, &mut file, &options).map_err(|error| error.to_string())?;
    recorder.guest_mut().set_stops(&random_stops(&mut random, places));
    let (mut stopped, mut writes) = (0, 0);
    let recorded = loop {
        let advance = match stopped > 0 && stopped < STOPS_MAX && random.below(2) == 0 {
            true => recorder.step(&mut desk),
            false => recorder.advance(&mut desk, None),
        };
        let advance = advance.map_err(|error| error.to_string())?;
        match advance {
            Advance::Running => {}
            Advance::Limit | Advance::Stopped(_) => {
                stopped += 1;
                if stopped % 8 == 0 {
                    let stops = random_stops(&mut random, places);
                    recorder.guest_mut().set_stops(&stops);
                }
                if stopped >= STOPS_MAX {
                    recorder.guest_mut().set_stops(&Stops::default());
                }
                if random.below(3) == 0 {
                    // What no guest of ours looks at.
                    let value = u128::from(random.below(1 << 40));
                    let values = vec![(Register::Xmm(3), value)];
                    recorder
                        .enter(Input::WriteRegisters { values })
                        .map_err(|error| error.to_string())?;
                    writes += 1;
                }
            }
            Advance::Ended(ending) => {
                break recorder.finish(&mut desk, ending).map_err(|error| error.to_string())?;
            }
        }
    };
    for _ in 0..3 {
        let replayed = replay(host, &file).map_err(|error| format!("on KVM: {error}"))?;
        if replayed.console != recorded.console {
            return Err("another console".to_owned());
        }
    }
    by_software(&file).map_err(|error| format!("by software: {error}"))?;
    Ok(writes)
}
