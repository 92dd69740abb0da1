//! Machines that start with firmware: SeaBIOS, as Debian's package has it.

use dejavm_machine::{Firmware, Machine, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_scenarios::{Desk, tape};
use dejavm_units::Position;

fn rom(name: &str) -> dejavm_machine::Rom {
    let path = format!("/usr/share/seabios/{name}");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{path}: {error}; tools/install-deps.sh test installs it");
    });
    bytes.into()
}

fn seabios() -> MachineConfig {
    let mut config = MachineConfig::new(RamLayout::new(64 << 20).expect("it fits"));
    let (rom, video_rom) = (rom("bios-256k.bin"), rom("vgabios-stdvga.bin"));
    config.hardware.firmware = Some(Firmware { rom, video_rom });
    config
}

/// From the reset vector through 16- and 32-bit code, copies of itself to RAM that was ROM, the configuration device by port and by
/// DMA, PCI, CMOS, the timers, the keyboard, to a machine with nothing to boot.
#[test]
fn seabios_finds_no_bootable_device_and_replays() {
    let config = seabios();
    let machine = Machine::power_on(&config).unwrap();
    let mut desk = Desk::new();
    // It sleeps then, and wakes at each tick of the timer.
    let until = Position(11_000_000);
    let tape = tape(machine, config, &mut desk, 1_500_000, Some(until));
    let log = desk.debug_console();
    for line in [
        "Running on QEMU (i440fx)",
        "QEMU fw_cfg DMA interface supported",
        "qemu/e820: addr 0x0000000000000000 len 0x0000000004000000 [RAM]",
        "PCI: init bdf=00:01.0 id=8086:7000",
        "Found 1 cpu(s) max supported 1 cpu(s)",
        "ACPI: parse DSDT at",
        "Start SeaVGABIOS",
        "PS2 keyboard initialized",
        "No bootable device.",
    ] {
        assert!(log.contains(line), "{line:?} is missing:\n{log}");
    }
    tape.assert_replays_by_all_engines(&desk);
}
