//! A Debian kernel on a real KVM: it boots, works and switches off; then once more, recorded, and that recording is replayed.
//! `run.sh` runs this in the lab, a KVM host that QEMU emulates.
//!
//! The replay is not equal, and must be found not to be: to come by a landmark the software CPU executes what KVM did. On any host, what
//! differs is what the kernel takes from the time stamp counter, which KVM cannot keep from it. The parameters below leave
//! `random_get_entropy`, which is RDTSC whatever CPUID says: of it are the kernel's random numbers, and of those the free lists of its
//! allocator, the canaries of its stacks, the addresses in its programs. In the lab it is found out sooner, for QEMU's processor
//! (7.2) is no faithful one: it does not mark a code segment as accessed that a far return loads, and pushes no RF for
//! faults (SDM vol. 3A, 3.4.5.1; vol. 3B, 17.3.1.1).
//!
//! usage: dejavm-kvm-lab-linux [KERNEL INITRD [PARAMETERS]]
#![forbid(unsafe_code)]

mod watched;

use dejavm_kvm::Host;
use dejavm_machine::{Boot, End, Machine, MachineConfig, Output, Stop, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_replay::{Ending, ReplayError};
use dejavm_scenarios::{Desk, tape, verdict};
use dejavm_units::Position;
use std::process::ExitCode;
use watched::{Runs, on_kvm, read, replay};

/// Where `run.sh` puts the guest.
const KERNEL: &str = "/guest/vmlinuz-cloud-amd64";
const INITRD: &str = "/guest/initramfs-amd64.gz";
/// What the guest does: a shell's loop.
const WORKLOAD: &str = "bench";
/// The kernel's command line, and why. On KVM guest time passes by exits, and the time stamp counter is the host's: a kernel that
/// measures one by the other finds them at odds, and what it takes from the latter no recording holds.
const PARAMETERS: [&str; 8] = [
    // What it says there is what is compared.
    "console=ttyS0",
    // A reset, and not a wait for somebody who looks.
    "panic=-1",
    // A letter is two exits, and an exit takes 50 us in the lab.
    "quiet",
    // Half of a boot's instructions, and no part of what is tested.
    "cryptomgr.notests",
    // The kernel's place, else a random number: of the time stamp counter.
    "nokaslr",
    // Sched_clock, and with it each line of the kernel's log, by jiffies; time of day by the ACPI timer, which is our device; delays
    // by a loop that is calibrated with our timer.
    "clearcpuid=tsc",
    // It waits for interrupts of the 8254 by such a delay, before the loop is calibrated.
    "no_timer_check",
    // Where a system call's stack begins, else by the time stamp counter, at each call.
    "randomize_kstack_offset=off",
];
/// Positions between two digests: 100 ms of guest time.
const DIGEST_INTERVAL: u64 = 100_000;
/// Kicked as `record` does it.
const TURN_US: u32 = 10_000;
/// As the scenarios with this guest have it.
const RAM_BYTES: u64 = 256 << 20;
/// Positions between two looks at what the guest says.
const SLICE: u64 = 10_000;

fn main() -> ExitCode {
    match boot_and_replay() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("FAILED: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn boot_and_replay() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let kernel = read(&arguments.next().unwrap_or(KERNEL.into()))?;
    let initrd = read(&arguments.next().unwrap_or(INITRD.into()))?;
    let parameters = arguments.next().unwrap_or(PARAMETERS.join(" "));
    let cmdline = &format!("{parameters} dejavm.workload={WORKLOAD}");
    let boot = || {
        let boot = Boot { image: &kernel, initrd: Some(&initrd), cmdline };
        Machine::boot(&config(), &boot).map_err(|error| format!("the kernel: {error}"))
    };
    let host = Host::open().map_err(|error| format!("no KVM: {error}"))?;

    let (mut machine, watch) = on_kvm(&host, boot()?, config().cpu, Runs::Live(TURN_US))?;
    let (end, console) = alone(&mut machine);
    println!("linux: {}, {watch}", guest_time(machine.guest_ns().0));
    as_expected(end, &console).map_err(|error| {
        format!("{error} ({})", machine.engine_failure().unwrap_or("its own end"))
    })?;

    let (machine, watch) = on_kvm(&host, boot()?, config().cpu, Runs::Live(TURN_US))?;
    let mut desk = Desk::new();
    let recorded = tape(machine, config(), &mut desk, DIGEST_INTERVAL, None);
    let (at, log) = (recorded.recorded.at, recorded.recorded.log_bytes);
    println!("linux, recorded: {}, {watch}; {log} bytes of log", guest_time(at.guest_ns.0));
    let end = match recorded.recorded.ending {
        Ending::Guest(end) => Some(end),
        Ending::Stopped => None,
    };
    as_expected(end, &desk.console()).map_err(|error| format!("recorded: {error}"))?;

    let (result, watch) = replay(&host, &recorded.file)?;
    println!("linux, replayed: {watch}");
    match result {
        Ok(_) => println!("linux, replayed: equal to its end"),
        Err(ReplayError::Divergence(divergence)) => println!("linux, replayed: {divergence}"),
        Err(error) => return Err(format!("the replay: {error}")),
    }
    Ok(())
}

fn guest_time(ns: u64) -> String {
    format!("{} ms for the guest", ns / 1_000_000)
}

fn config() -> MachineConfig {
    let ram = RamLayout::new(RAM_BYTES).expect("a size that a board can have");
    let config = MachineConfig::new(ram);
    MachineConfig { time_base: TimeBase::Exits, cpu: dejavm_kvm::on_kvm(config.cpu), ..config }
}

/// Runs to the end, idle time skipped: how it ended, and what it said on its serial line.
fn alone(machine: &mut Machine) -> (Option<End>, String) {
    let mut console = Vec::new();
    let end = loop {
        let stop = machine.run(Position(machine.position().0.saturating_add(SLICE)));
        // Nobody replays this.
        machine.take_landmarks();
        for output in machine.take_output() {
            if let Output::Serial { bytes, .. } = output {
                console.extend(bytes);
            }
        }
        match stop {
            Stop::Limit => {}
            Stop::Idle { wake: Some(wake) } => {
                machine.idle_until(wake);
            }
            Stop::End(end) => break Some(end),
            Stop::Idle { wake: None } | Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                break None;
            }
        }
    };
    (end, String::from_utf8_lossy(&console).into_owned())
}

/// Whether it ended as it should, and said what it should.
fn as_expected(end: Option<End>, console: &str) -> Result<(), String> {
    let begins = format!("DEJAVM-INIT {WORKLOAD} on ");
    let verdict = verdict(WORKLOAD);
    let mut lines = [begins.as_str(), verdict.as_str()].into_iter();
    match (end, lines.find(|line| !console.contains(line))) {
        (Some(End::PowerOff), None) => Ok(()),
        (end, None) => Err(format!("it ended with {end:?}: {console}")),
        (end, Some(line)) => Err(format!("it ended with {end:?} and without `{line}`: {console}")),
    }
}
