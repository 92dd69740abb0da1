//! A split virtqueue, the device's end (virtio 1.2, 2.7).
//!
//! Everything in guest memory is the guest's to get wrong. What cannot be followed makes the queue [`Broken`], and the device
//! says that it needs a reset; what can be followed costs no more than the queue is long.

use crate::RestoreError;
use crate::card::Surroundings;
use dejavm_units::Gpa;
use serde::{Deserialize, Serialize};

/// Entries at most; a power of two.
pub const SIZE_MAX: u16 = 256;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Descriptor flags.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Flag of the available ring: the driver wants no interrupts.
const NO_INTERRUPT: u16 = 1;

/// A queue that makes no sense: the driver, or somebody who writes over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken;

/// A piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where.
    pub at: Gpa,
    /// How long.
    pub bytes: u32,
}

/// A request: memory that the device reads, and memory that it writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// By what the driver knows it.
    pub head: u16,
    /// What the device reads, in order.
    pub readable: Vec<Segment>,
    /// What the device writes, in order.
    pub writable: Vec<Segment>,
}

/// Bytes of all segments.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.bytes)).sum()
}

/// Reads from the beginning of segments, as far as they go; how far.
pub fn gather(segments: &[Segment], into: &mut [u8], around: &dyn Surroundings) -> usize {
    let mut done = 0;
    for segment in segments {
        let bytes = (segment.bytes as usize).min(into.len() - done);
        around.read_memory(segment.at, &mut into[done..done + bytes]);
        done += bytes;
    }
    done
}

/// Writes to the beginning of segments, as far as they go; how far.
pub fn scatter(segments: &[Segment], from: &[u8], around: &mut dyn Surroundings) -> usize {
    let mut done = 0;
    for segment in segments {
        let bytes = (segment.bytes as usize).min(from.len() - done);
        around.write_memory(segment.at, &from[done..done + bytes]);
        done += bytes;
    }
    done
}

/// The segments without their first bytes.
pub fn skip(segments: &[Segment], mut bytes: u64) -> Vec<Segment> {
    let mut rest = Vec::with_capacity(segments.len());
    for segment in segments {
        let skipped = bytes.min(segment.bytes.into());
        bytes -= skipped;
        if skipped < u64::from(segment.bytes) {
            rest.push(Segment {
                at: segment.at.wrapping_add(skipped),
                bytes: segment.bytes - skipped as u32,
            });
        }
    }
    rest
}

/// A queue and how far it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Queue {
    /// Entries: a power of two.
    pub(super) size: u16,
    /// The driver has set it up.
    pub(super) enabled: bool,
    /// The vector of its interrupts.
    pub(super) vector: u16,
    /// The descriptor table.
    pub(super) descriptors: u64,
    /// The available ring.
    pub(super) available: u64,
    /// The used ring.
    pub(super) used: u64,
    /// The next available entry that the device takes.
    next_available: u16,
    /// The next used entry that the device fills.
    next_used: u16,
    /// `next_used` when the driver was last told.
    told: u16,
}

impl Queue {
    pub(super) fn new(size: u16) -> Queue {
        assert!(size.is_power_of_two() && size <= SIZE_MAX, "a split queue's length");
        Queue {
            size,
            enabled: false,
            vector: super::transport::NO_VECTOR,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
            told: 0,
        }
    }

    /// Whether the driver has set it up.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Requests that wait.
    pub fn waiting(&self, around: &dyn Surroundings) -> Result<u16, Broken> {
        if !self.enabled {
            return Ok(0);
        }
        let available = around.read_u16(Gpa(self.available).wrapping_add(2));
        let waiting = available.wrapping_sub(self.next_available);
        if waiting > self.size { Err(Broken) } else { Ok(waiting) }
    }

    /// Takes the next request.
    pub fn take(&mut self, around: &dyn Surroundings) -> Result<Option<Chain>, Broken> {
        if self.waiting(around)? == 0 {
            return Ok(None);
        }
        let slot = u64::from(self.next_available % self.size);
        let head = around.read_u16(Gpa(self.available).wrapping_add(4 + 2 * slot));
        let chain = self.follow(head, around)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Puts the request back that was taken last.
    pub fn put_back(&mut self) {
        self.next_available = self.next_available.wrapping_sub(1);
    }

    fn follow(&self, head: u16, around: &dyn Surroundings) -> Result<Chain, Broken> {
        let mut chain = Chain { head, readable: Vec::new(), writable: Vec::new() };
        let mut table = Gpa(self.descriptors);
        let mut entries = u32::from(self.size);
        let mut index = u32::from(head);
        let mut indirect = false;
        // No chain is longer than the queue (2.7.5.3.1, 2.7.6), a loop is.
        for _ in 0..=self.size {
            if index >= entries {
                return Err(Broken);
            }
            let mut bytes = [0; DESCRIPTOR as usize];
            around.read_memory(table.wrapping_add(DESCRIPTOR * u64::from(index)), &mut bytes);
            let (at, rest) = bytes.split_first_chunk::<8>().expect("16 bytes have 8");
            let (length, rest) = rest.split_first_chunk::<4>().expect("8 bytes have 4");
            let [flags_low, flags_high, next_low, next_high] = *rest else {
                unreachable!("16 bytes are 8 and 4 and 4")
            };
            let at = Gpa(u64::from_le_bytes(*at));
            let length = u32::from_le_bytes(*length);
            let flags = u16::from_le_bytes([flags_low, flags_high]);
            if flags & INDIRECT != 0 {
                // It ends the chain, and no table of descriptors refers to another.
                let count = length / DESCRIPTOR as u32;
                if indirect || flags & NEXT != 0 || count == 0 {
                    return Err(Broken);
                }
                (table, entries, index, indirect) = (at, count, 0, true);
                continue;
            }
            let segment = Segment { at, bytes: length };
            match flags & WRITE {
                // What the device reads comes first (2.7.4.2).
                0 if !chain.writable.is_empty() => return Err(Broken),
                0 => chain.readable.push(segment),
                _ => chain.writable.push(segment),
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = u16::from_le_bytes([next_low, next_high]).into();
        }
        Err(Broken)
    }

    /// Gives a request back, so many bytes of it written.
    pub fn give_back(&mut self, head: u16, written: u32, around: &mut dyn Surroundings) {
        let slot = u64::from(self.next_used % self.size);
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        around.write_memory(Gpa(self.used).wrapping_add(4 + 8 * slot), &element);
        self.next_used = self.next_used.wrapping_add(1);
        let index = self.next_used.to_le_bytes();
        around.write_memory(Gpa(self.used).wrapping_add(2), &index);
    }

    /// Asks to be notified of the next request: after all that waited were taken. `event_index`: whether
    /// VIRTIO_F_EVENT_IDX was negotiated; without, the driver always notifies.
    pub fn ask_for_notification(&self, event_index: bool, around: &mut dyn Surroundings) {
        if event_index && self.enabled {
            let event = Gpa(self.used).wrapping_add(4 + 8 * u64::from(self.size));
            around.write_memory(event, &self.next_available.to_le_bytes());
        }
    }

    /// Whether the driver wants an interrupt for what was given back since this was asked last (2.7.7).
    pub fn wants_interrupt(&mut self, event_index: bool, around: &dyn Surroundings) -> bool {
        let new = self.next_used.wrapping_sub(self.told);
        if new == 0 || !self.enabled {
            return false;
        }
        let told = std::mem::replace(&mut self.told, self.next_used);
        if event_index {
            let event = Gpa(self.available).wrapping_add(4 + 2 * u64::from(self.size));
            // The entry that the driver waits for is among the new ones.
            around.read_u16(event).wrapping_sub(told) < new
        } else {
            around.read_u16(Gpa(self.available)) & NO_INTERRUPT == 0
        }
    }

    /// Refuses a state that a queue of at most `max` entries cannot be in.
    pub(super) fn check(&self, max: u16, chip: &'static str) -> Result<(), RestoreError> {
        let possible = self.size.is_power_of_two() && self.size <= max;
        RestoreError::unless(possible, chip, "queue.size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    const DESCRIPTORS: u64 = 0x1000;
    const AVAILABLE: u64 = 0x2000;
    const USED: u64 = 0x3000;

    fn queue() -> (Queue, Memory) {
        let mut queue = Queue::new(8);
        queue.enabled = true;
        (queue.descriptors, queue.available, queue.used) = (DESCRIPTORS, AVAILABLE, USED);
        (queue, Memory::new(0x10000))
    }

    fn describe(
        memory: &mut Memory,
        table: u64,
        index: u64,
        at: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = Vec::new();
        bytes.extend(at.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        memory.write_memory(Gpa(table + 16 * index), &bytes);
    }

    fn offer(memory: &mut Memory, index: u16, head: u16) {
        memory.write_memory(Gpa(AVAILABLE + 4 + 2 * u64::from(index % 8)), &head.to_le_bytes());
        memory.write_memory(Gpa(AVAILABLE + 2), &(index + 1).to_le_bytes());
    }

    #[test]
    fn a_chain_is_taken_and_given_back() {
        let (mut queue, mut memory) = queue();
        describe(&mut memory, DESCRIPTORS, 3, 0x5000, 16, 1, 5);
        describe(&mut memory, DESCRIPTORS, 5, 0x6000, 512, 1 | 2, 0);
        describe(&mut memory, DESCRIPTORS, 0, 0x7000, 1, 2, 0);
        offer(&mut memory, 0, 3);
        let chain = queue.take(&memory).unwrap().unwrap();
        let segment = |at, bytes| Segment { at: Gpa(at), bytes };
        assert_eq!(chain.readable, [segment(0x5000, 16)]);
        assert_eq!(chain.writable, [segment(0x6000, 512), segment(0x7000, 1)]);
        assert_eq!(queue.take(&memory), Ok(None));
        queue.give_back(chain.head, 513, &mut memory);
        assert_eq!(memory.bytes[0x3000..0x300c], [0, 0, 1, 0, 3, 0, 0, 0, 1, 2, 0, 0]);
        assert!(queue.wants_interrupt(false, &memory));
        assert!(!queue.wants_interrupt(false, &memory), "the driver was told");
    }

    #[test]
    fn indirect_tables_are_followed_once() {
        let (mut queue, mut memory) = queue();
        describe(&mut memory, DESCRIPTORS, 0, 0x8000, 32, 4, 0);
        describe(&mut memory, 0x8000, 0, 0x5000, 16, 1, 1);
        describe(&mut memory, 0x8000, 1, 0x6000, 1, 2, 0);
        offer(&mut memory, 0, 0);
        let chain = queue.take(&memory).unwrap().unwrap();
        assert_eq!((total(&chain.readable), total(&chain.writable)), (16, 1));
        describe(&mut memory, 0x8000, 0, 0x8000, 32, 4, 0);
        offer(&mut memory, 1, 0);
        assert_eq!(queue.take(&memory), Err(Broken));
    }

    #[test]
    fn loops_and_nonsense_are_found() {
        for (next, flags) in [(1, 1), (9, 1), (0xffff, 1)] {
            let (mut queue, mut memory) = queue();
            describe(&mut memory, DESCRIPTORS, 1, 0x5000, 16, flags, next);
            offer(&mut memory, 0, 1);
            assert_eq!(queue.take(&memory), Err(Broken), "next {next}");
        }
        let (mut queue, mut memory) = queue();
        memory.write_memory(Gpa(AVAILABLE + 2), &9u16.to_le_bytes());
        assert_eq!(queue.take(&memory), Err(Broken), "more than there is room for");
        queue.available = 0xffff_ffff_ffff_ff00;
        assert_eq!(queue.take(&memory), Err(Broken), "where no memory is");
    }

    #[test]
    fn the_event_index_says_when_to_interrupt() {
        let (mut queue, mut memory) = queue();
        memory.write_memory(Gpa(AVAILABLE + 4 + 16), &1u16.to_le_bytes());
        queue.give_back(0, 0, &mut memory);
        assert!(!queue.wants_interrupt(true, &memory), "the driver waits for the second");
        queue.give_back(1, 0, &mut memory);
        assert!(queue.wants_interrupt(true, &memory));
        queue.ask_for_notification(true, &mut memory);
        assert_eq!(memory.bytes[0x3000 + 4 + 64..][..2], [0, 0]);
    }

    #[test]
    fn segments_are_cut() {
        let segments = [Segment { at: Gpa(0x100), bytes: 4 }, Segment { at: Gpa(0x200), bytes: 4 }];
        assert_eq!(skip(&segments, 6), [Segment { at: Gpa(0x202), bytes: 2 }]);
        assert_eq!(skip(&segments, 0), segments);
        assert_eq!(skip(&segments, 9), []);
    }
}
