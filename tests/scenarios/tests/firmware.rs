//! Machines that start with firmware: SeaBIOS, as Debian's package has it.

use dejavm_machine::{Firmware, Machine, MachineConfig};
use dejavm_memory::RamLayout;
use dejavm_replay::{Observer, ReplayOptions, Replayer};
use dejavm_scenarios::{Desk, rebuild, tape};
use dejavm_units::Position;
use std::io::Cursor;

/// Nobody looks on.
struct Nobody;

impl Observer for Nobody {}

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
    config.hardware.display = true;
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

    // The same on the screen, of a machine built from the file, by a checkpoint's pages too.
    let mut replayer = Replayer::open(Cursor::new(&tape.file[..])).unwrap();
    let mut machine = rebuild(&mut replayer).unwrap();
    let config = replayer.header().config.clone();
    replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody).unwrap();
    let text = machine.screen_text().expect("it is in text mode");
    let picture = machine.picture().expect("there is a display");
    assert!(text[0].starts_with("SeaBIOS (version 1.16"), "{text:#?}");
    assert!(text.iter().any(|line| line == "No bootable device."), "{text:#?}");
    assert_eq!((text.len(), picture.width, picture.height), (25, 720, 400));
    // An 'S' has dots, and they are light grey on black.
    let dots = picture.rgb.chunks_exact(3).filter(|dot| *dot != [0, 0, 0]).count();
    assert!(picture.rgb.chunks_exact(3).all(|dot| dot == [0, 0, 0] || dot == [0xaa, 0xaa, 0xaa]));
    assert!((1000..20_000).contains(&dots), "{dots} dots");

    let mut copy = Machine::from_state(&config, &machine.save()).unwrap();
    let mut page = [0; 4096];
    for pfn in machine.ram().all_pages() {
        machine.ram().read_page(pfn, &mut page).unwrap();
        copy.ram_mut().write_page(pfn, &page).unwrap();
    }
    assert!(copy.picture() == Some(picture));
}
