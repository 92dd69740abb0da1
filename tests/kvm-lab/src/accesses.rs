//! What devices see of a guest is the same on KVM and by software: every access to a port and to memory-mapped registers, with width and
//! value, every halt and every interrupt acknowledged, in one order.

use crate::{READS_THE_COUNTER, TURN_US, boot, config, with};
use dejavm_images::ALL;
use dejavm_kvm::{Host, KvmEngine};
use dejavm_machine::{Access, Executor, Input, Machine, Stop};
use dejavm_replay::{Observer, ReplayOptions, Replayer};
use dejavm_scenarios::{ByExits, Desk, rebuild, tape_of};
use dejavm_units::Position;
use std::io::Cursor;

/// They want other processors, and wait for them by the time stamp counter.
const OF_SEVERAL_PROCESSORS: [&str; 2] = ["race", "smp"];
/// They wait in loops without exits, so for time that no exit brings: a landmark does.
const NEVER_LEAVE: [&str; 2] = ["counter", "nmi"];
/// A hundred million instructions each, which hardly ever leave: software looks for their landmarks for minutes in the lab.
const COMPUTE: [&str; 2] = ["demo", "spin"];
/// Wants keys and a mouse.
const WANTS_A_PERSON: &str = "desk";
/// What the guest that waits for input is sent before it starts.
const TYPED: &[u8] = b"dejavm\nq";

struct Nobody;
impl Observer for Nobody {}

/// Compares all guests that can be.
pub fn check(host: &Host) -> Result<String, String> {
    let left_out = |name| why_not(name).is_some();
    for (name, why) in ALL.iter().filter_map(|&(name, _)| Some((name, why_not(name)?))) {
        println!("{name}: accesses are not compared: it {why}");
    }
    let (mut guests, mut all) = (0, 0);
    for (name, image) in ALL.iter().filter(|(name, _)| !left_out(name)) {
        let accesses = guest(host, name, image).map_err(|error| format!("{name}: {error}"))?;
        println!("{name}: {accesses} accesses, the same on KVM and by software");
        guests += 1;
        all += accesses;
    }
    Ok(format!("{all} accesses of {guests} guests are the same on KVM and by software"))
}

/// Why a guest is not compared.
fn why_not(name: &str) -> Option<&'static str> {
    match name {
        WANTS_A_PERSON => Some("waits for keys"),
        _ if COMPUTE.contains(&name) => Some("computes for long, and has few"),
        _ if name == READS_THE_COUNTER || OF_SEVERAL_PROCESSORS.contains(&name) => {
            Some("reads the time stamp counter")
        }
        _ => None,
    }
}

/// One guest: how many accesses it makes.
fn guest(host: &Host, name: &str, image: &[u8]) -> Result<usize, String> {
    let on_kvm = || KvmEngine::new(host, config().cpu, 0).map_err(|error| error.to_string());
    // Each engine by itself.
    if !NEVER_LEAVE.contains(&name) {
        let expected = alone(started(image))?;
        same("on KVM", &alone(with(on_kvm()?, started(image)))?, &expected)?;
    }
    // Both with the same landmarks.
    let mut live = with(on_kvm()?.leaving_landmarks().kicked_after(TURN_US), started(image));
    let file = tape_of(&mut live, config(), &mut Desk::new(), 1000, None).file;
    let recorded = live.take_accesses();
    if recorded.is_empty() {
        return Err("no accesses".to_owned());
    }
    same("in a replay on KVM", &replayed(&file, Box::new(on_kvm()?))?, &recorded)?;
    let by_software = replayed(&file, Box::new(ByExits::replaying()))?;
    same("in a replay by software", &by_software, &recorded)?;
    Ok(recorded.len())
}

/// A machine that is about to start and keeps its accesses.
fn started(image: &[u8]) -> Machine {
    let mut machine = boot(image);
    machine.keep_accesses();
    machine.apply(&Input::Serial { port: 0, bytes: TYPED.to_vec() });
    machine
}

fn alone(mut machine: Machine) -> Result<Vec<Access>, String> {
    match machine.run_alone(Position(u64::MAX / 2), &mut Vec::new()) {
        Stop::End(_) if machine.engine_failure().is_none() => Ok(machine.take_accesses()),
        stop => Err(format!("{stop:?}, {}", machine.engine_failure().unwrap_or_default())),
    }
}

fn replayed(file: &[u8], executor: Box<dyn Executor>) -> Result<Vec<Access>, String> {
    let mut replayer = Replayer::open(Cursor::new(file)).map_err(|error| error.to_string())?;
    let mut machine = rebuild(&mut replayer).map_err(|error| error.to_string())?;
    machine.keep_accesses();
    machine.set_executor(Some(executor));
    let result = replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody);
    result.map_err(|error| error.to_string())?;
    Ok(machine.take_accesses())
}

/// Compares two lists, and says where they part.
fn same(what: &str, got: &[Access], expected: &[Access]) -> Result<(), String> {
    let parts = got.iter().zip(expected).position(|(got, expected)| got != expected);
    let Some(n) = parts.or((got.len() != expected.len()).then_some(got.len().min(expected.len())))
    else {
        return Ok(());
    };
    let (got, expected) = (got.get(n), expected.get(n));
    Err(format!("{what} access {n} is {got:x?}, and was expected to be {expected:x?}"))
}
