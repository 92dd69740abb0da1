//! Stock Debian kernels boot, work and end; each replay is equal in every digest and every byte.

use dejavm_cpu::Tuning;
use dejavm_machine::End;
use dejavm_replay::Ending;
use dejavm_scenarios::{Debian, Desk, Kernel, Tape, engines, tape, verdict};

/// The CLI's default.
const DIGEST_INTERVAL: u64 = 1 << 28;

/// Records and replays; returns the console and the recording.
fn record_and_replay(guest: &Debian) -> (String, Tape) {
    let mut desk = Desk::new();
    let tape = tape(guest.boot(), guest.config(), &mut desk, DIGEST_INTERVAL, None);
    let console = desk.console();
    let verdict = verdict(guest.workload);
    assert!(console.contains(&verdict), "{guest:?}: no {verdict} in\n{console}");
    let replay = match guest.kernel {
        Kernel::Pae => {
            // As slow in every way while little of 32-bit code is translated.
            tape.assert_replays(&desk, engines()[2]);
            tape.assert_replays(&desk, Tuning::default())
        }
        Kernel::Cloud | Kernel::Generic => tape.assert_replays_by_all_engines(&desk),
    };
    let digests = tape.recorded.at.position.0 / DIGEST_INTERVAL + 1;
    assert_eq!(replay.replayed.digests, digests, "{guest:?}: all digests were compared");
    println!(
        "{} {} {}: {} instructions, guest time {}, log {} bytes, {digests} digests",
        guest.kernel.name(),
        guest.workload,
        guest.more,
        tape.recorded.at.position,
        tape.recorded.at.guest_ns,
        tape.recorded.log_bytes
    );
    (console, tape)
}

/// All the work, then power off.
fn works_and_powers_off(kernel: Kernel) {
    let (console, tape) = record_and_replay(&Debian::new(kernel, "busy"));
    assert_eq!(tape.recorded.ending, Ending::Guest(End::PowerOff), "{console}");
    assert!(console.contains("reboot: Power down"), "{console}");
}

/// Where the 32-bit kernel runs unless it is moved: 0xc0000000 + `CONFIG_PHYSICAL_START`, and its 12 MiB.
const PAE_UNMOVED: std::ops::Range<u64> = 0xc100_0000..0xc200_0000;

/// Some work without local APIC and I/O APIC, then a panic, which tells where the kernel was put.
fn panics_without_apics(kernel: Kernel) {
    let mut guest = Debian::new(kernel, "demo");
    guest.more = "cryptomgr.notests nosmp noapic";
    let (console, tape) = record_and_replay(&guest);
    assert_eq!(tape.recorded.ending, Ending::Guest(End::Reset), "{console}");
    // Address-space randomization is on: the kernel has moved itself.
    if kernel == Kernel::Pae {
        // It says nothing of it (`kaslr_enabled` is for 64 bits), but it died at some address.
        let rip = tape.state.cpu.rip;
        assert!(rip > 0xc000_0000 && !PAE_UNMOVED.contains(&rip), "{rip:#x}");
    } else {
        assert_ne!(kernel_offset(&console), 0, "{console}");
    }
}

/// The offset in the line `Kernel Offset: 0x2c00000 from 0xffffffff81000000` of a panic.
fn kernel_offset(console: &str) -> u64 {
    let (_, rest) = console
        .split_once("Kernel Offset: 0x")
        .unwrap_or_else(|| panic!("no kernel offset in\n{console}"));
    let digits: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).expect("hexadecimal digits")
}

#[test]
fn the_cloud_kernel_works_and_powers_off() {
    works_and_powers_off(Kernel::Cloud);
}

#[test]
fn the_generic_kernel_works_and_powers_off() {
    works_and_powers_off(Kernel::Generic);
}

#[test]
fn the_32_bit_kernel_works_and_powers_off() {
    works_and_powers_off(Kernel::Pae);
}

#[test]
fn the_cloud_kernel_panics_without_apics() {
    panics_without_apics(Kernel::Cloud);
}

#[test]
fn the_generic_kernel_panics_without_apics() {
    panics_without_apics(Kernel::Generic);
}

#[test]
fn the_32_bit_kernel_panics_without_apics() {
    panics_without_apics(Kernel::Pae);
}

/// Nothing left out: the kernel's self-tests of ciphers use every instruction it has for them.
#[test]
fn the_cloud_kernel_tests_itself() {
    let mut guest = Debian::new(Kernel::Cloud, "demo");
    guest.more = "";
    let (console, tape) = record_and_replay(&guest);
    assert_eq!(tape.recorded.ending, Ending::Guest(End::Reset), "{console}");
    let failed: Vec<&str> =
        console.lines().filter(|line| line.contains("alg: ") && line.contains("fail")).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
