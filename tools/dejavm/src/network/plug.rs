//! The guest's end of the cable: what has arrived becomes inputs, as far as the network card has room.

use super::{Arrival, Network};
use crossbeam_channel::{Receiver, never};
use dejavm_machine::{Input, Output};
use std::collections::VecDeque;

/// Frames that wait here at most before the network has to: more than a card has room for.
const WAITING_MAX: usize = 128;
/// As what a shorter frame counts.
const FRAME_BYTES_MIN: usize = 64;

/// A network, and the card that is on it.
pub struct Plug {
    network: Network,
    card: u8,
    arrivals: Receiver<Arrival>,
    waiting: VecDeque<Vec<u8>>,
    /// Bytes that the card has room for.
    room: usize,
    /// The guest is to be told that the network is gone.
    gone: bool,
}

impl Plug {
    /// Puts the machine's card `card` on a network.
    pub fn new(network: Network, card: u8) -> Plug {
        let arrivals = network.arrivals().clone();
        Plug { network, card, arrivals, waiting: VecDeque::new(), room: 0, gone: false }
    }

    /// So much the card has room for now.
    pub fn set_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// Where to wait for arrivals; where enough wait already, nothing comes.
    pub fn arrivals(&self) -> Receiver<Arrival> {
        if self.waiting.len() < WAITING_MAX { self.arrivals.clone() } else { never() }
    }

    /// Something has arrived.
    pub fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Frame(frame) => self.waiting.push_back(frame),
            Arrival::Gone(why) => {
                eprintln!(
                    "\ndejavm: {why}: the guest is without a network from here on, and its recording goes on"
                );
                self.arrivals = never();
                self.gone = true;
            }
        }
    }

    /// Takes what has arrived.
    pub fn take_arrived(&mut self) {
        while let Ok(arrival) = self.arrivals().try_recv() {
            self.arrived(arrival);
        }
    }

    fn fits(&self, room: usize) -> bool {
        self.waiting.front().is_some_and(|frame| frame.len().max(FRAME_BYTES_MIN) <= room)
    }

    /// Whether something can enter the machine.
    pub fn has_inputs(&self) -> bool {
        self.gone || self.fits(self.room)
    }

    /// What enters the machine.
    pub fn inputs(&mut self) -> Vec<Input> {
        let mut frames = Vec::new();
        while self.fits(self.room)
            && let Some(frame) = self.waiting.pop_front()
        {
            self.room -= frame.len().max(FRAME_BYTES_MIN);
            frames.push(frame);
        }
        let mut inputs = Vec::new();
        if !frames.is_empty() {
            inputs.push(Input::Frames { card: self.card, frames });
        }
        if std::mem::take(&mut self.gone) {
            inputs.push(Input::Link { card: self.card, up: false });
        }
        inputs
    }

    /// Sends what the guest's card sent.
    pub fn send(&self, output: &[Output]) {
        for piece in output {
            if let Output::Frame { card, bytes } = piece
                && *card == self.card
            {
                self.network.send(bytes.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Peer;
    use crossbeam_channel::bounded;

    #[test]
    fn frames_enter_as_far_as_there_is_room_and_then_the_end() {
        let (arrived, arrivals) = bounded(64);
        let (departures, departing) = bounded(64);
        let mut plug = Plug::new(Network { arrivals, departures, peer: Peer::Tap }, 3);
        for n in 0..5u8 {
            arrived.send(Arrival::Frame(vec![n; 1000])).unwrap();
        }
        arrived.send(Arrival::Gone("the test has ended".into())).unwrap();
        plug.set_room(2500);
        plug.take_arrived();
        assert!(plug.has_inputs());
        let frames = |of: std::ops::Range<u8>| of.map(|n| vec![n; 1000]).collect();
        let link = Input::Link { card: 3, up: false };
        assert_eq!(plug.inputs(), [Input::Frames { card: 3, frames: frames(0..2) }, link]);
        assert!(!plug.has_inputs(), "no room, and the end was told");
        plug.set_room(10_000);
        assert_eq!(plug.inputs(), [Input::Frames { card: 3, frames: frames(2..5) }]);
        assert_eq!(plug.inputs(), []);
        let frame = |card| Output::Frame { card, bytes: vec![card; 60] };
        plug.send(&[frame(2), frame(3)]);
        assert_eq!(departing.try_iter().collect::<Vec<_>>(), [vec![3; 60]]);
    }
}
