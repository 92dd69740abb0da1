//! What no driver would do, case by case.

use super::program::Program;

/// Where a program has the cards' registers, once it has placed them. PCI devices in the order of the machine's cards, from 3 on.
pub(super) mod place {
    pub const BLOCK: u32 = 0xe000_0000;
    pub const NET: u32 = 0xe010_0000;
    pub const RNG: u32 = 0xe020_0000;
    pub const E1000: u32 = 0xe030_0000;
    pub const VGA_REGISTERS: u32 = 0xe040_0000;
    pub const VGA_MEMORY: u32 = 0xe100_0000;
    pub const E1000_PORTS: u16 = 0xc000;
    pub const BUS_MASTER: u16 = 0xc100;
    /// What is not RAM: nowhere, both APICs, the display's window, ROM, a card's registers, the last page of all.
    pub const NO_RAM: [u64; 9] = [
        0xd000_0000,
        0xfec0_0000,
        0xfee0_0000,
        0xa_0000,
        0xf_0000,
        0xe000_0000,
        0xffff_f000,
        0x1_0000_0000,
        0xffff_ffff_ffff_f000,
    ];
}
use place::{BLOCK, BUS_MASTER, E1000, NET, NO_RAM, RNG};

/// The machine's RAM ends here.
const RAM_END: u64 = super::RAM_BYTES;
/// Where requests and data are.
const RINGS: u32 = 0x2_0000;
const TABLE: u32 = 0x2_8000;
const DATA: u32 = 0x3_0000;
/// What a program waits after each mistake: more than any card takes to look.
const PATIENCE_US: u32 = 60;

/// A case: its name, and what writes its program.
pub type Attack = (&'static str, fn(&mut Program));

/// All cases.
pub const ATTACKS: [Attack; 8] = [
    ("virtio queues", virtio_queues),
    ("virtio rings that lie over each other or nowhere", virtio_rings),
    ("base address registers over RAM, APICs and each other", base_addresses),
    ("IDE commands out of order", ide_commands),
    ("IDE by DMA to where no RAM is", ide_dma),
    ("e1000 rings", e1000_rings),
    ("copies of the configuration device", fw_cfg),
    ("modes of the display", display),
];

/// Gives every card its place and makes it master of the bus.
pub(super) fn place_cards(program: &mut Program) {
    for (device, place) in [(3, BLOCK), (4, NET), (5, RNG)] {
        program.config(device, 0, 0x10, place);
        program.config(device, 0, 0x14, place + 0x8000);
        program.config(device, 0, 4, 7);
    }
    program.config(6, 0, 0x10, E1000);
    program.config(6, 0, 0x14, place::E1000_PORTS.into());
    program.config(6, 0, 4, 7);
    program.config(2, 0, 0x10, place::VGA_MEMORY);
    program.config(2, 0, 0x18, place::VGA_REGISTERS);
    program.config(2, 0, 4, 3);
    program.config(1, 1, 0x20, BUS_MASTER.into());
    program.config(1, 1, 0x40, 0x8000_8000);
    program.config(1, 1, 4, 5);
}

/// Where a queue's parts are.
struct Rings {
    descriptors: u64,
    available: u64,
    used: u64,
}

const USUAL: Rings = Rings {
    descriptors: RINGS as u64,
    available: RINGS as u64 + 0x1000,
    used: RINGS as u64 + 0x2000,
};

fn start_virtio(program: &mut Program, card: u32, rings: &Rings, size: u16) {
    program.store(card + 20, 1, 0);
    program.store(card + 20, 1, 3);
    for (half, features) in [(0, 3 << 28), (1, 1)] {
        program.store(card + 8, 4, half);
        program.store(card + 12, 4, features);
    }
    program.store(card + 20, 1, 11);
    for queue in 0..2 {
        program.store(card + 22, 2, queue);
        program.store(card + 24, 2, size.into());
        program.store_wide(card + 32, rings.descriptors);
        program.store_wide(card + 40, rings.available);
        program.store_wide(card + 48, rings.used);
        program.store(card + 28, 2, 1);
    }
    program.store(card + 20, 1, 15);
}

fn descriptor(program: &mut Program, at: u32, to: u64, bytes: u32, flags: u16, next: u16) {
    program.store_wide(at, to);
    program.store(at + 8, 4, bytes);
    program.store(at + 12, 4, u32::from(flags) | u32::from(next) << 16);
}

/// Where descriptor `n` of the usual queue is.
fn d(n: u32) -> u32 {
    RINGS + 16 * n
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Notifies all queues, looks at the card, and resets it if that is what it wants.
fn provoke(program: &mut Program, card: u32) {
    for queue in 0..4 {
        program.store(card + 0x3000 + 4 * queue, 2, queue);
    }
    program.wait(PATIENCE_US);
    program.load(card + 20);
    program.load(card + 0x1000);
}

/// Chains that are none, each as the first request of a fresh queue.
fn virtio_queues(program: &mut Program) {
    place_cards(program);
    let cases: [fn(&mut Program); 9] = [
        // A loop, of what is read and of what is written.
        |p| {
            descriptor(p, d(0), DATA.into(), 16, NEXT, 1);
            descriptor(p, d(1), DATA.into(), 512, NEXT, 0);
        },
        |p| {
            descriptor(p, d(0), DATA.into(), 16, NEXT, 1);
            descriptor(p, d(1), DATA.into(), 512, NEXT | WRITE, 1);
        },
        // Lengths.
        |p| {
            descriptor(p, d(0), DATA.into(), 16, NEXT, 1);
            descriptor(p, d(1), 0x8_0000, u32::MAX, NEXT | WRITE, 2);
            descriptor(p, d(2), 0x8_0000, u32::MAX, WRITE, 0);
        },
        |p| {
            descriptor(p, d(0), DATA.into(), 0, NEXT, 1);
            descriptor(p, d(1), DATA.into(), 0, WRITE, 0);
        },
        // Across the end of RAM, and of all addresses.
        |p| {
            descriptor(p, d(0), RAM_END - 8, 16, NEXT, 1);
            descriptor(p, d(1), RAM_END - 256, 512, NEXT | WRITE, 2);
            descriptor(p, d(2), u64::MAX, 1, WRITE, 0);
        },
        |p| {
            descriptor(p, d(0), DATA.into(), 16, NEXT, 1);
            descriptor(p, d(1), u64::MAX - 255, 512, WRITE, 0);
        },
        // Tables in tables, in themselves, nowhere.
        |p| {
            descriptor(p, d(0), TABLE.into(), 32, INDIRECT, 0);
            descriptor(p, TABLE, (TABLE + 0x100).into(), 32, INDIRECT, 0);
        },
        |p| {
            descriptor(p, d(0), RINGS.into(), 0x1000, INDIRECT, 0);
        },
        |p| {
            descriptor(p, d(0), 0xd000_0000, 0xffff_fff0, INDIRECT, 0);
        },
    ];
    for card in [BLOCK, NET, RNG] {
        for case in cases {
            program.fill(RINGS, 0, 0x1000);
            start_virtio(program, card, &USUAL, 8);
            case(program);
            program.bytes_at(RINGS + 0x1000, &[0, 0, 1, 0, 0, 0]);
            provoke(program, card);
        }
        // A read, a write, to and from everything that is no RAM.
        for (kind, at) in (0..2).flat_map(|kind| NO_RAM.map(|at| (kind, at))) {
            program.fill(RINGS, 0, 0x1000);
            program.fill(DATA, 0, 8);
            program.store(DATA, 4, kind);
            start_virtio(program, card, &USUAL, 8);
            let direction = if kind == 0 { WRITE } else { 0 };
            descriptor(program, d(0), DATA.into(), 16, NEXT, 1);
            descriptor(program, d(1), at, 1024, NEXT | direction, 2);
            descriptor(program, d(2), at, 1, WRITE, 0);
            program.bytes_at(RINGS + 0x1000, &[0, 0, 1, 0, 0, 0]);
            provoke(program, card);
        }
        // More is available than there is, or what is none.
        for (index, head) in [(0x8000, 0), (9, 0), (1, 8), (1, 0xffff), (0xffff, 0xffff)] {
            program.fill(RINGS, 0, 0x1000);
            start_virtio(program, card, &USUAL, 8);
            program.store(RINGS + 0x1000, 4, index << 16);
            program.store(RINGS + 0x1004, 4, head);
            provoke(program, card);
        }
    }
}

/// Queues whose parts are each other, nothing, or of impossible sizes.
fn virtio_rings(program: &mut Program) {
    place_cards(program);
    let all = |at: u64| Rings { descriptors: at, available: at, used: at };
    for card in [BLOCK, NET, RNG] {
        for at in NO_RAM.into_iter().chain([RINGS.into(), RAM_END - 64, RAM_END - 1, 0x1001]) {
            for size in [0, 3, 8, 256, 0xffff] {
                program.fill(RINGS, 0x0001_0001, 0x40);
                start_virtio(program, card, &all(at), size);
                provoke(program, card);
            }
        }
        // Used elements over the descriptors, and over what is available.
        for (descriptors, available, used) in
            [(0, 0x1000, 0), (0, 0x1000, 0x0ffe), (0, 0x1000, 0x1000), (0x1000, 0, 0x0ffc)]
        {
            let [descriptors, available, used] =
                [descriptors, available, used].map(|at| u64::from(RINGS) + at);
            program.fill(RINGS, 0, 0x1000);
            start_virtio(program, card, &Rings { descriptors, available, used }, 8);
            for slot in 0..8 {
                let at = descriptors as u32 + 16 * slot;
                descriptor(program, at, DATA.into(), 512, WRITE, 0);
            }
            program.store(available as u32, 4, 8 << 16);
            provoke(program, card);
        }
        // Notified when it is not ready; registers beyond the last; the access through configuration space, anywhere.
        program.store(card + 20, 1, 0);
        provoke(program, card);
        for offset in [56, 0x0ffc, 0x2ffc, 0x3ffc] {
            program.store(card + offset, 4, u32::MAX);
            program.load(card + offset);
        }
        for offset in (0x40..0x100).step_by(4) {
            let device = 3 + [BLOCK, NET, RNG].iter().position(|at| *at == card).unwrap_or(0) as u8;
            program.config(device, 0, offset as u8, 0xffff_fffc);
            program.read_config(device, 0, offset as u8);
        }
    }
}

/// Registers of cards where something else answers.
fn base_addresses(program: &mut Program) {
    place_cards(program);
    let places = [
        0x0010_0000,
        0x0000_0000,
        0x003f_8000,
        0xfee0_0000,
        0xfec0_0000,
        0x000a_0000,
        0x000f_0000,
        0xffff_0000,
        0xffff_c000,
        E1000,
        place::VGA_MEMORY,
        0xffff_ffff,
    ];
    let bars = [(3, 0x10), (3, 0x14), (4, 0x10), (6, 0x10), (6, 0x14), (2, 0x10), (2, 0x18)];
    for at in places {
        for (device, bar) in bars {
            program.config(device, 0, bar, at);
            program.read_config(device, 0, bar);
        }
        // What is RAM or an APIC stays that.
        if at >= 0x40_0000 {
            let page = at & !0xfff;
            for offset in [0, 0x10, 0x20, 0xf0, 0xffd] {
                program.load(page.wrapping_add(offset).min(u32::MAX - 3));
                program.store(page.wrapping_add(offset).min(u32::MAX - 3), 4, 0x0001_0000);
            }
        }
        program.wait(PATIENCE_US);
    }
    // Ports over the board's own.
    for at in [0x20, 0x60, 0x70, 0x3c0, 0x3f8, 0x510, 0xcf8, 0xffc0] {
        program.config(6, 0, 0x14, at | 1);
        program.config(1, 1, 0x20, at | 1);
        for port in [at, at + 4] {
            program.input(port as u16, 4);
            program.input(port as u16, 1);
        }
    }
    // All of configuration space, of functions that there are and that there are not.
    for (device, function) in [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (6, 0), (7, 3), (31, 7)] {
        for offset in (0..0x100).step_by(4) {
            program.config(device, function, offset as u8, 0xa5a5_a5a5);
            program.read_config(device, function, offset as u8);
        }
    }
}

const COMMAND_PORTS: [u16; 2] = [0x1f0, 0x170];
const CONTROL_PORTS: [u16; 2] = [0x3f6, 0x376];

fn ide_command(program: &mut Program, port: u16, device: u32, count: u32, command: u32) {
    for (register, value) in [(6, device), (2, count), (3, 0), (4, 0), (5, 0), (7, command)] {
        program.out(port + register, 1, value);
    }
}

/// Commands in the middle of others, data that nobody asked for, odd accesses, resets in between.
fn ide_commands(program: &mut Program) {
    place_cards(program);
    let commands = [
        0x20, 0x24, 0xc4, 0x29, 0xc8, 0x25, 0x30, 0x34, 0xc5, 0x39, 0xca, 0x35, 0xec, 0xa0, 0xa1,
        0xc6, 0xef, 0xe7, 0x90, 0x91, 0x08, 0xf5, 0xb0, 0xff,
    ];
    for (port, control) in COMMAND_PORTS.into_iter().zip(CONTROL_PORTS) {
        for first in commands {
            for second in [0x20, 0x30, 0xa0, 0xec, 0xc8] {
                for device in [0xe0, 0xf0] {
                    ide_command(program, port, device, 0, first);
                    program.wait(2);
                    program.input(port, 4);
                    program.out(port, 2, 0x28);
                    program.out(port, 1, 0x55);
                    ide_command(program, port, device ^ 0x10, 3, second);
                    program.out(port, 4, 0xa5a5_a5a5);
                    program.input(port + 7, 1);
                }
            }
            program.out(control, 1, 4);
            program.out(port + 7, 1, first);
            program.out(control, 1, 0);
            program.wait(PATIENCE_US);
        }
    }
    // A packet of any kind, its answer cut off at an odd count.
    for command in 0..=255u32 {
        let port = COMMAND_PORTS[0];
        program.out(port + 6, 1, 0xf0);
        program.out(port + 1, 1, command & 1);
        program.out(port + 4, 1, 7);
        program.out(port + 5, 1, 0);
        program.out(port + 7, 1, 0xa0);
        program.wait(1);
        for word in [command, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff] {
            program.out(port, 2, word);
        }
        program.wait(1);
        for _ in 0..4 {
            program.input(port, 4);
        }
    }
}

/// Bus mastering with tables that are none and memory that is none.
fn ide_dma(program: &mut Program) {
    place_cards(program);
    let mut transfer = |table: u32, entries: &[(u32, u32)], write: bool| {
        let port = COMMAND_PORTS[0];
        program.out(BUS_MASTER, 1, 0);
        program.out(BUS_MASTER + 2, 1, 6);
        for (index, (at, length)) in (0..).zip(entries) {
            program.store(table + 8 * index, 4, *at);
            program.store(table + 8 * index + 4, 4, *length);
        }
        program.out(BUS_MASTER + 4, 4, table);
        ide_command(program, port, 0xe0, 0, if write { 0xca } else { 0xc8 });
        program.out(BUS_MASTER, 1, if write { 1 } else { 9 });
        program.wait(PATIENCE_US);
        program.input(BUS_MASTER + 2, 1);
        program.input(port + 7, 1);
    };
    const LAST: u32 = 1 << 31;
    for write in [false, true] {
        for at in NO_RAM {
            transfer(0x2_0000, &[(at as u32, LAST)], write);
        }
        // No end; lengths that are odd or nothing; the table itself; across the end of RAM; too little.
        transfer(0x2_0000, &[(DATA, 2); 400], write);
        transfer(0x2_0000, &[(DATA + 1, 3), (DATA, 1), (DATA, LAST | 5)], write);
        transfer(0x2_0000, &[(0x2_0000, LAST)], write);
        transfer(0x2_0000, &[(RAM_END as u32 - 256, 0x1000), (DATA, LAST | 512)], write);
        transfer(0x2_0000, &[(DATA, LAST | 2)], write);
        // Tables at the end of RAM, and where there is none.
        transfer(RAM_END as u32 - 8, &[(DATA, 512)], write);
        for table in [0xd000_0000, 0xfee0_0000, 0xffff_fffc, 0xe000_0000, 0x000f_0000] {
            transfer(table, &[], write);
        }
    }
}

fn e1000_rings(program: &mut Program) {
    place_cards(program);
    program.store(E1000 + 0xd0, 4, 0xff);
    for at in [DATA, 0xd000_0000, 0xfee0_0000, 0x000f_0000, RAM_END as u32 - 64, 0xffff_fff0] {
        for high in [0, 1, u32::MAX] {
            for (length, head, tail) in [
                (0, 0, 1),
                (128, 0, 7),
                (128, 9, 2),
                (128, 0xffff, 0xffff),
                (0xf_ff80, 0, 0xffff),
                (0xf_ff80, 0xfff0, 0xffef),
            ] {
                let rings = [0x2800, 0x3800].into_iter().flat_map(|ring| {
                    [(0, at), (4, high), (8, length), (0x10, head), (0x18, tail)]
                        .map(|(register, value)| (ring + register, value))
                });
                for (register, value) in rings.chain([(0x100, 0x0603_803e), (0x400, 2)]) {
                    program.store(E1000 + register, 4, value);
                }
                program.wait(PATIENCE_US);
                program.load(E1000 + 0xc0);
            }
        }
    }
    // Packets without an end, of nothing, of all kinds, at addresses of all kinds.
    for command in [0x00, 0x01, 0x09, 0x0f, 0x20, 0x21, 0x25, 0x2d, 0x2f, 0xff] {
        for (to, length) in
            [(u64::from(DATA), 60), (0, 0xffff), (u64::MAX, 0xffff), (0xfee0_0000, 1)]
        {
            program.fill(RINGS, 0, 0x80);
            for slot in 0..8 {
                let at = RINGS + 16 * slot;
                program.store_wide(at, to);
                program.store(at + 8, 4, length | 0x000f_0000 | command << 24);
                // Segments of one byte behind long headers.
                program.store(at + 12, 4, 0x0001_ff00 | slot);
            }
            for (register, value) in
                [(0x3800, RINGS), (0x3804, 0), (0x3808, 128), (0x3810, 0), (0x3818, 7), (0x400, 2)]
            {
                program.store(E1000 + register, 4, value);
            }
            program.wait(PATIENCE_US);
            program.load(E1000 + 0xc0);
        }
    }
    // EEPROM, PHY, registers beyond the last, of odd widths.
    for value in [0, 1, 0x10, 0xff, 0x0400_0000, 0x0800_0000, u32::MAX] {
        for register in [0x10, 0x14, 0x20, 0x18, 0x28, 0x5400, 0x1_fffc] {
            program.store(E1000 + register, 4, value);
            program.store(E1000 + register + 1, 2, value);
            program.load(E1000 + register);
            program.load(E1000 + register + 2);
        }
        program.out(place::E1000_PORTS, 4, value);
        program.out(place::E1000_PORTS + 4, 4, value);
        program.input(place::E1000_PORTS + 4, 4);
    }
}

fn fw_cfg(program: &mut Program) {
    const SELECT: u32 = 8;
    const READ: u32 = 2;
    const SKIP: u32 = 4;
    const WRITE: u32 = 16;
    let mut copy = |at: u64, control: u32, length: u32, to: u64| {
        if at < RAM_END - 16 {
            let words = [control, length, (to >> 32) as u32, to as u32];
            for (word, value) in (0..).zip(words) {
                program.store(at as u32 + 4 * word, 4, value.swap_bytes());
            }
        }
        program.out(0x514, 4, ((at >> 32) as u32).swap_bytes());
        program.out(0x518, 4, (at as u32).swap_bytes());
        program.input(0x511, 1);
    };
    for to in NO_RAM.into_iter().chain([RAM_END - 4, DATA.into()]) {
        for control in [SELECT | READ, READ, SKIP, WRITE, SELECT | READ | WRITE | SKIP, u32::MAX] {
            for length in [0, 1, 0x1000, u32::MAX] {
                copy(DATA.into(), control | 0x19 << 16, length, to);
            }
        }
        // The descriptor itself is nowhere.
        copy(to, 0, 0, 0);
    }
    // The copy lies over its descriptor.
    copy(DATA.into(), SELECT | READ | 0x19 << 16, 64, DATA.into());
}

fn display(program: &mut Program) {
    place_cards(program);
    // Every register of every set, with values of all kinds.
    for (index_port, count) in [(0x3c4, 8u32), (0x3ce, 16), (0x3d4, 0x20)] {
        for index in 0..count {
            for value in [0xff, 0x00, 0x5a] {
                program.out(index_port, 2, index | value << 8);
                program.input(index_port + 1, 1);
            }
        }
        program.store(0xa_0000, 4, 0x1234_5678);
        program.load(0xa_ffff);
        program.load(0xb_fffd);
    }
    for index in 0..0x40 {
        program.input(0x3da, 1);
        program.out(0x3c0, 1, index);
        program.out(0x3c0, 1, 0xff);
    }
    // Linear modes of no size, of all sizes, beyond memory.
    for (width, height, depth) in [
        (0, 0, 32),
        (0xffff, 0xffff, 32),
        (1, 1, 1),
        (2560, 1600, 32),
        (640, 480, 7),
        (1, 0xffff, 8),
    ] {
        for enable in [0x00, 0x01, 0x41, 0xc1, 0xff] {
            for (register, value) in [
                (4, 0),
                (1, width),
                (2, height),
                (3, depth),
                (5, 0xffff),
                (6, 0xffff),
                (8, 0xffff),
                (9, 0xffff),
                (4, enable),
                (0xffff, 0xffff),
            ] {
                program.out(0x1ce, 2, register);
                program.out(0x1cf, 2, value);
                program.input(0x1cf, 4);
            }
            program.store(place::VGA_MEMORY + 0xff_fffc, 4, 0x0102_0304);
            program.load(place::VGA_MEMORY + 0xff_fffd);
            program.store(0xa_fffe, 4, 0x0a0b_0c0d);
        }
        program.store(place::VGA_REGISTERS + 0x504, 2, width);
        program.store(place::VGA_REGISTERS + 0x4ff, 4, width);
        program.load(place::VGA_REGISTERS + 0xffd);
    }
    program.fill(0xa_0000, 0x5555_5555, 0x8000);
}
