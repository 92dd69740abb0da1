//! Surroundings for tests of cards: memory from address 0 on, and one drive.

use crate::RestoreError;
use crate::card::{Card, HostFailed, Surroundings};
use crate::ide::Ide;
use crate::pci::Width;
use crate::virtio::{self, Device, Function};
use dejavm_units::{Gpa, GuestNs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Memory and a drive, which all drives of a card are; all zeros at first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    pub(crate) drive: Vec<u8>,
    /// Bytes that were moved: the work that a card made.
    pub(crate) moved: u64,
    /// Frames that were sent.
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Memory {
    pub(crate) fn new(bytes: usize) -> Memory {
        Memory { bytes: vec![0; bytes], drive: Vec::new(), moved: 0, sent: Vec::new() }
    }

    pub(crate) fn with_drive(bytes: usize, drive: usize) -> Memory {
        Memory { drive: vec![0; drive], ..Memory::new(bytes) }
    }
}

impl Surroundings for Memory {
    fn read_memory(&self, at: Gpa, into: &mut [u8]) {
        for (index, byte) in (0u64..).zip(into) {
            let at = usize::try_from(at.wrapping_add(index).0).unwrap_or(usize::MAX);
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    fn write_memory(&mut self, at: Gpa, from: &[u8]) {
        self.moved += from.len() as u64;
        for (index, byte) in (0u64..).zip(from) {
            let at = usize::try_from(at.wrapping_add(index).0).unwrap_or(usize::MAX);
            if let Some(to) = self.bytes.get_mut(at) {
                *to = *byte;
            }
        }
    }

    fn drive_bytes(&self, _drive: usize) -> Option<u64> {
        (!self.drive.is_empty()).then_some(self.drive.len() as u64)
    }

    fn read_drive(
        &mut self,
        _drive: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), HostFailed> {
        self.moved += into.len() as u64;
        let offset = offset as usize;
        into.copy_from_slice(&self.drive[offset..offset + into.len()]);
        Ok(())
    }

    fn write_drive(&mut self, _drive: usize, offset: u64, from: &[u8]) -> Result<(), HostFailed> {
        self.moved += from.len() as u64;
        let offset = offset as usize;
        self.drive[offset..offset + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn send_frame(&mut self, frame: Vec<u8>) {
        self.moved += frame.len() as u64;
        self.sent.push(frame);
    }
}

/// A card with a state.
pub(crate) trait Kept: Card {
    type State: Clone + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned;
    fn save(&self) -> Self::State;
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
}

impl<D: Device> Kept for Function<D>
where
    D::State: Clone + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned,
{
    type State = virtio::State<D::State>;
    fn save(&self) -> Self::State {
        self.save()
    }
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        self.restore(state)
    }
}

impl Kept for Ide {
    type State = crate::ide::State;
    fn save(&self) -> Self::State {
        self.save()
    }
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        self.restore(state)
    }
}

impl Kept for crate::e1000::E1000 {
    type State = crate::e1000::State;
    fn save(&self) -> Self::State {
        self.save()
    }
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError> {
        self.restore(state)
    }
}

/// A card in a machine of its own, served at its deadlines.
#[derive(Clone)]
pub(crate) struct Machine<C> {
    pub(crate) card: C,
    pub(crate) memory: Memory,
}

/// Bytes that one call of `service` may move.
const MOVED_MAX: u64 = 48 << 20;

impl<C: Kept> Machine<C> {
    pub(crate) fn new(card: C, memory: usize, drive: usize) -> Machine<C> {
        Machine { card, memory: Memory::with_drive(memory, drive) }
    }

    pub(crate) fn deadline(&self) -> Option<GuestNs> {
        self.card.deadline()
    }

    pub(crate) fn advance(&mut self, now: GuestNs) {
        while let Some(deadline) = self.card.deadline().filter(|deadline| *deadline <= now) {
            let before = self.memory.moved;
            self.card.service(deadline, &mut self.memory);
            assert!(self.memory.moved - before <= MOVED_MAX, "a bounded amount of work");
            let next = self.card.deadline();
            assert!(next.is_none_or(|next| next > deadline), "{next:?} at {deadline}");
        }
    }

    pub(crate) fn save(&self) -> (C::State, Memory) {
        (self.card.save(), self.memory.clone())
    }

    pub(crate) fn restore(&mut self, state: (C::State, Memory)) -> Result<(), RestoreError> {
        let (card, memory) = state;
        let lengths = |memory: &Memory| (memory.bytes.len(), memory.drive.len());
        let possible = lengths(&memory) == lengths(&self.memory) && memory.moved < 1 << 60;
        RestoreError::unless(possible, "the test's memory", "length")?;
        self.card.restore(card)?;
        self.memory = memory;
        Ok(())
    }

    /// What the card shows of itself.
    pub(crate) fn outputs(&self) -> Vec<u64> {
        vec![self.card.interrupt().into(), self.card.isa_lines().into()]
    }

    /// A guest that does anything at all to the card, chosen by `n`: what it reads.
    pub(crate) fn anything(&mut self, n: u64, now: GuestNs) -> u64 {
        let value = n >> 24;
        let width = [Width::Byte, Width::Word, Width::Dword][(n >> 4) as usize % 3];
        // Any offset, but often those of the structures in use.
        let offset = match n >> 8 & 3 {
            0 => n >> 32 & 0x3fff,
            _ => n >> 32 & 0x3f,
        };
        let aligned = offset & !(width.bytes() as u64 - 1);
        let region = (n >> 10) as u8 & 7;
        match n & 7 {
            0 => self.card.config_read(aligned as u8, width, now).into(),
            1 => {
                self.card.config_write(aligned as u8, width, value as u32, now);
                0
            }
            2 => self.card.read(region, offset, 1 << (n >> 4 & 3), now),
            3 => {
                self.card.write(region, offset, 1 << (n >> 4 & 3), value, now);
                0
            }
            4 | 5 => {
                let at = n >> 32 & (self.memory.bytes.len() as u64 - 1);
                self.memory.write_memory(Gpa(at), &value.to_le_bytes()[..width.bytes()]);
                0
            }
            6 => self.card.take_message().map_or(0, |message| message.vector.into()),
            _ => self.card.windows().len() as u64,
        }
    }
}
