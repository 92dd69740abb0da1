//! Resets of machines that start with firmware.

use super::*;
use crate::acpi;
use crate::{Breakpoint, Firmware, Hardware, OnReset, Stops};
use dejavm_devices::acpi_pm::RESET_REGISTER;
use dejavm_memory::RamLayout;

/// Where the ROM counts how often it has run.
const COUNT: u64 = 0x500;
/// What it leaves by.
const CONTENT: u8 = 0x10;

/// Real-mode code at F000:0000 that counts in RAM, writes the count to the debug console, changes chips, resets the machine by
/// `reset` at first, and leaves the third time.
fn rom(reset: &[u8]) -> Vec<u8> {
    let mut code = vec![
        0x31, 0xc0, // xor ax, ax
        0x8e, 0xd8, // mov ds, ax
        0xfe, 0x06, 0x00, 0x05, // inc byte [COUNT]
        0xa0, 0x00, 0x05, // mov al, [COUNT]
        0xe6, 0xe9, // out 0xe9, al
        0xe4, 0x21, // in al, 0x21: the mask of the 8259
        0xe6, 0xe9, // out 0xe9, al
        0xb0, 0xa5, // mov al, 0xa5
        0xe6, 0x21, // out 0x21, al
        0x80, 0x3e, 0x00, 0x05, 0x03, // cmp byte [COUNT], 3
        0x75, 0x04, // jne past the next two
        0xb0, CONTENT, // mov al, CONTENT
        0xe6, 0xf4, // out 0xf4, al
    ];
    code.extend(reset);
    code.extend([0xeb, 0xfe]); // jmp to itself
    let mut rom = vec![0; 64 << 10];
    rom[..code.len()].copy_from_slice(&code);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    rom
}

const BY_KEYBOARD: [u8; 4] = [0xb0, 0xfe, 0xe6, 0x64];
const BY_PORT_92: [u8; 4] = [0xb0, 0x01, 0xe6, 0x92];
const BY_CF9: [u8; 6] = [0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee];
/// An interrupt table without entries, and an exception.
const BY_TRIPLE_FAULT: [u8; 6] = [0x0f, 0x01, 0x1e, 0x04, 0x05, 0xcc];

fn by_acpi() -> [u8; 6] {
    let [low, high] = (acpi::PM_BASE + RESET_REGISTER).to_le_bytes();
    [0xba, low, high, 0xb0, 0x01, 0xee]
}

fn config(reset: &[u8], hardware: Hardware) -> MachineConfig {
    let rom = rom(reset).into();
    let firmware = Some(Firmware { rom, video_rom: Vec::new().into() });
    let hardware = Hardware { firmware, on_reset: OnReset::Restarts, ..hardware };
    MachineConfig { hardware, ..MachineConfig::new(RamLayout::new(2 << 20).unwrap()) }
}

fn said(machine: &mut Machine) -> Vec<u8> {
    let outputs = machine.take_output().into_iter();
    let bytes = outputs.map(|output| match output {
        Output::DebugConsole { bytes } => bytes,
        other => panic!("{other:?}"),
    });
    bytes.flatten().collect()
}

/// Runs whose count is still that of the run before, and the 8259 as it was at power-on: RAM stays, chips do not.
const SAID: [u8; 6] = [1, 0, 2, 0, 3, 0];

#[test]
fn every_reset_restarts_the_machine_and_keeps_ram() {
    for reset in [&BY_KEYBOARD[..], &BY_PORT_92, &BY_CF9, &by_acpi(), &BY_TRIPLE_FAULT] {
        let mut machine = Machine::power_on(&config(reset, Hardware::default())).unwrap();
        let stop = machine.run(Position(1000));
        assert_eq!(stop, Stop::End(End::DebugExit(CONTENT.into())), "{reset:x?}");
        assert_eq!(said(&mut machine), SAID, "{reset:x?}");
        let mut count = [0];
        machine.ram().read(Gpa(COUNT), &mut count).unwrap();
        assert_eq!(count, [3], "{reset:x?}");
    }
}

#[test]
fn a_machine_that_is_to_end_ends() {
    for (reset, end) in [(&BY_CF9[..], End::Reset), (&BY_TRIPLE_FAULT, End::TripleFault)] {
        let mut config = config(reset, Hardware::default());
        config.hardware.on_reset = OnReset::Ends;
        let mut machine = Machine::power_on(&config).unwrap();
        assert_eq!(machine.run(Position(1000)), Stop::End(end));
        assert_eq!(said(&mut machine), SAID[..2]);
    }
}

#[test]
fn without_firmware_nothing_restarts() {
    let mut config = config(&BY_CF9, Hardware::default());
    config.hardware.firmware = None;
    assert!(config.check().is_err());
}

/// However the run is cut, and whether or not another machine goes on from the state at a cut.
#[test]
fn resets_are_where_they_are_however_runs_are_cut() {
    for reset in [&BY_CF9[..], &BY_TRIPLE_FAULT] {
        for processors in [1, 2] {
            let hardware = Hardware { processors, slice: 7, ..Hardware::default() };
            let config = config(reset, hardware);
            let mut whole = Machine::power_on(&config).unwrap();
            let end = whole.run(Position(1000));
            let end_state = whole.save();
            for step in [1, 3, 10] {
                let mut machine = Machine::power_on(&config).unwrap();
                let mut bytes = Vec::new();
                let stop = loop {
                    let until = Position(machine.position().0 + step);
                    let stop = machine.run(until);
                    bytes.extend(said(&mut machine));
                    if stop != Stop::Limit {
                        break stop;
                    }
                    let mut other = Machine::from_state(&config, &machine.save()).unwrap();
                    let mut page = [0; PAGE_SIZE as usize];
                    for pfn in machine.ram().all_pages() {
                        machine.ram().read_page(pfn, &mut page).unwrap();
                        other.ram_mut().write_page(pfn, &page).unwrap();
                    }
                    assert_eq!(other.save(), machine.save());
                    machine = other;
                };
                assert_eq!((stop, &bytes[..]), (end, &SAID[..]), "{reset:x?}, steps of {step}");
                assert_eq!(machine.save(), end_state, "{reset:x?}, steps of {step}");
            }
        }
    }
}

/// A breakpoint at the reset vector is met, and what has been delivered says which side of the reset a machine is on.
#[test]
fn a_debugger_sees_the_reset_vector() {
    for (reset, faults) in [(&BY_CF9[..], 0), (&BY_TRIPLE_FAULT, 1)] {
        let config = config(reset, Hardware::default());
        let mut machine = Machine::power_on(&config).unwrap();
        let vector = Gva(0xffff_fff0);
        machine.set_stops(&Stops {
            breakpoints: vec![Breakpoint { at: vector, space: None }],
            ..Stops::default()
        });
        let before = machine.run(Position(1000));
        assert_eq!(before, Stop::Breakpoint { at: vector });
        let (position, deliveries) = (machine.position(), machine.deliveries());
        assert!(position > Position(5) && deliveries > faults, "{position} {deliveries}");

        let mut again = Machine::power_on(&config).unwrap();
        assert_eq!(again.run(position), Stop::Limit);
        assert_eq!(again.take_deliveries(deliveries), None);
        assert_eq!(again.save(), machine.save(), "{reset:x?}");
    }
}
