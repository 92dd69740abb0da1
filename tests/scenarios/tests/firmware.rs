//! Machines that start with firmware: SeaBIOS, as Debian's package has it.

use dejavm_machine::{
    Card, Drive, End, Firmware, IdeDrive, Machine, MachineConfig, OnReset, Storage,
};
use dejavm_memory::RamLayout;
use dejavm_replay::{Ending, Observer, ReplayOptions, Replayer};
use dejavm_scenarios::{Desk, engines, ram_hash, rebuild, tape};
use dejavm_units::Position;
use std::io::Cursor;
use std::sync::Arc;

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

/// A disk whose boot sector counts in the next one how often it was booted, says so, and resets the machine until it was three times.
fn counting_disk() -> Vec<u8> {
    const CODE: &[u8] = &[
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // xor ax, ax; mov ds, ax; mov es, ax
        0xb8, 0x01, 0x02, 0xbb, 0x00, 0x80, // mov ax, 0x201: read one; mov bx, 0x8000
        0xb9, 0x02, 0x00, 0xb6, 0x00, 0xcd, 0x13, // mov cx, 2; mov dh, 0; int 0x13
        0xfe, 0x06, 0x00, 0x80, // inc byte [0x8000]
        0xb8, 0x01, 0x03, 0xbb, 0x00, 0x80, // mov ax, 0x301: write one; mov bx, 0x8000
        0xb9, 0x02, 0x00, 0xb6, 0x00, 0xcd, 0x13, // mov cx, 2; mov dh, 0; int 0x13
        0xa0, 0x00, 0x80, 0xe6, 0xe9, // mov al, [0x8000]; out 0xe9, al
        0x80, 0x3e, 0x00, 0x80, 0x33, // cmp byte [0x8000], '3'
        0x75, 0x04, 0xb0, 0x10, 0xe6, 0xf4, // jne past mov al, 0x10; out 0xf4, al
        0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe, // mov al, 0xfe; out 0x64, al; jmp to itself
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..CODE.len()].copy_from_slice(CODE);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[512] = b'0';
    disk
}

/// From power-on to the boot sector three times: the firmware finds the machine as at power-on each time, and the disk as it was left.
#[test]
fn a_reset_leads_through_the_firmware_again() {
    let ide = IdeDrive { drive: 0, cd: false };
    let cards = [
        (1, Card::Ide { drives: [Some(ide), None, None, None] }),
        (2, Card::VirtioBlock { drive: 0 }),
    ];
    for (processors, card) in cards {
        let mut config = seabios();
        let disk = counting_disk();
        config.hardware.processors = processors;
        config.hardware.cards.push(card);
        config.hardware.drives.push(Drive { bytes: disk.len() as u64, read_only: false });
        config.hardware.on_reset = OnReset::Restarts;
        let storage: Arc<dyn Storage> = Arc::new(disk);
        let mut machine = Machine::power_on(&config).unwrap();
        machine.set_storages(vec![Arc::clone(&storage)]);
        let mut desk = Desk::new();
        let tape = tape(machine, config, &mut desk, 1_500_000, Some(Position(100_000_000)));
        let log = desk.debug_console();
        assert_eq!(tape.recorded.ending, Ending::Guest(End::DebugExit(0x10)), "{log}");
        assert_eq!(log.matches("Running on QEMU (i440fx)").count(), 3, "{log}");
        let found = format!("Found {processors} cpu(s) max supported {processors} cpu(s)");
        assert_eq!(log.matches(&found).count(), 3, "{log}");
        assert!(!log.contains("hard reboot"), "the ROM is the ROM again: {log}");

        for tuning in engines() {
            let mut replayer = Replayer::open(Cursor::new(&tape.file[..])).unwrap();
            let mut machine = rebuild(&mut replayer).unwrap();
            machine.set_tuning(tuning);
            machine.set_storages(vec![Arc::clone(&storage)]);
            let replayed =
                replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody).unwrap();
            assert_eq!(replayed.last_digest, Some(tape.recorded.digest.clone()), "{tuning:?}");
            assert_eq!(replayed.ending, Some(tape.recorded.ending));
            assert!(machine.save() == tape.state && ram_hash(&machine) == tape.ram, "{tuning:?}");
            assert_eq!(machine.written_blocks(0), [0]);
        }
    }
}

/// A disk whose boot sector asks the display's ROM for 640 by 480 in 16 colours and for two pixels.
fn drawing_disk() -> Vec<u8> {
    const CODE: &[u8] = &[
        0xb8, 0x12, 0x00, 0xcd, 0x10, 0x31, 0xdb, // mov ax, 0x12; int 0x10; xor bx, bx
        0xb8, 0x04, 0x0c, 0xb9, 0x7f, 0x02, 0xba, 0xdf,
        0x01, // mov ax, 0xc04: red; mov cx, 639; mov dx, 479
        0xcd, 0x10, // int 0x10
        0xb8, 0x0e, 0x0c, 0xb9, 0x2b, 0x00, 0xba, 0x64,
        0x00, // mov ax, 0xc0e: yellow; mov cx, 43; mov dx, 100
        0xcd, 0x10, // int 0x10
        0xb0, 0x10, 0xe6, 0xf4, 0xeb, 0xfe, // mov al, 0x10; out 0xf4, al; jmp to itself
    ];
    let mut disk = vec![0; 1 << 20];
    disk[..CODE.len()].copy_from_slice(CODE);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// 640x480x16 as the display's own ROM sets it and draws in it.
#[test]
fn sixteen_colours_by_the_rom() {
    let mut config = seabios();
    let disk = drawing_disk();
    config.hardware.cards.push(Card::VirtioBlock { drive: 0 });
    config.hardware.drives.push(Drive { bytes: disk.len() as u64, read_only: false });
    let storage: Arc<dyn Storage> = Arc::new(disk);
    let mut machine = Machine::power_on(&config).unwrap();
    machine.set_storages(vec![Arc::clone(&storage)]);
    let mut desk = Desk::new();
    let tape = tape(machine, config, &mut desk, 1_500_000, Some(Position(100_000_000)));
    assert_eq!(
        tape.recorded.ending,
        Ending::Guest(End::DebugExit(0x10)),
        "{}",
        desk.debug_console()
    );

    let mut replayer = Replayer::open(Cursor::new(&tape.file[..])).unwrap();
    let mut machine = rebuild(&mut replayer).unwrap();
    machine.set_storages(vec![storage]);
    replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody).unwrap();
    assert!(machine.save() == tape.state && ram_hash(&machine) == tape.ram);
    assert_eq!(machine.screen_text(), None);
    let picture = machine.picture().expect("there is a display");
    assert_eq!((picture.width, picture.height), (640, 480));
    let lit: Vec<(usize, &[u8])> =
        picture.rgb.chunks_exact(3).enumerate().filter(|(_, dot)| *dot != [0, 0, 0]).collect();
    let expected: [(usize, &[u8]); 2] =
        [(100 * 640 + 43, &[0xff, 0xff, 0x55]), (479 * 640 + 639, &[0xaa, 0, 0])];
    assert_eq!(lit, expected);
}
