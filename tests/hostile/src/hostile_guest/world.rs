//! A world that sends something at every look: frames for both network cards, keys, serial bytes; cables that come and go.

use crate::Random;
use dejavm_machine::{Input, Output, VIRTIO_CONSOLE};
use dejavm_replay::{IdleAnswer, Polled, Progress, World};
use dejavm_units::GuestNs;

pub(super) const VIRTIO_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const E1000_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Places of the network cards among the cards.
const CARDS: [(u8, [u8; 6]); 2] = [(1, VIRTIO_MAC), (3, E1000_MAC)];

/// See the module's documentation.
pub(super) struct Traffic {
    random: Random,
}

impl Traffic {
    pub(super) fn new(seed: u64) -> Traffic {
        Traffic { random: Random::new(seed ^ 0x7472_6166) }
    }

    fn input(&mut self) -> Input {
        let random = &mut self.random;
        let (card, mac) = CARDS[random.below(2)];
        match random.below(10) {
            0 => Input::Key {
                code: random.next_u64() as u8 & 0x7f,
                extended: random.below(2) == 0,
                pressed: random.below(2) == 0,
            },
            1 => Input::Serial {
                port: [0, VIRTIO_CONSOLE][random.below(2)],
                bytes: vec![random.next_u64() as u8; random.below(40)],
            },
            2 => Input::Link { card, up: random.below(3) != 0 },
            _ => {
                let frames = (0..1 + random.below(4)).map(|_| {
                    let mut frame = mac.to_vec();
                    let fill = random.next_u64() as u8;
                    frame.resize([10, 14, 60, 1514, 9000, 65_000][random.below(6)], fill);
                    frame
                });
                Input::Frames { card, frames: frames.collect() }
            }
        }
    }
}

impl World for Traffic {
    fn poll(&mut self) -> Polled {
        let count = self.random.below(3);
        let inputs = (0..count).map(|_| self.input()).collect();
        Polled { inputs, ..Polled::default() }
    }

    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        IdleAnswer::Until(wake.unwrap_or(GuestNs(now.0.saturating_add(1_000_000))))
    }

    fn output(&mut self, _output: &[Output]) {}

    fn progress(&mut self, _progress: Progress) {}
}
