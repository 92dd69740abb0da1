//! What network cards have in common: frames that have arrived and wait, and an account of those that were sent.
//!
//! A frame is an Ethernet frame from the destination address on, without preamble and check sequence.

use crate::RestoreError;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of the addresses and the type: no frame is shorter.
pub const FRAME_BYTES_MIN: usize = 14;
/// The longest frame: 65 535 bytes behind the header and a VLAN tag.
pub const FRAME_BYTES_MAX: usize = 65_535 + FRAME_BYTES_MIN + 4;

/// What frames that wait may take. Each digest holds them.
pub const WAITING_BYTES_MAX: usize = 160 << 10;
/// What a frame takes beside its bytes.
const FRAME_COST: usize = 64;

/// A MAC address.
pub type Mac = [u8; 6];

/// Frames that have arrived and that the guest has no buffers for yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    frames: VecDeque<Vec<u8>>,
    /// Derived: what they take.
    cost: usize,
}

fn cost(frame: &[u8]) -> usize {
    FRAME_COST + frame.len()
}

impl Waiting {
    /// Takes a frame; lost, as on a wire, if it is none or there is no room for it.
    pub fn push(&mut self, frame: &[u8]) {
        let possible = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len());
        if possible && self.cost + cost(frame) <= WAITING_BYTES_MAX {
            self.cost += cost(frame);
            self.frames.push_back(frame.to_vec());
        }
    }

    /// The frame that came first.
    pub fn front(&self) -> Option<&[u8]> {
        self.frames.front().map(Vec::as_slice)
    }

    /// Takes it away.
    pub fn pop(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.cost -= cost(&frame);
        }
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes of frames that surely have room, if they are not smaller than [`FRAME_COST`](self).
    pub fn room(&self) -> usize {
        (WAITING_BYTES_MAX - self.cost) / 2
    }

    /// Nothing waits any more.
    pub fn clear(&mut self) {
        *self = Waiting::default();
    }

    /// What can change.
    pub fn save(&self) -> Vec<Vec<u8>> {
        self.frames.iter().cloned().collect()
    }

    /// Becomes `frames`, of a card called `chip`.
    pub fn restore(
        &mut self,
        frames: Vec<Vec<u8>>,
        chip: &'static str,
    ) -> Result<(), RestoreError> {
        let mut waiting = Waiting::default();
        frames.iter().for_each(|frame| waiting.push(frame));
        RestoreError::unless(waiting.frames == frames, chip, "waiting")?;
        *self = waiting;
        Ok(())
    }
}

/// An account of the frames that a card has sent. Part of its state, so a replay that sends others is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    frames: u64,
    bytes: u64,
    /// XXH3-64 of each frame, seeded with what it was before.
    hash: u64,
}

impl Sent {
    /// Counts a frame.
    pub fn count(&mut self, frame: &[u8]) {
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(frame.len() as u64);
        self.hash = xxh3_64_with_seed(frame, self.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_wait_in_order_and_not_without_bound() {
        let mut waiting = Waiting::default();
        let frame = |n: u32| [&n.to_le_bytes()[..], &[0; 1496]].concat();
        for n in 0..1000 {
            waiting.push(&frame(n));
        }
        let kept = waiting.save();
        assert!((100..110).contains(&kept.len()), "{}", kept.len());
        for n in 0..kept.len() as u32 {
            assert_eq!(waiting.front(), Some(&frame(n)[..]));
            waiting.pop();
        }
        assert!(waiting.is_empty());
        assert_eq!(waiting, Waiting::default());
    }

    #[test]
    fn what_is_no_frame_is_lost_and_refused() {
        let mut waiting = Waiting::default();
        for bytes in [0, 13, 65_554, 1 << 20] {
            waiting.push(&vec![1; bytes]);
            assert!(waiting.is_empty(), "{bytes}");
            assert!(waiting.restore(vec![vec![1; bytes]], "a test").is_err(), "{bytes}");
        }
        waiting.push(&[1; 14]);
        waiting.push(&[1; 65_553]);
        assert_eq!(waiting.save().len(), 2);
        assert!(waiting.restore(vec![vec![0; 60_000]; 3], "a test").is_err());
    }

    #[test]
    fn the_account_tells_order_and_contents_apart() {
        let account = |frames: &[&[u8]]| {
            let mut sent = Sent::default();
            frames.iter().for_each(|frame| sent.count(frame));
            sent
        };
        let (a, b) = (&[1u8; 60][..], &[2u8; 60][..]);
        assert_eq!(account(&[a, b]), account(&[a, b]));
        assert_ne!(account(&[a, b]), account(&[b, a]));
        assert_ne!(account(&[a]), account(&[a, a]));
    }
}
