//! A driver of virtio cards: what scripts do to set one up and to use it.

use crate::devices::{CONFIG, Memory, Script};

/// Entries of the queues that a script's driver sets up.
const SIZE: u16 = 8;
/// Where queue `n` is: its descriptors, what is available, what was used.
fn queue_at(queue: u16) -> [u16; 3] {
    [0, 0x100, 0x200].map(|part| queue * 0x400 + part)
}

/// Negotiates features and sets so many queues up (virtio 1.2, 3.1.1 and 4.1.4.3).
pub(super) fn start(script: &mut Script, features: u64, queues: u16) {
    script.config(4, 0x0006);
    let mut write = |at: u32, size: u8, value: u64| {
        script.write(0, at, size, value);
    };
    write(20, 1, 0);
    write(20, 1, 3);
    for half in 0..2u64 {
        write(8, 4, half);
        write(12, 4, (features | 1 << 32) >> (32 * half) & 0xffff_ffff);
    }
    write(20, 1, 11);
    for queue in 0..queues {
        let [descriptors, available, used] = queue_at(queue);
        write(22, 2, queue.into());
        write(24, 2, SIZE.into());
        write(26, 2, queue.into());
        write(32, 8, descriptors.into());
        write(40, 8, available.into());
        write(48, 8, used.into());
        write(28, 2, 1);
    }
    write(20, 1, 15);
}

/// Puts a chain of (address, bytes, whether the device writes) at the queue's descriptors from `first` on, makes it available as
/// the `count`th, and notifies.
pub(super) fn offer(
    script: &mut Script,
    queue: u16,
    first: u16,
    count: u16,
    pieces: &[(u16, u32, bool)],
) {
    let [descriptors, available, _] = queue_at(queue);
    for (index, (at, bytes, write)) in (0u16..).zip(pieces) {
        let number = first + index;
        let last = usize::from(index) + 1 == pieces.len();
        let mut descriptor = u64::from(*at).to_le_bytes().to_vec();
        descriptor.extend(bytes.to_le_bytes());
        descriptor.extend((u16::from(!last) | u16::from(*write) << 1).to_le_bytes());
        descriptor.extend((number + 1).to_le_bytes());
        script.memory(descriptors + 16 * number, &descriptor);
    }
    script.memory(available + 4 + 2 * (count.wrapping_sub(1) % SIZE), &first.to_le_bytes());
    script.memory(available + 2, &count.to_le_bytes());
    script.write(0, 0x3000 + 4 * u32::from(queue), 2, queue.into());
}

/// A request behind those that were made: pieces as the number says, of lengths that mean something, behind `first` if that is one.
pub(super) fn request(
    script: &mut Script,
    number: u64,
    queue: u16,
    first: Option<(u16, u32, bool)>,
    memory: &Memory,
) {
    const LENGTHS: [u32; 16] =
        [0, 1, 2, 12, 13, 26, 60, 64, 512, 1024, 1526, 2048, 0x1000, 0x1_0000, 0x10_0000, u32::MAX];
    let mut pieces: Vec<_> = first.into_iter().collect();
    // What the device reads comes first, as it has to, mostly.
    let (reads, writes) = (number & 3, number >> 2 & 3);
    for n in 0..(reads + writes).max(1) {
        let bits = number >> (4 + 8 * n);
        let length = LENGTHS[(bits & 15) as usize];
        let at = 0x4000 + (bits as u16 >> 4 & 15) * 0x800;
        pieces.push((at, length, n >= reads));
    }
    let [_, available, _] = queue_at(queue);
    let count = memory.word(available + 2).wrapping_add(1);
    offer(script, queue, (number >> 40) as u16 % 3, count, &pieces);
}

/// The common registers, the device's own, notifications, the MSI-X table, configuration space.
pub(super) const REGISTERS: &[(u8, u32)] = &[
    (0, 0),
    (0, 4),
    (0, 8),
    (0, 12),
    (0, 16),
    (0, 18),
    (0, 20),
    (0, 21),
    (0, 22),
    (0, 24),
    (0, 26),
    (0, 28),
    (0, 30),
    (0, 32),
    (0, 36),
    (0, 40),
    (0, 48),
    (0, 0x1000),
    (0, 0x2000),
    (0, 0x2008),
    (0, 0x3000),
    (0, 0x3000),
    (0, 0x3000),
    (0, 0x3004),
    (0, 0x3004),
    (0, 0x3004),
    (1, 0),
    (1, 4),
    (1, 8),
    (1, 12),
    (1, 0x1c),
    (1, 0x800),
    (CONFIG, 4),
    (CONFIG, 0x10),
    (CONFIG, 0x14),
    (CONFIG, 0x40),
    (CONFIG, 0x42),
    (CONFIG, 0x90),
    (CONFIG, 0x94),
    (CONFIG, 0x98),
];

/// Features that a driver may accept, by the bits of a number: tables of descriptors, indices of events, merged buffers.
pub(super) fn features(variant: u64) -> u64 {
    (variant & 3) << 28 | (variant >> 2 & 1) << 15
}
