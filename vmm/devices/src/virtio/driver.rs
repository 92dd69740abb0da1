//! A driver for tests: what a guest does to use a virtio card, well or badly.

use crate::card::Surroundings;
use crate::pci::Width;
use crate::testing::{Kept, Machine};
use dejavm_units::{Gpa, GuestNs};

/// Entries of the queue that the driver sets up.
pub(crate) const SIZE: u16 = 8;
const DESCRIPTORS: u64 = 0x0000;
const AVAILABLE: u64 = 0x0100;
const USED: u64 = 0x0200;
/// Where requests are.
pub(crate) const REQUESTS: u64 = 0x0400;
/// Where data is.
pub(crate) const DATA: u64 = 0x1000;

/// A piece of a chain: where, how long, whether the device writes it.
pub(crate) type Piece = (u64, u32, bool);

/// Turns bus mastering and memory on, negotiates `features` and sets queue `queue` up.
pub(crate) fn start<C: Kept>(machine: &mut Machine<C>, features: u64, queue: u16) {
    let now = GuestNs(0);
    let card = &mut machine.card;
    card.config_write(4, Width::Word, 0x0006, now);
    let mut write = |at: u64, size: u8, value: u64| card.write(0, at, size, value, now);
    write(20, 1, 0);
    write(20, 1, 3);
    for half in 0..2 {
        write(8, 4, half);
        write(12, 4, (features | 1 << 32) >> (32 * half) & 0xffff_ffff);
    }
    write(20, 1, 11);
    write(22, 2, queue.into());
    write(24, 2, SIZE.into());
    write(26, 2, 0);
    write(32, 8, DESCRIPTORS);
    write(40, 4, AVAILABLE);
    write(44, 4, 0);
    write(48, 8, USED);
    write(28, 2, 1);
    write(20, 1, 15);
}

/// Puts a chain into the queue, its descriptors from `first` on, and notifies.
pub(crate) fn offer<C: Kept>(
    machine: &mut Machine<C>,
    queue: u16,
    first: u16,
    pieces: &[Piece],
    now: GuestNs,
) {
    let memory = &mut machine.memory;
    for (index, (at, bytes, write)) in (0u16..).zip(pieces) {
        let number = (first + index) % SIZE;
        let last = usize::from(index) + 1 == pieces.len();
        let flags = u16::from(!last) | u16::from(*write) << 1;
        let mut descriptor = Vec::new();
        descriptor.extend(at.to_le_bytes());
        descriptor.extend(bytes.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend(((number + 1) % SIZE).to_le_bytes());
        memory.write_memory(Gpa(DESCRIPTORS + 16 * u64::from(number)), &descriptor);
    }
    let next = (memory as &dyn Surroundings).read_u16(Gpa(AVAILABLE + 2));
    let slot = AVAILABLE + 4 + 2 * u64::from(next % SIZE);
    memory.write_memory(Gpa(slot), &(first % SIZE).to_le_bytes());
    memory.write_memory(Gpa(AVAILABLE + 2), &next.wrapping_add(1).to_le_bytes());
    machine.card.write(0, 0x3000 + 4 * u64::from(queue), 2, queue.into(), now);
}

/// How many requests were given back.
pub(crate) fn used<C: Kept>(machine: &Machine<C>) -> u16 {
    (&machine.memory as &dyn Surroundings).read_u16(Gpa(USED + 2))
}
