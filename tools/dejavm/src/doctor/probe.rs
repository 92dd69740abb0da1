//! What the host's KVM does with guests, found out by running them. In a process of its own: a KVM that cannot run a guest may not
//! come back from it.

use dejavm_kvm::pmu;
use dejavm_kvm::{Host, KvmEngine, Ring, Stopping, TrialPlan};
use dejavm_machine::{Boot, CpuState, End, Machine, MachineConfig, Stop, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_units::{Gpa, Position};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// All of it takes less than a second where KVM is what it should be.
const PATIENCE: Duration = Duration::from_secs(15);
/// Guests of ours and what they exercise.
const GUESTS: [(&str, &[u8], &str); 4] = [
    ("hello", dejavm_images::HELLO, "32-bit code without paging"),
    (
        "modes",
        dejavm_images::MODES,
        "real, 16-bit, 32-bit and 64-bit code, and the ways between them",
    ),
    ("paging", dejavm_images::PAGING, "page tables of all kinds, and page faults"),
    ("smc", dejavm_images::SMC, "code that changes itself"),
];
/// How the host's counter of branches is tried: some 20 000 interrupts.
const PLAN: TrialPlan = TrialPlan {
    runs: 2_000,
    branches: 20_000,
    period: NonZeroU64::new(2_000).expect("it is not 0"),
};
/// Where the loops are put.
const LOOP_AT: u64 = 0x9000;
/// `loop: out 0x80, al; loop loop`
const EXITS: u32 = 2_000;
/// `loop: dec ecx; jnz loop`
const INSTRUCTIONS: u32 = 2_000_000;

/// A step, found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// What the step was for, and what went wrong, if something did.
    Checked(String, Option<String>),
    /// Nanoseconds that an exit takes.
    ExitNs(u64),
    /// Millions of instructions of the kernel's mode in a second.
    KernelRate(f64),
    /// How guests are to be stopped, and what happens instead, if something does.
    Stops(String, Option<String>),
    /// What became of the host's counter of branches: whether it is a clock, and why or how.
    Counter(bool, String),
    /// Whether the rate of guests' time stamp counter can be chosen, and what is said of it.
    Tsc(bool, String),
    /// Nothing is missing.
    Whole,
}

/// Runs the probe in a process of its own; as far as it came.
pub fn run() -> Vec<Step> {
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let child = Command::new(program)
        .args(["doctor", "--probe-kvm"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return Vec::new() };
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let Ok(step) = serde_json::from_str(&line) else { return };
            if sender.send(step).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let mut steps = Vec::new();
    while let Ok(step) = receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
        steps.push(step);
    }
    // Whether it ended or hangs: there is nothing more to learn from it.
    let _ = child.kill();
    let _ = child.wait();
    steps
}

/// The probe itself: a line of JSON for each step.
pub fn probe() -> io::Result<()> {
    let mut out = io::stdout();
    let mut tell =
        |step: Step| writeln!(out, "{}", serde_json::to_string(&step)?).and_then(|()| out.flush());
    let host = match Host::open() {
        Ok(host) => host,
        Err(error) => return tell(Step::Checked("the device".into(), Some(error.to_string()))),
    };
    tell(Step::Checked("the device".into(), None))?;
    let model = KvmEngine::new(&host, config().cpu, 0).err();
    tell(Step::Checked("the CPU model".into(), model.map(|error| error.to_string())))?;
    for (_, image, what) in GUESTS {
        tell(Step::Checked(what.into(), guest(&host, image).err()))?;
    }
    match timed(&host, &loop_code(EXITS, &[0xe6, 0x80, 0xe2, 0xfc])) {
        Ok(time) => tell(Step::ExitNs(time.as_nanos() as u64 / u64::from(EXITS)))?,
        Err(error) => return tell(Step::Checked("port accesses".into(), Some(error))),
    }
    match timed(&host, &loop_code(INSTRUCTIONS / 2, &[0x49, 0x75, 0xfd])) {
        Ok(time) => {
            tell(Step::KernelRate(f64::from(INSTRUCTIONS) / time.as_secs_f64() / 1e6))?;
        }
        Err(error) => return tell(Step::Checked("a loop".into(), Some(error))),
    }
    let tsc = host.tsc();
    tell(Step::Tsc(tsc.is_scaled, tsc.to_string()))?;
    for (ring, whose) in [(Ring::Kernel, "the kernel"), (Ring::Programs, "programs")] {
        for (stopping, what) in
            [(Stopping::Steps, "single steps"), (Stopping::Breakpoints, "breakpoints")]
        {
            let tried = engine(&host).and_then(|mut engine| engine.try_stopping(ring, stopping));
            tell(Step::Stops(format!("{what} in {whose}"), tried.err()))?;
        }
    }
    if let Ok(pmu) = pmu::find() {
        match KvmEngine::proved_counter(&host, config().cpu, &pmu, PLAN) {
            Ok((_, trial)) => tell(Step::Counter(true, trial.to_string()))?,
            Err(error) => tell(Step::Counter(false, error.to_string()))?,
        }
    }
    tell(Step::Whole)
}

fn config() -> MachineConfig {
    let ram = RamLayout::new(2 << 20).expect("a size that can be");
    MachineConfig { time_base: TimeBase::Exits, ..MachineConfig::new(ram) }
}

fn engine(host: &Host) -> Result<KvmEngine, String> {
    KvmEngine::new_unchecked(host, config().cpu, 0).map_err(|error| error.to_string())
}

fn boot(image: &[u8]) -> Machine {
    let boot = Boot { image, initrd: None, cmdline: "" };
    Machine::boot(&config(), &boot).expect("our own guests boot")
}

/// One of our guests, on KVM as by software.
fn guest(host: &Host, image: &[u8]) -> Result<(), String> {
    let expected = to_end(&mut boot(image))?;
    let mut machine = boot(image);
    machine.set_executor(Some(Box::new(engine(host)?)));
    match to_end(&mut machine)? {
        found if found == expected => Ok(()),
        (_, end) => {
            Err(format!("the guest does not do what it does by software; it ended with {end:?}"))
        }
    }
}

fn to_end(machine: &mut Machine) -> Result<(Vec<u8>, End), String> {
    let mut console = Vec::new();
    match machine.run_alone(Position(u64::MAX / 2), &mut console) {
        Stop::End(End::EngineFailed) => {
            Err(machine.engine_failure().unwrap_or_default().to_owned())
        }
        Stop::End(end) => Ok((console, end)),
        stop => Err(format!("it stopped: {stop:?}")),
    }
}

/// `mov ecx, count`, a loop, and the way out: `mov al, 0x10; out 0xf4, al`.
fn loop_code(count: u32, body: &[u8]) -> Vec<u8> {
    [&[0xb9][..], &count.to_le_bytes(), body, &[0xb0, 0x10, 0xe6, 0xf4]].concat()
}

/// How long code takes in the kernel's 32-bit mode.
fn timed(host: &Host, code: &[u8]) -> Result<Duration, String> {
    let mut machine = boot(dejavm_images::HELLO);
    machine.ram_mut().write(Gpa(LOOP_AT), code).expect("there is RAM");
    machine.set_cpu_state(&CpuState { rip: LOOP_AT, ..machine.cpu_state() });
    machine.set_executor(Some(Box::new(engine(host)?)));
    let started = Instant::now();
    to_end(&mut machine)?;
    Ok(started.elapsed())
}
