//! The IDE function used as drivers use it.

use super::*;
use crate::testing::Machine;

const SECTORS: u64 = 100;
const NOW: GuestNs = GuestNs(0);

/// A disk as primary master; its contents count sectors.
fn machine(media: Media) -> Machine<Ide> {
    let mut ide = Ide::new([Some(media), None, None, None]);
    ide.enable();
    ide.config_write(4, Width::Word, 5, NOW);
    let mut machine = Machine::new(ide, 0x8000, (SECTORS * 512) as usize);
    for (at, byte) in machine.memory.drive.iter_mut().enumerate() {
        *byte = (at / 512) as u8;
    }
    machine
}

fn disk() -> Machine<Ide> {
    machine(Media::Disk { sectors: SECTORS, read_only: false })
}

fn out(machine: &mut Machine<Ide>, register: u64, value: u8) {
    machine.card.write(0, register, 1, value.into(), NOW);
}

fn status(machine: &mut Machine<Ide>) -> u8 {
    machine.card.read(0, 7, 1, NOW) as u8
}

/// Writes a task file and a command, and lets time pass.
fn command(machine: &mut Machine<Ide>, lba: u32, count: u8, command: u8) {
    let [low, mid, high, top] = lba.to_le_bytes();
    for (register, value) in
        [(6, 0xe0 | top), (2, count), (3, low), (4, mid), (5, high), (7, command)]
    {
        out(machine, register, value);
    }
    assert_eq!(status(machine) & 0x80, 0x80, "busy");
    pass(machine);
}

fn pass(machine: &mut Machine<Ide>) {
    machine.advance(GuestNs(1 << 40));
}

fn words(machine: &mut Machine<Ide>, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| (machine.card.read(0, 0, 2, NOW) as u16).to_le_bytes()).collect()
}

#[test]
fn a_disk_says_what_it_is() {
    let mut machine = disk();
    assert_eq!([2, 3, 4, 5, 7].map(|at| machine.card.read(0, at, 1, NOW)), [1, 1, 0, 0, 0x50]);
    command(&mut machine, 0, 0, 0xec);
    assert_eq!(machine.card.isa_lines(), 1 << 14);
    assert_eq!(status(&mut machine), 0x58);
    assert_eq!(machine.card.isa_lines(), 0, "reading the status takes it back");
    let identity = words(&mut machine, 256);
    assert_eq!(&identity[54..64], b"EDAJMVH RA", "text is swapped");
    assert_eq!(identity[120..124], [100, 0, 0, 0]);
    assert_eq!((status(&mut machine), machine.card.isa_lines()), (0x50, 0));
    // The slave is not there, nor anything on the other channel.
    out(&mut machine, 6, 0xf0);
    assert_eq!(status(&mut machine), 0);
    assert_eq!(machine.card.read(2, 7, 1, NOW), 0);
}

#[test]
fn sectors_move_through_the_data_register() {
    let mut machine = disk();
    command(&mut machine, 7, 2, 0x20);
    for sector in [7, 8] {
        assert_eq!((machine.card.isa_lines(), status(&mut machine)), (1 << 14, 0x58));
        assert_eq!(words(&mut machine, 256), [sector; 512]);
        pass(&mut machine);
    }
    assert_eq!((status(&mut machine), machine.card.isa_lines()), (0x50, 0));

    command(&mut machine, 50, 2, 0x30);
    for byte in [0xaau8, 0xbb] {
        assert_eq!(status(&mut machine), 0x58);
        for _ in 0..128 {
            machine.card.write(0, 0, 4, u64::from(byte) * 0x0101_0101, NOW);
        }
        pass(&mut machine);
        assert_eq!(machine.card.isa_lines(), 1 << 14);
    }
    assert_eq!(status(&mut machine), 0x50);
    let drive = &machine.memory.drive;
    assert_eq!([50, 51, 52].map(|sector| drive[sector * 512]), [0xaa, 0xbb, 52]);
}

#[test]
fn the_bus_master_moves_sectors_to_where_the_table_says() {
    let mut machine = disk();
    // Two regions: 512 bytes at 0x2000, and the rest at 0x3000.
    machine.memory.bytes[0x1000..0x1010]
        .copy_from_slice(&[0, 0x20, 0, 0, 0, 2, 0, 0, 0, 0x30, 0, 0, 0, 2, 0, 0x80]);
    let master =
        |machine: &mut Machine<Ide>, at, size, value| machine.card.write(4, at, size, value, NOW);
    master(&mut machine, 4, 4, 0x1000);
    command(&mut machine, 20, 2, 0xc8);
    assert_eq!(machine.card.isa_lines(), 0, "nothing moves before the bus master is started");
    master(&mut machine, 0, 1, 0x09);
    assert_eq!(machine.card.read(4, 2, 1, NOW) & 1, 1, "active");
    pass(&mut machine);
    assert_eq!(machine.card.isa_lines(), 1 << 14);
    assert_eq!(machine.card.read(4, 2, 1, NOW), 4, "interrupt, not active, no error");
    assert_eq!((machine.memory.bytes[0x2000], machine.memory.bytes[0x31ff]), (20, 21));
    assert_eq!(machine.memory.bytes[0x2200], 0);
    master(&mut machine, 2, 1, 4);
    assert_eq!((machine.card.read(4, 2, 1, NOW), status(&mut machine)), (0, 0x50));
    // And back, elsewhere.
    master(&mut machine, 0, 1, 0);
    command(&mut machine, 90, 2, 0xca);
    master(&mut machine, 0, 1, 0x01);
    pass(&mut machine);
    assert_eq!(status(&mut machine), 0x50);
    assert_eq!((machine.memory.drive[90 * 512], machine.memory.drive[91 * 512]), (20, 21));
    // A table that is too short.
    master(&mut machine, 0, 1, 0);
    command(&mut machine, 0, 3, 0xc8);
    master(&mut machine, 0, 1, 0x09);
    pass(&mut machine);
    assert_eq!((status(&mut machine), machine.card.read(4, 2, 1, NOW)), (0x51, 6));
}

#[test]
fn what_is_not_on_the_disk_is_not_found() {
    for (lba, count, code, error) in
        [(99, 2, 0x20, 0x10), (100, 1, 0xc8, 0x10), (0x0fff_ffff, 1, 0x40, 0x10), (0, 1, 0xb0, 4)]
    {
        let mut machine = disk();
        command(&mut machine, lba, count, code);
        assert_eq!(status(&mut machine), 0x51, "{code:#x}");
        assert_eq!(machine.card.read(0, 1, 1, NOW), error, "{code:#x}");
    }
    let mut machine = machine(Media::Disk { sectors: SECTORS, read_only: true });
    command(&mut machine, 0, 1, 0x30);
    assert_eq!(status(&mut machine), 0x51, "it cannot be written");
}

#[test]
fn longer_addresses_take_two_writes() {
    let mut machine = disk();
    for (register, value) in
        [(2, 1), (2, 0), (3, 0), (3, 9), (4, 0), (4, 0), (5, 0), (5, 0), (6, 0x40)]
    {
        out(&mut machine, register, value);
    }
    machine.card.write(1, 0, 1, 0x80, NOW);
    assert_eq!(machine.card.read(0, 2, 1, NOW), 1, "the count before");
    out(&mut machine, 7, 0x24);
    pass(&mut machine);
    // 256 sectors from 9 on are too many.
    assert_eq!(status(&mut machine), 0x51);
    out(&mut machine, 2, 0);
    out(&mut machine, 2, 1);
    out(&mut machine, 7, 0x24);
    pass(&mut machine);
    assert_eq!(words(&mut machine, 256)[0], 9);
}

fn packet(machine: &mut Machine<Ide>, bytes: [u8; 12], limit: u16) {
    let [low, high] = limit.to_le_bytes();
    for (register, value) in [(6, 0xa0), (1, 0), (4, low), (5, high), (7, 0xa0)] {
        out(machine, register, value);
    }
    pass(machine);
    assert_eq!((status(machine), machine.card.read(0, 2, 1, NOW)), (0x48, 1));
    for pair in bytes.as_chunks::<2>().0 {
        machine.card.write(0, 0, 2, u16::from_le_bytes(*pair).into(), NOW);
    }
    pass(machine);
}

#[test]
fn a_cd_answers_packets() {
    let mut machine = machine(Media::Cd { sectors: SECTORS / 4 });
    assert_eq!([4, 5].map(|at| machine.card.read(0, at, 1, NOW)), [0x14, 0xeb]);
    command(&mut machine, 0, 0, 0xec);
    assert_eq!(
        (status(&mut machine), machine.card.read(0, 5, 1, NOW)),
        (0x41, 0xeb),
        "it is no disk"
    );

    packet(&mut machine, [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0xfffe);
    assert_eq!((status(&mut machine), machine.card.read(0, 2, 1, NOW)), (0x48, 2));
    assert_eq!(machine.card.read(0, 4, 1, NOW), 8, "bytes that are there");
    assert_eq!(words(&mut machine, 4), [0, 0, 0, 24, 0, 0, 8, 0]);
    assert_eq!(machine.card.isa_lines(), 1 << 14);
    assert_eq!((status(&mut machine), machine.card.read(0, 2, 1, NOW)), (0x40, 3));

    // Two sectors, in blocks of what the host wants.
    packet(&mut machine, [0x28, 0, 0, 0, 0, 5, 0, 0, 2, 0, 0, 0], 2048);
    for sector in [5u8, 6] {
        assert_eq!((status(&mut machine), machine.card.read(0, 5, 1, NOW)), (0x48, 8));
        let bytes = words(&mut machine, 1024);
        assert_eq!((bytes[0], bytes[2047]), (sector * 4, sector * 4 + 3));
        pass(&mut machine);
    }
    assert_eq!(status(&mut machine), 0x40);

    packet(&mut machine, [0x28, 0, 0, 0, 0, 24, 0, 0, 2, 0, 0, 0], 2048);
    assert_eq!((status(&mut machine), machine.card.read(0, 1, 1, NOW)), (0x41, 0x54));
    packet(&mut machine, [3, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0], 64);
    let sense = words(&mut machine, 9);
    assert_eq!((sense[2], sense[12]), (5, 0x21), "out of range");
}

#[test]
fn a_reset_ends_everything() {
    let mut machine = disk();
    command(&mut machine, 0, 1, 0x20);
    machine.card.write(1, 0, 1, 0x04, NOW);
    assert_eq!(machine.card.read(1, 0, 1, NOW), 0x80);
    out(&mut machine, 7, 0xec);
    assert_eq!(machine.deadline(), None, "no command while it is reset");
    machine.card.write(1, 0, 1, 0x00, NOW);
    assert_eq!((status(&mut machine), machine.card.read(0, 1, 1, NOW)), (0x50, 1));
    assert_eq!(machine.card.isa_lines(), 0);
    machine.card.write(1, 0, 1, 0x02, NOW);
    command(&mut machine, 0, 1, 0x20);
    assert_eq!(machine.card.isa_lines(), 0, "interrupts are off");
}
