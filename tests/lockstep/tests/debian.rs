//! Windows of Debian boots: the first instructions, the kernel's initialisation, and user space
//! (processes made and replaced, floating point). Between windows only the machine with blocks runs;
//! each window then starts from a copy of it. Needs `make images`; says so if they are not there.

use dejavm_cpu::{Engine, Tuning};
use dejavm_lockstep::{Twins, configuration};
use dejavm_machine::{Boot, Idle, Machine, Stop};
use dejavm_units::{GuestNs, Position};

fn reference() -> Tuning {
    Tuning { engine: Engine::Reference, ..Tuning::default() }
}
fn tiny_tlb() -> Tuning {
    Tuning { tlb_slots: 1, flush_seed: Some(3), ..Tuning::default() }
}
const CMDLINE: &str = "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=demo";
const MIB: u64 = 192;

/// What the second machine is.
enum Other {
    Tuned(Tuning),
    /// Decoded as the first, with breakpoints and watchpoints.
    Stopped,
}
use Other::{Stopped, Tuned};

/// A window: where it starts, its length, what the second machine is.
type Window = (u64, u64, Other);

fn fast_forward(machine: &mut Machine, until: u64) {
    loop {
        match machine.run(Position(until)) {
            Stop::Limit => return,
            Stop::Idle { wake: Some(_) } => {
                while machine.idle_until(GuestNs(u64::MAX)) == Idle::Waiting {}
            }
            other => panic!("{other:?} at {} before {until}", machine.position().0),
        }
    }
}

fn compare(kernel: &str, initramfs: &str, windows: &[Window]) {
    let found = dejavm_images::fetched(kernel)
        .and_then(|kernel| Ok((kernel, dejavm_images::fetched(initramfs)?)));
    let (kernel, initramfs) = match found {
        Ok(found) => found,
        Err(sentence) => return println!("nothing compared: {sentence}"),
    };
    let image = std::fs::read(kernel).expect("the kernel is readable");
    let initrd = std::fs::read(initramfs).expect("the initramfs is readable");
    let boot = Boot { image: &image, initrd: Some(&initrd), cmdline: CMDLINE };
    let config = configuration(MIB);
    let mut machine = Machine::boot(&config, &boot).expect("the kernel boots");
    for (n, (start, length, other)) in windows.iter().enumerate() {
        fast_forward(&mut machine, *start);
        let seed = 0x5eed + n as u64;
        let tuning = if let Tuned(tuning) = other { *tuning } else { Tuning::default() };
        let mut twins = Twins::from_machine(
            &config,
            machine,
            [Tuning { translate_after: 0, ..Tuning::default() }, tuning],
            seed,
        );
        if let Stopped = other {
            twins = twins.with_stops();
        }
        let report = twins.run(*length);
        println!("window {start}: {report:?}");
        assert_eq!(
            matches!(other, Stopped),
            report.stops > 1000,
            "stops are met where they are set"
        );
        [machine, _] = twins.into_machines();
    }
}

#[test]
fn cloud_amd64() {
    compare(
        "vmlinuz-cloud-amd64",
        "initramfs-amd64.gz",
        &[
            (
                24_000_000,
                45_000_000,
                Tuned(Tuning { engine: Engine::Interpreter, ..Tuning::default() }),
            ),
            (100_000_000, 10_000_000, Stopped),
            (300_000_000, 2_000_000, Tuned(tiny_tlb())),
            (330_000_000, 3_000_000, Tuned(reference())),
            (450_000_000, 4_000_000, Tuned(reference())),
            (600_000_000, 6_000_000, Tuned(reference())),
            (610_000_000, 20_000_000, Stopped),
            (650_000_000, 3_000_000, Tuned(tiny_tlb())),
            (700_000_000, 8_000_000, Tuned(reference())),
        ],
    );
}

#[test]
fn pae_686() {
    compare(
        "vmlinuz-686-pae",
        "initramfs-i386.gz",
        &[
            (0, 6_000_000, Tuned(reference())),
            (600_000_000, 6_000_000, Tuned(reference())),
            (650_000_000, 10_000_000, Stopped),
            (700_000_000, 3_000_000, Tuned(tiny_tlb())),
        ],
    );
}
