//! The virtio network device (virtio 1.2, 5.1): a card for Ethernet.
//!
//! Frames of the guest's, and those that arrived for it, are moved a fixed time after the notification or the arrival, all
//! that wait then at once. A frame that the guest has no buffer for waits; what there is no room for, or what arrives before
//! the driver listens, is lost.
//!
//! Not modelled: offloads, the control queue, several pairs of queues, hash reports.

use super::function::Device;
use super::queue::{Broken, gather, scatter, skip, total};
use super::transport::Transport;
use crate::RestoreError;
use crate::card::Surroundings;
use crate::ethernet::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Mac, Sent, Waiting};
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Buffers that may wait in a queue.
const QUEUE: u16 = 256;
/// The queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// From a notification or an arrival to a look at the queues.
const LATENCY_NS: u64 = 10_000;
/// Bytes sent in a nanosecond: 8 Gbit/s.
const BYTES_PER_NS: u64 = 1;
/// What a frame costs beside its bytes, as bytes.
const FRAME_COST: u64 = 256;
/// After so many bytes a look ends.
const LOOK_BYTES: u64 = 256 << 10;

/// Bytes before each frame (5.1.6).
const HEADER: usize = 12;
/// In it: over how many buffers a received frame goes.
const NUM_BUFFERS: usize = 10;

mod feature {
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const MRG_RXBUF: u64 = 1 << 15;
    pub(super) const STATUS: u64 = 1 << 16;
}

/// What can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    due: Option<GuestNs>,
    listening: bool,
    link: bool,
    link_changed: bool,
    waiting: Vec<Vec<u8>>,
    sent: Sent,
}

/// A network card.
#[derive(Clone, Debug)]
pub struct Net {
    // Configuration.
    mac: Mac,
    // State.
    /// When the queues are looked at.
    due: Option<GuestNs>,
    /// The driver has given buffers for frames since the last reset.
    listening: bool,
    /// Whether the cable is in.
    link: bool,
    /// The driver is to be told of that.
    link_changed: bool,
    waiting: Waiting,
    sent: Sent,
}

impl Net {
    /// A card with an address, its link up.
    pub fn new(mac: Mac) -> Net {
        Net {
            mac,
            due: None,
            listening: false,
            link: true,
            link_changed: false,
            waiting: Waiting::default(),
            sent: Sent::default(),
        }
    }

    /// A frame arrives.
    pub fn receive(&mut self, frame: &[u8], now: GuestNs) {
        if self.listening && self.link {
            self.waiting.push(frame);
            self.look_soon(now);
        }
    }

    /// Bytes of frames that the card surely has room for.
    pub fn room(&self) -> usize {
        self.waiting.room()
    }

    /// The cable is plugged in or pulled out.
    pub fn set_link(&mut self, up: bool, now: GuestNs) {
        if up != self.link {
            self.link = up;
            self.link_changed = true;
            self.look_soon(now);
        }
    }

    fn look_soon(&mut self, now: GuestNs) {
        if self.due.is_none() {
            // At the end of time nothing comes any more.
            self.due = now.0.checked_add(LATENCY_NS).map(GuestNs);
        }
    }

    /// Moves a frame into the driver's buffers; whether it is done with.
    fn deliver(
        frame: &[u8],
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<bool, Broken> {
        let mergeable = transport.has(feature::MRG_RXBUF);
        let queue = transport.queue(RECEIVE.into());
        let bytes = HEADER + frame.len();
        let (mut chains, mut room) = (Vec::new(), 0u64);
        while room < bytes as u64 && (mergeable || chains.is_empty()) {
            let Some(chain) = queue.take(around)? else {
                chains.iter().for_each(|_| queue.put_back());
                return Ok(false);
            };
            room += total(&chain.writable);
            chains.push(chain);
        }
        if room < bytes as u64 {
            // Too long for the one buffer that it may use: lost, and the buffer is the next one's.
            queue.put_back();
            return Ok(true);
        }
        let mut packet = vec![0; HEADER];
        packet[NUM_BUFFERS..].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        packet.extend_from_slice(frame);
        let mut rest = &packet[..];
        for chain in chains {
            let written = scatter(&chain.writable, rest, around);
            rest = &rest[written..];
            queue.give_back(chain.head, written as u32, around);
        }
        Ok(true)
    }

    /// Sends the driver's frames until none waits or it was enough; what they count for, and whether more wait.
    fn transmit(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<(u64, bool), Broken> {
        let mut cost = 0;
        while cost < LOOK_BYTES {
            let queue = transport.queue(TRANSMIT.into());
            let Some(chain) = queue.take(around)? else { return Ok((cost, false)) };
            let bytes = total(&chain.readable).saturating_sub(HEADER as u64);
            cost += FRAME_COST;
            if (FRAME_BYTES_MIN as u64..=FRAME_BYTES_MAX as u64).contains(&bytes) {
                cost += bytes;
                let mut frame = vec![0; bytes as usize];
                gather(&skip(&chain.readable, HEADER as u64), &mut frame, around);
                self.sent.count(&frame);
                if self.link {
                    around.send_frame(frame);
                }
            }
            queue.give_back(chain.head, 0, around);
        }
        Ok((cost, true))
    }

    /// Moves what can be moved; what was sent counts for so many bytes, and whether more is to be sent.
    fn look(
        &mut self,
        transport: &mut Transport,
        around: &mut dyn Surroundings,
    ) -> Result<(u64, bool), Broken> {
        while let Some(frame) = self.waiting.front() {
            if !Net::deliver(frame, transport, around)? {
                break;
            }
            self.waiting.pop();
        }
        self.transmit(transport, around)
    }
}

impl Device for Net {
    type State = State;
    const NAME: &'static str = "the virtio network device";
    const KIND: u16 = 1;
    // Ethernet controller.
    const CLASS: u32 = 0x02_00_00;

    fn features(&self) -> u64 {
        feature::MAC | feature::MRG_RXBUF | feature::STATUS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE, QUEUE]
    }

    fn registers(&self) -> Vec<u8> {
        let mut bytes = self.mac.to_vec();
        bytes.extend(u16::from(self.link).to_le_bytes());
        // Pairs of queues.
        bytes.extend(1u16.to_le_bytes());
        bytes
    }

    fn notified(&mut self, queue: u16, now: GuestNs) {
        self.listening |= queue == RECEIVE;
        self.look_soon(now);
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.due
    }

    fn service(&mut self, now: GuestNs, transport: &mut Transport, around: &mut dyn Surroundings) {
        self.due = None;
        if std::mem::take(&mut self.link_changed) {
            transport.config_changed();
        }
        let look = self.look(transport, around);
        if let Some((cost, true)) = transport.looked(look, around) {
            self.due = now.0.checked_add((cost / BYTES_PER_NS).max(1)).map(GuestNs);
        }
    }

    fn reset(&mut self) {
        self.due = None;
        self.listening = false;
        self.link_changed = false;
        self.waiting.clear();
    }

    fn save(&self) -> State {
        let Net { mac: _, due, listening, link, link_changed, waiting, sent } = self;
        State {
            due: *due,
            listening: *listening,
            link: *link,
            link_changed: *link_changed,
            waiting: waiting.save(),
            sent: *sent,
        }
    }

    fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { due, listening, link, link_changed, waiting, sent } = state;
        self.waiting.restore(waiting, Net::NAME)?;
        self.due = due;
        self.listening = listening;
        self.link = link;
        self.link_changed = link_changed;
        self.sent = sent;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
