//! Virtio queues that are none.

use super::place::{NO_RAM, VIRTIO_CARDS};
use super::{DATA, PATIENCE_US, RAM_END, RINGS, TABLE, place_cards};
use crate::hostile_guest::program::Program;

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

fn start(program: &mut Program, card: u32, rings: &Rings, size: u16) {
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
pub(super) fn queues(program: &mut Program) {
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
    for (_, card) in VIRTIO_CARDS {
        for case in cases {
            program.fill(RINGS, 0, 0x1000);
            start(program, card, &USUAL, 8);
            case(program);
            program.bytes_at(RINGS + 0x1000, &[0, 0, 1, 0, 0, 0]);
            provoke(program, card);
        }
        // A read, a write, to and from everything that is no RAM.
        for (kind, at) in (0..2).flat_map(|kind| NO_RAM.map(|at| (kind, at))) {
            program.fill(RINGS, 0, 0x1000);
            program.fill(DATA, 0, 8);
            program.store(DATA, 4, kind);
            start(program, card, &USUAL, 8);
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
            start(program, card, &USUAL, 8);
            program.store(RINGS + 0x1000, 4, index << 16);
            program.store(RINGS + 0x1004, 4, head);
            provoke(program, card);
        }
    }
}

/// Queues whose parts are each other, nothing, or of impossible sizes.
pub(super) fn rings(program: &mut Program) {
    place_cards(program);
    let all = |at: u64| Rings { descriptors: at, available: at, used: at };
    for (device, card) in VIRTIO_CARDS {
        for at in NO_RAM.into_iter().chain([RINGS.into(), RAM_END - 64, RAM_END - 1, 0x1001]) {
            for size in [0, 3, 8, 256, 0xffff] {
                program.fill(RINGS, 0x0001_0001, 0x40);
                start(program, card, &all(at), size);
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
            start(program, card, &Rings { descriptors, available, used }, 8);
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
            program.config(device, 0, offset as u8, 0xffff_fffc);
            program.read_config(device, 0, offset as u8);
        }
    }
}
