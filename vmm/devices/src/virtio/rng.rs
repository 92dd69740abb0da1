//! The virtio entropy device (virtio 1.2, 5.4): random bytes that follow from a seed in the machine's configuration, so that a
//! replay has the same ones. Whoever has the recording has them too.

use super::function::Device;
use super::queue::{Broken, scatter, total};
use super::transport::Transport;
use crate::RestoreError;
use crate::card::Surroundings;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Buffers that may wait.
const QUEUE: u16 = 16;
/// From a notification to a look at the queue.
const LATENCY_NS: u64 = 20_000;
/// Bytes that a buffer gets at most: the driver asks again.
const BUFFER_BYTES_MAX: u64 = 4096;

/// What can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    due: Option<GuestNs>,
    blocks: u64,
}

/// A source of random bytes.
#[derive(Clone, Debug)]
pub struct Rng {
    // Configuration.
    seed: u64,
    // State.
    /// When the queue is looked at.
    due: Option<GuestNs>,
    /// Blocks of 16 bytes begun so far.
    blocks: u64,
}

impl Rng {
    /// A source whose bytes follow from a seed.
    pub fn new(seed: u64) -> Rng {
        Rng { seed, due: None, blocks: 0 }
    }

    /// The next bytes: block n is XXH3-128 of n, little-endian, with the seed. What is left of a block is nobody's.
    fn draw(&mut self, bytes: usize) -> Vec<u8> {
        let mut drawn = Vec::with_capacity(bytes.next_multiple_of(16));
        while drawn.len() < bytes {
            drawn.extend(xxh3_128_with_seed(&self.blocks.to_le_bytes(), self.seed).to_le_bytes());
            self.blocks = self.blocks.wrapping_add(1);
        }
        drawn.truncate(bytes);
        drawn
    }

    /// Fills as many buffers as a queue holds; whether more may wait, as a driver that honours the queue's size never has it.
    fn look(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<bool, Broken> {
        for _ in 0..QUEUE {
            let Some(chain) = transport.queue(0).take(around)? else { return Ok(false) };
            let bytes = total(&chain.writable).min(BUFFER_BYTES_MAX);
            let drawn = self.draw(bytes as usize);
            scatter(&chain.writable, &drawn, around);
            transport.queue(0).give_back(chain.head, bytes as u32, around);
        }
        Ok(transport.queue(0).waiting(around)? > 0)
    }
}

impl Device for Rng {
    type State = State;
    const NAME: &'static str = "the virtio entropy device";
    const KIND: u16 = 4;
    // Unclassified, as QEMU has it.
    const CLASS: u32 = 0x00_ff_00;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn registers(&self) -> Vec<u8> {
        Vec::new()
    }

    fn notified(&mut self, _queue: u16, now: GuestNs) {
        if self.due.is_none() {
            // At the end of time nothing comes any more.
            self.due = now.0.checked_add(LATENCY_NS).map(GuestNs);
        }
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.due
    }

    fn service(&mut self, now: GuestNs, transport: &mut Transport, around: &mut dyn Surroundings) {
        self.due = None;
        let look = self.look(transport, around);
        if transport.looked(look, around) == Some(true) {
            self.notified(0, now);
        }
    }

    fn reset(&mut self) {
        self.due = None;
    }

    fn save(&self) -> State {
        let Rng { seed: _, due, blocks } = self;
        State { due: *due, blocks: *blocks }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { due, blocks } = state;
        self.due = due;
        self.blocks = blocks;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;
    use crate::virtio::Function;
    use crate::virtio::driver::{DATA, offer, start, used};

    /// What a guest reads that asks for `pieces` of this many bytes one after the other.
    fn drawn(seed: u64, pieces: &[u32]) -> Vec<u8> {
        let mut machine = Machine::new(Function::new(Rng::new(seed)), 0x4000, 0);
        start(&mut machine, 0, 0);
        let mut all = Vec::new();
        for (n, bytes) in (0u64..).zip(pieces) {
            offer(&mut machine, 0, 0, &[(DATA, *bytes, true)], GuestNs(n * 1_000_000));
            machine.advance(GuestNs(n * 1_000_000 + 500_000));
            assert_eq!(u64::from(used(&machine)), n + 1);
            let end = DATA as usize + *bytes as usize;
            all.extend_from_slice(&machine.memory.bytes[DATA as usize..end]);
        }
        all
    }

    #[test]
    fn bytes_follow_from_the_seed() {
        let bytes = drawn(5, &[64, 64]);
        assert_eq!(bytes, drawn(5, &[64, 64]));
        assert_eq!(bytes, drawn(5, &[128]));
        assert_ne!(bytes, drawn(6, &[64, 64]));
        assert_ne!(bytes[..64], bytes[64..]);
        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
        assert!(zeros < 8, "{bytes:?}");
    }
}
