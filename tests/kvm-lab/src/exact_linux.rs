//! A Linux that replays exactly on KVM: one that executes no RDTSC where CPUID says that there is no time stamp counter
//! (`images/build-linux-586.sh`). It is recorded on KVM several times, each time stopped elsewhere, and every recording is replayed on KVM
//! to equal digests. `run.sh` runs this in the lab, a KVM host that QEMU emulates, and takes the recordings home, where the software
//! CPU follows them.
//!
//! usage: dejavm-kvm-lab-exact [RECORDINGS [REPLAYS]]
#![forbid(unsafe_code)]

mod watched;

use dejavm_kvm::Host;
use dejavm_machine::{Boot, End, Machine, MachineConfig, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_replay::{Ending, Replayed};
use dejavm_scenarios::{Desk, tape};
use std::process::{Command, ExitCode};
use watched::{Runs, on_kvm, read, replay};

/// Where `run.sh` puts the guest.
const KERNEL: &str = "/guest/vmlinux-586";
const INITRD: &str = "/guest/initramfs-586.cpio";
/// What the guest does: a little of everything (`images/initramfs-586`).
const WORKLOAD: &str = "short";
/// None of these is needed: the console is what is compared, a letter of the log is two exits of 50 us each, and nobody looks at a panic.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1";
/// Recordings, and replays of each: twenty.
const RECORDINGS: usize = 4;
const REPLAYS: usize = 5;
/// Positions between two digests: 20 ms of guest time.
const DIGEST_INTERVAL: u64 = 20_000;
const RAM_BYTES: u64 = 32 << 20;
/// The guest is kicked after so many microseconds without an exit: far more often than others are, so that there are many landmarks.
const TURN_US: u32 = 1_000;
/// Where recordings are written.
const FOLDER: &str = "/";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().ok());
    let mut number = |default| arguments.next().flatten().unwrap_or(default);
    match check(number(RECORDINGS), number(REPLAYS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("FAILED: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn check(recordings: usize, replays: usize) -> Result<(), String> {
    let (kernel, initrd) = (read(KERNEL)?, read(INITRD)?);
    let cmdline = &format!("{PARAMETERS} dejavm.workload={WORKLOAD}");
    let host = Host::open().map_err(|error| format!("no KVM: {error}"))?;
    let mut equal = 0;
    for n in 1..=recordings {
        let boot = Boot { image: &kernel, initrd: Some(&initrd), cmdline };
        let machine =
            Machine::boot(&config(), &boot).map_err(|error| format!("the kernel: {error}"))?;
        let (machine, watch) = on_kvm(&host, machine, config().cpu, Runs::Live(TURN_US))?;
        let mut desk = Desk::new();
        let recorded = tape(machine, config(), &mut desk, DIGEST_INTERVAL, None);
        println!(
            "exact linux, recording {n}: {watch}; positions {}",
            recorded.recorded.at.position
        );
        // Without ACPI it cannot switch the power off: it halts for good.
        let ends = recorded.recorded.ending == Ending::Guest(End::HaltedForever);
        if !ends || !desk.console().contains("DEJAVM-WORKLOAD-OK") {
            return Err(format!("{:?}: {}", recorded.recorded.ending, desk.console()));
        }
        // First of all, for who is to find out why a replay differs.
        let path = format!("{FOLDER}exact-{n}.dvr");
        std::fs::write(&path, &recorded.file).map_err(|error| format!("{path}: {error}"))?;
        hand_out(&path, &format!("exact-{n}.dvr"))?;
        for replayed in 1..=replays {
            let (result, watch) = replay(&host, &recorded.file)?;
            let result = match result {
                Ok(Replayed { digests, .. }) => {
                    equal += 1;
                    format!("{digests} digests equal")
                }
                Err(error) => format!("NOT EQUAL: {error}"),
            };
            println!("exact linux, replay {n}.{replayed}: {result}; {watch}");
        }
    }
    let all = recordings * replays;
    println!("exact linux: {equal} of {all} replays equal");
    if equal == all { Ok(()) } else { Err(format!("{} replays are not equal", all - equal)) }
}

/// Prints a file as `run.sh` takes it home.
fn hand_out(path: &str, name: &str) -> Result<(), String> {
    println!("lab file: {name}");
    let status = Command::new("/bin/busybox").args(["base64", path]).status();
    println!("lab file ends");
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("busybox base64: {other:?}")),
    }
}

fn config() -> MachineConfig {
    let ram = RamLayout::new(RAM_BYTES).expect("a size that a board can have");
    let cpu = dejavm_kvm::on_kvm("dejavm-v2,-tsc".parse().expect("a model that there is"));
    MachineConfig { time_base: TimeBase::Exits, cpu, ..MachineConfig::new(ram) }
}
