//! The virtio console (virtio 1.2, 5.3): one port, the guest's hvc0.
//!
//! What the guest sends is taken a fixed time after the notification and waits in `transmitted` for the host; what the host
//! receives waits until the guest has a buffer for it. More than may wait is lost, as on a line that nobody reads.
//!
//! Not modelled: several ports, the console's size, emergency writes.

use super::function::Device;
use super::queue::{Broken, gather, scatter, total};
use super::transport::Transport;
use crate::RestoreError;
use crate::card::Surroundings;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Buffers that may wait in a queue.
const QUEUE: u16 = 64;
/// The queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// From a notification or an arrival to a look at the queues. Linux sends 16 bytes at a time and spins until they are taken.
const LATENCY_NS: u64 = 1_000;
/// After so many bytes a look ends, and so long later the next begins.
const LOOK_BYTES: usize = 256 << 10;
const PAUSE_NS: u64 = 100_000;
/// What a buffer counts for beside its bytes.
const BUFFER_COST: usize = 256;
/// Bytes of one request that are sent; the rest of it is lost. Drivers send a page or some.
const REQUEST_BYTES_MAX: u64 = 256 << 10;
/// Bytes that were received and may wait.
const WAITING_MAX: usize = 1 << 16;

/// What can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    due: Option<GuestNs>,
    waiting: Vec<u8>,
    transmitted: Vec<u8>,
}

/// A console.
#[derive(Clone, Debug, Default)]
pub struct Console {
    // State.
    /// When the queues are looked at.
    due: Option<GuestNs>,
    /// What was received and the guest has no buffer for yet.
    waiting: VecDeque<u8>,
    /// What the guest sent and the host has not taken.
    transmitted: Vec<u8>,
}

impl Console {
    /// Bytes arrive.
    pub fn receive(&mut self, bytes: &[u8], now: GuestNs) {
        let room = WAITING_MAX.saturating_sub(self.waiting.len());
        self.waiting.extend(&bytes[..bytes.len().min(room)]);
        self.look_soon(now);
    }

    /// What the guest has sent since the last call.
    pub fn take_transmitted(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.transmitted)
    }

    fn look_soon(&mut self, now: GuestNs) {
        if self.due.is_none() {
            // At the end of time nothing comes any more.
            self.due = now.0.checked_add(LATENCY_NS).map(GuestNs);
        }
    }

    /// Moves what waits into the guest's buffers, as far as there are any.
    fn deliver(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<(), Broken> {
        let queue = transport.queue(RECEIVE.into());
        while !self.waiting.is_empty() {
            let Some(chain) = queue.take(around)? else { break };
            let written = scatter(&chain.writable, self.waiting.make_contiguous(), around);
            self.waiting.drain(..written);
            queue.give_back(chain.head, written as u32, around);
        }
        Ok(())
    }

    /// Takes what the guest sends until nothing is left or it was enough; whether there is more.
    fn transmit(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<bool, Broken> {
        let queue = transport.queue(TRANSMIT.into());
        let mut cost = 0;
        while cost < LOOK_BYTES {
            let Some(chain) = queue.take(around)? else { return Ok(false) };
            let bytes = total(&chain.readable).min(REQUEST_BYTES_MAX) as usize;
            let before = self.transmitted.len();
            self.transmitted.resize(before + bytes, 0);
            gather(&chain.readable, &mut self.transmitted[before..], around);
            queue.give_back(chain.head, 0, around);
            cost += BUFFER_COST + bytes;
        }
        Ok(true)
    }

    fn look(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<bool, Broken> {
        self.deliver(transport, around)?;
        self.transmit(transport, around)
    }
}

impl Device for Console {
    type State = State;
    const NAME: &'static str = "the virtio console";
    const KIND: u16 = 3;
    // Communication controller, other, as QEMU has it.
    const CLASS: u32 = 0x07_80_00;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE, QUEUE]
    }

    fn registers(&self) -> Vec<u8> {
        // Columns, rows, ports, emergency write: none of them without their features.
        vec![0; 12]
    }

    fn notified(&mut self, _queue: u16, now: GuestNs) {
        self.look_soon(now);
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.due
    }

    fn service(&mut self, now: GuestNs, transport: &mut Transport, around: &mut dyn Surroundings) {
        self.due = None;
        let look = self.look(transport, around);
        if transport.looked(look, around) == Some(true) {
            self.due = now.0.checked_add(PAUSE_NS).map(GuestNs);
        }
    }

    fn reset(&mut self) {
        self.due = None;
        self.waiting.clear();
    }

    fn save(&self) -> State {
        let Console { due, waiting, transmitted } = self;
        State {
            due: *due,
            waiting: waiting.iter().copied().collect(),
            transmitted: transmitted.clone(),
        }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { due, waiting, transmitted } = state;
        RestoreError::unless(waiting.len() <= WAITING_MAX, Console::NAME, "waiting")?;
        self.due = due;
        self.waiting = waiting.into();
        self.transmitted = transmitted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;
    use crate::virtio::Function;
    use crate::virtio::driver::{DATA, offer, start, used};

    fn machine(queue: u16) -> Machine<Function<Console>> {
        let mut machine = Machine::new(Function::new(Console::default()), 0x4000, 0);
        start(&mut machine, 0, queue);
        machine
    }

    #[test]
    fn what_arrives_goes_into_the_buffers_in_order_and_waits_for_them() {
        let mut machine = machine(RECEIVE);
        machine.card.device_mut().receive(b"hello, guest", GuestNs(0));
        machine.advance(GuestNs(1_000_000));
        assert_eq!(used(&machine), 0, "there is no buffer");
        offer(&mut machine, RECEIVE, 0, &[(DATA, 5, true)], GuestNs(1_000_000));
        offer(&mut machine, RECEIVE, 1, &[(DATA + 5, 100, true)], GuestNs(1_000_000));
        machine.advance(GuestNs(2_000_000));
        assert_eq!(used(&machine), 2);
        assert_eq!(&machine.memory.bytes[DATA as usize..][..14], b"hello, guest\0\0");
    }

    #[test]
    fn what_the_guest_sends_is_there_after_a_while() {
        let mut machine = machine(TRANSMIT);
        machine.memory.bytes[DATA as usize..][..6].copy_from_slice(b"abcdef");
        let pieces = [(DATA, 3, false), (DATA + 3, 3, false)];
        offer(&mut machine, TRANSMIT, 0, &pieces, GuestNs(0));
        assert_eq!(machine.card.device_mut().take_transmitted(), b"");
        machine.advance(GuestNs(LATENCY_NS));
        assert_eq!(machine.card.device_mut().take_transmitted(), b"abcdef");
        assert_eq!(machine.card.device_mut().take_transmitted(), b"");
        assert_eq!(used(&machine), 1);
    }

    #[test]
    fn what_nobody_reads_does_not_grow_without_bound() {
        let mut machine = machine(RECEIVE);
        (0..100).for_each(|_| machine.card.device_mut().receive(&[7; 4096], GuestNs(0)));
        assert_eq!(machine.card.device().waiting.len(), WAITING_MAX);
        // A request of 8 GiB is read as far as a console's.
        let mut machine = self::machine(TRANSMIT);
        let huge = [(0, u32::MAX, false), (0, u32::MAX, false)];
        offer(&mut machine, TRANSMIT, 0, &huge, GuestNs(0));
        machine.advance(GuestNs(1_000_000));
        assert_eq!(machine.card.device_mut().take_transmitted().len() as u64, REQUEST_BYTES_MAX);
    }
}
