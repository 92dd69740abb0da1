//! Our own guests on a real KVM: against the software CPU, and recorded and replayed. `run.sh` runs this in the lab, a KVM host that
//! QEMU emulates; it runs on any host whose KVM can be the machine's processor.
#![forbid(unsafe_code)]

mod accesses;
mod counted;
mod debugging;
mod exact;

use dejavm_kvm::{Host, KvmEngine, KvmError, on_kvm};
use dejavm_machine::{Boot, End, Executor, Machine, MachineConfig, Output, Stop, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    CheckpointPolicy, Moment, Observer, RecordOptions, ReplayError, ReplayOptions, Replayed,
    Replayer, TranscribeError, transcribe,
};
use dejavm_scenarios::{Desk, Random, rebuild, tape};
use dejavm_units::Position;
use std::io::Cursor;
use std::process::ExitCode;

/// Replays of each guest.
const REPLAYS: usize = 20;
/// Ways in which the engines take turns.
const TURNS: u64 = 10;
/// Processor time between two kicks, in microseconds: always the same, for the lab's processor makes landmarks dear, and guests here wait
/// for the time that passes at them.
const TURN_US: u32 = 10_000;
/// Exits between two digests.
const DIGEST_INTERVAL: u64 = 1000;
/// Guests that the tests of their own commands use: they wait for input, for other processors (by the time stamp counter, which stands
/// still between exits), or never end. The replays of `nmi`, which waits in a loop for a long time, take minutes: it is checked when it is
/// named (`dejavm-kvm-lab nmi`), and its accesses always.
const OTHERS: [&str; 7] = ["desk", "echo", "demo", "nmi", "spin", "race", "smp"];
/// Reads the time stamp counter, which KVM cannot keep from a guest.
const READS_THE_COUNTER: &str = "timer";

/// Wait for time in a loop without exits. By software no time passes for them, unless it is that of instructions.
const NEVER_LEAVE: [&str; 2] = ["counter", "nmi"];

fn main() -> ExitCode {
    // `guests FOLDER`: for the tests of commands.
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, folder] = arguments.as_slice()
        && word == "guests"
    {
        for (name, image) in dejavm_images::ALL {
            if let Err(error) = std::fs::write(format!("{folder}/{name}.elf"), image) {
                return fail(&format!("{name}: {error}"));
            }
        }
        return ExitCode::SUCCESS;
    }
    let host = match Host::open() {
        Ok(host) => host,
        Err(error) => return fail(&format!("no KVM: {error}")),
    };
    // A part of it, or one guest, for those who work on that.
    match arguments.get(1).map(String::as_str) {
        Some("accesses") => return say("devices", accesses::check(&host)),
        Some("debugging") => return say("a debugger on KVM", debugging::check(&host)),
        Some("exact") => return say("KVM by single steps", exact::check(&host)),
        Some(_) | None => {}
    }
    let guest = arguments.get(1);
    let is_meant = |name| guest.map_or(!OTHERS.contains(&name), |only| only == name);
    for (name, image) in dejavm_images::ALL.iter().filter(|(name, _)| is_meant(name)) {
        if let Err(sentence) = check(&host, name, image) {
            return fail(&format!("{name}: {sentence}"));
        }
    }
    if guest.is_some() {
        return ExitCode::SUCCESS;
    }
    let seen = say("devices", accesses::check(&host));
    if seen != ExitCode::SUCCESS {
        return seen;
    }
    let counted = counted::check_trials(&host).and_then(|()| counted::check(&host));
    if let Err(sentence) = counted {
        return fail(&format!("counted: {sentence}"));
    }
    let stepped = say("KVM by single steps", exact::check(&host));
    if stepped != ExitCode::SUCCESS {
        return stepped;
    }
    say("a debugger on KVM", debugging::check(&host))
}

/// What a part found.
fn say(what: &str, found: Result<String, String>) -> ExitCode {
    match found {
        Ok(found) => {
            println!("{what}: {found}");
            ExitCode::SUCCESS
        }
        Err(sentence) => fail(&format!("{what}: {sentence}")),
    }
}

fn fail(sentence: &str) -> ExitCode {
    println!("FAILED: {sentence}");
    ExitCode::FAILURE
}

/// One guest: what it shows is the same on both engines, and every replay of a recording is equal, or is found not to be.
fn check(host: &Host, name: &str, image: &[u8]) -> Result<(), String> {
    let is_exact = name != READS_THE_COUNTER;
    let by_instructions = MachineConfig { cpu: config().cpu, ..MachineConfig::new(config().ram) };
    let soft = if NEVER_LEAVE.contains(&name) { by_instructions } else { config() };
    let (expected, soft_end) = run(&mut boot_as(&soft, image))?;
    let (shown, end) =
        run(&mut machine_on_kvm(host, boot(image)).map_err(|error| error.to_string())?)?;
    // What follows are times.
    let same = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.split(" tsc ").next().and_then(|text| text.split(" at").next()).map(str::to_owned)
    };
    let well = End::DebugExit(dejavm_images::EXIT_OK.into());
    if end != soft_end || end != well || same(&shown) != same(&expected) {
        return Err(format!(
            "on KVM {end:?}, {}, and by software {soft_end:?}, {}",
            String::from_utf8_lossy(&shown),
            String::from_utf8_lossy(&expected)
        ));
    }
    // Positions of one engine are not the other's, so a guest that waits for time has another one.
    for seed in (1..=TURNS).filter(|_| is_exact && !NEVER_LEAVE.contains(&name)) {
        let (shown, end) = taking_turns(host, image, seed)?;
        if end != soft_end || same(&shown) != same(&expected) {
            let shown = String::from_utf8_lossy(&shown);
            return Err(format!("with engines taking turns (seed {seed}) {end:?}, {shown}"));
        }
    }
    let machine = machine_on_kvm(host, boot(image)).map_err(|error| error.to_string())?;
    let recorded = tape(machine, config(), &mut Desk::new(), DIGEST_INTERVAL, None);
    for n in 1..=REPLAYS {
        match (replay(host, &recorded.file), is_exact) {
            (Ok(_), _) | (Err(ReplayError::Divergence(_)), false) => {}
            (Err(error), _) => return Err(format!("replay {n}: {error}")),
        }
    }
    let instructions = match by_software(&recorded.file) {
        Ok(instructions) => format!("{instructions} instructions"),
        Err(TranscribeError::Replay(ReplayError::Divergence(_))) if !is_exact => {
            "found to differ".to_owned()
        }
        Err(error) => return Err(format!("by software: {error}")),
    };
    let how = if is_exact { "equal" } else { "equal, or found to differ" };
    println!(
        "{name}: as by software; {REPLAYS} replays of {} exits {how}; by software {instructions}",
        recorded.recorded.at.position.0
    );
    Ok(())
}

/// Follows a recording by software, with instructions for positions, and replays that: how many there are.
fn by_software(file: &[u8]) -> Result<u64, TranscribeError> {
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
    let mut transcribed = Vec::new();
    let recorded = transcribe(replayer, machine, &mut transcribed, &options, &mut |_| true)?;
    let again = dejavm_scenarios::replay(
        &transcribed,
        dejavm_cpu::Tuning::default(),
        &ReplayOptions::default(),
    )?;
    assert_eq!(
        again.replayed.last_digest.as_ref(),
        Some(&recorded.digest),
        "a replay is the recording"
    );
    Ok(recorded.at.position.0)
}

fn config() -> MachineConfig {
    let ram = RamLayout::new(2 << 20).expect("a size that can be");
    // An exit is a position, and takes a microsecond.
    let config = MachineConfig::new(ram);
    MachineConfig { time_base: TimeBase::Exits, cpu: on_kvm(config.cpu), ..config }
}

fn boot(image: &[u8]) -> Machine {
    boot_as(&config(), image)
}

fn boot_as(config: &MachineConfig, image: &[u8]) -> Machine {
    let boot = Boot { image, initrd: None, cmdline: "" };
    Machine::boot(config, &boot).expect("our own guests boot")
}

fn machine_on_kvm(host: &Host, machine: Machine) -> Result<Machine, KvmError> {
    let engine = KvmEngine::new(host, config().cpu, 0)?.leaving_landmarks().kicked_after(TURN_US);
    Ok(with(engine, machine))
}

fn with(engine: KvmEngine, mut machine: Machine) -> Machine {
    machine.set_executor(Some(Box::new(engine)));
    machine
}

/// Runs to the end with the state going from engine to engine, at pseudo-random moments.
fn taking_turns(host: &Host, image: &[u8], seed: u64) -> Result<(Vec<u8>, End), String> {
    let mut machine = boot(image);
    let mut random = Random::new(seed);
    let mut console = Vec::new();
    loop {
        let on_kvm = random.below(2) == 0;
        let engine = KvmEngine::new(host, config().cpu, 0).map_err(|error| error.to_string())?;
        machine.set_executor(on_kvm.then(|| Box::new(engine) as Box<dyn Executor>));
        // Exits are far apart, instructions are not.
        let turn = 1 + random.below(if on_kvm { 20 } else { 20_000 });
        match machine.run_alone(Position(machine.position().0 + turn), &mut console) {
            Stop::Limit => {}
            Stop::End(End::EngineFailed) => {
                return Err(machine.engine_failure().unwrap_or_default().to_owned());
            }
            Stop::End(end) => return Ok((console, end)),
            stop => return Err(format!("it stopped: {stop:?}")),
        }
    }
}

/// Runs to the end: what it said on the debug console, and how it ended.
fn run(machine: &mut Machine) -> Result<(Vec<u8>, End), String> {
    let mut console = Vec::new();
    match machine.run_alone(Position(u64::MAX / 2), &mut console) {
        Stop::End(End::EngineFailed) => {
            Err(machine.engine_failure().unwrap_or_default().to_owned())
        }
        Stop::End(end) => Ok((console, end)),
        stop => Err(format!("it stopped: {stop:?}")),
    }
}

fn replay(host: &Host, file: &[u8]) -> Result<Replayed, ReplayError> {
    struct Nobody;
    impl Observer for Nobody {
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _at: Moment) -> bool {
            true
        }
    }
    let mut replayer = Replayer::open(Cursor::new(file))?;
    let machine = rebuild(&mut replayer)?;
    let engine = KvmEngine::new_unchecked(host, config().cpu, 0)
        .map_err(|error| ReplayError::Machine(error.to_string()))?;
    let mut machine = with(engine, machine);
    replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody)
}
