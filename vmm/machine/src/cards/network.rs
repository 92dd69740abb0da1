//! What enters and leaves the machine by network cards.

use super::{Cards, Chip};
use crate::board::Board;
use dejavm_units::GuestNs;

impl Cards {
    /// The bytes of frames that every network card has room for; 0 if there is none.
    fn frame_room(&self) -> usize {
        let room = |chip: &Chip| match chip {
            Chip::VirtioNet(card) => Some(card.device().room()),
            Chip::E1000(card) => Some(card.room()),
            Chip::VirtioBlock(_)
            | Chip::Ide(_)
            | Chip::Display(_)
            | Chip::VirtioConsole(_)
            | Chip::VirtioRng(_) => None,
        };
        self.slots.iter().filter_map(|slot| room(&slot.chip)).min().unwrap_or(0)
    }

    fn receive(&mut self, card: u8, frames: &[Vec<u8>], now: GuestNs) {
        match self.slots.get_mut(usize::from(card)).map(|slot| &mut slot.chip) {
            Some(Chip::VirtioNet(card)) => {
                frames.iter().for_each(|frame| card.device_mut().receive(frame, now));
            }
            Some(Chip::E1000(card)) => frames.iter().for_each(|frame| card.receive(frame, now)),
            Some(
                Chip::VirtioBlock(_)
                | Chip::Ide(_)
                | Chip::Display(_)
                | Chip::VirtioConsole(_)
                | Chip::VirtioRng(_),
            )
            | None => {}
        }
    }

    fn set_link(&mut self, card: u8, up: bool, now: GuestNs) {
        match self.slots.get_mut(usize::from(card)).map(|slot| &mut slot.chip) {
            Some(Chip::VirtioNet(card)) => card.device_mut().set_link(up, now),
            Some(Chip::E1000(card)) => card.set_link(up),
            Some(
                Chip::VirtioBlock(_)
                | Chip::Ide(_)
                | Chip::Display(_)
                | Chip::VirtioConsole(_)
                | Chip::VirtioRng(_),
            )
            | None => {}
        }
    }
}

impl Board {
    /// See [`Machine::frame_room`](crate::Machine::frame_room).
    pub(crate) fn frame_room(&self) -> usize {
        self.cards.frame_room()
    }

    /// Frames arrive at a card.
    pub(crate) fn receive_frames(&mut self, card: u8, frames: &[Vec<u8>], now: GuestNs) {
        self.cards.receive(card, frames, now);
        self.settle();
    }

    /// A card's cable is plugged in or pulled out.
    pub(crate) fn set_link(&mut self, card: u8, up: bool, now: GuestNs) {
        self.cards.set_link(card, up, now);
        self.settle();
    }
}
