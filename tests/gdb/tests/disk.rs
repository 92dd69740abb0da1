//! Backwards over what a guest writes to its disk: a boot sector counts, writes itself with the count to the next sector, and reads
//! that back. Wherever gdb stands, disk and memory are those of that instant.

use dejavm_gdb_tests::Gdb;
use dejavm_machine::{Card, Drive, Firmware, IdeDrive, Machine, MachineConfig, Storages};
use dejavm_memory::RamLayout;
use dejavm_replay::{Direction, Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Desk, rebuild, tape};
use dejavm_stub::Replaying;
use dejavm_units::Position;
use std::io::Cursor;
use std::sync::Arc;

const DISK_BYTES: u64 = 1 << 20;
/// Where the count is in the sector.
const COUNT: usize = 0x1fc;
/// The instruction behind both calls of the BIOS.
const DONE: &str = "0x7c2e";
#[rustfmt::skip]
const CODE: [u8; 0x36] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,     // xor ax,ax; mov ds,ax; mov es,ax; mov ss,ax
    0xbc, 0x00, 0x7c, 0xbd, 0x03, 0x00,                 // mov sp,0x7c00; mov bp,3
    0xff, 0x06, 0xfc, 0x7d,                             // again: inc word [0x7dfc]
    0xb8, 0x01, 0x03, 0xbb, 0x00, 0x7c,                 // write one sector from 0x7c00
    0xb9, 0x02, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13,     // to cylinder 0, head 0, sector 2 of the first disk
    0xb8, 0x01, 0x02, 0xbb, 0x00, 0x80,                 // read one to 0x8000
    0xb9, 0x02, 0x00, 0xba, 0x80, 0x00, 0xcd, 0x13,     // from there
    0x4d, 0x75, 0xdd,                                   // done: dec bp; jnz again
    0xb0, 0x10, 0xe6, 0xf4, 0xf4,                       // mov al,0x10; out 0xf4,al; hlt
];

fn rom(name: &str) -> dejavm_machine::Rom {
    let path = format!("/usr/share/seabios/{name}");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{path}: {error}; tools/install-deps.sh test installs it");
    });
    bytes.into()
}

fn storages() -> Storages {
    let mut disk = vec![0; DISK_BYTES as usize];
    disk[..CODE.len()].copy_from_slice(&CODE);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    vec![Arc::new(disk)]
}

fn recorded() -> Timeline<Cursor<Vec<u8>>> {
    let mut config = MachineConfig::new(RamLayout::new(16 << 20).unwrap());
    let (rom, video_rom) = (rom("bios-256k.bin"), rom("vgabios-stdvga.bin"));
    config.hardware.firmware = Some(Firmware { rom, video_rom });
    config.hardware.display = true;
    config.hardware.drives.push(Drive { bytes: DISK_BYTES, read_only: false });
    let drive = Some(IdeDrive { drive: 0, cd: false });
    config.hardware.cards.push(Card::Ide { drives: [drive, None, None, None] });
    let mut machine = Machine::power_on(&config).unwrap();
    machine.set_storages(storages());
    let tape = tape(machine, config, &mut Desk::new(), 10_000_000, Some(Position(1 << 32)));
    let mut replayer = Replayer::open(Cursor::new(tape.file)).unwrap();
    let mut machine = rebuild(&mut replayer).unwrap();
    machine.set_storages(storages());
    Timeline::new(replayer, machine, TimelineOptions::default()).unwrap()
}

/// The count on the disk where the timeline stands.
fn on_disk(timeline: &Timeline<Cursor<Vec<u8>>>) -> u16 {
    let mut sector = [0; 512];
    timeline.machine().read_drive(0, 512, &mut sector).unwrap();
    u16::from_le_bytes([sector[COUNT], sector[COUNT + 1]])
}

#[test]
fn the_disk_is_that_of_the_instant_forwards_and_backwards() {
    let mut replay = Replaying::new(recorded()).unwrap();
    let look = ["monitor position", "x/dh 0x81fc"];
    let stop = format!("break *{DONE}");
    let mut commands = vec![stop.as_str()];
    for go in ["continue", "continue", "continue", "reverse-continue", "reverse-continue"] {
        commands.push(go);
        commands.extend(look);
    }
    let said = Gdb::plain().run(&mut replay, &commands);
    let answers = |command: &str| -> Vec<String> {
        let asked = format!("(gdb) {command}\n");
        let parts = said.split(asked.as_str()).skip(1);
        parts.map(|part| part.lines().next().unwrap_or_default().to_owned()).collect()
    };
    let counts = answers("x/dh 0x81fc");
    let counts: Vec<&str> =
        counts.iter().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(counts, ["1", "2", "3", "2", "1"], "{said}");
    let places: Vec<Position> = answers("monitor position")
        .iter()
        .map(|line| Position(line.parse().expect("a number")))
        .collect();
    assert_eq!((places[0], places[1]), (places[4], places[3]), "{said}");

    // Where gdb stood, in its order, the disk has what memory had.
    let timeline = replay.timeline_mut();
    for (place, count) in places.iter().zip([1, 2, 3, 2, 1]) {
        timeline.seek(*place).unwrap();
        assert_eq!(on_disk(timeline), count, "at {place}");
    }
    // Between two stops one instruction's end has the write: behind it is the new count, before it the old.
    let (mut before, mut behind) = (places[0], places[1]);
    while behind.0 - before.0 > 1 {
        let middle = Position(before.0.midpoint(behind.0));
        timeline.seek(middle).unwrap();
        match on_disk(timeline) {
            1 => before = middle,
            count => {
                assert_eq!(count, 2);
                behind = middle;
            }
        }
    }
    timeline.seek(behind).unwrap();
    for (direction, count) in [
        (Direction::Backward, 1),
        (Direction::Forward, 2),
        (Direction::Backward, 1),
        (Direction::Forward, 2),
    ] {
        timeline.step(direction, 1).unwrap();
        assert_eq!(on_disk(timeline), count, "one {direction:?} of {behind}");
    }
    timeline.seek(Position(0)).unwrap();
    assert_eq!(on_disk(timeline), 0);
}
