//! Cards: reached through the windows that the guest has given them, as on the board.

mod e1000;
mod ide;
mod vga;
mod virtio;
mod virtio_block;
mod virtio_console;
mod virtio_net;
mod virtio_rng;

use super::{CONFIG, Device, Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::card::Card;
use dejavm_devices::pci::Width;
use dejavm_units::GuestNs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What the harness has to know of a card.
pub trait Kind {
    /// The chip.
    type Chip: Card;
    /// What it saves.
    type State: Clone + PartialEq + Debug + Serialize + DeserializeOwned;
    /// See [`Device::REGISTERS`].
    const REGISTERS: &'static [(u8, u32)];
    /// At power-on.
    fn power_on() -> Self::Chip;
    /// See [`Device::begin`].
    fn begin(script: &mut Script, variant: u64);
    /// See [`Device::request`].
    fn request(script: &mut Script, number: u64, memory: &Memory);
    /// See [`Device::RESTORES_MAX`].
    const RESTORES_MAX: usize = usize::MAX;
    /// See [`Device::host`].
    fn host(_chip: &mut Self::Chip, _what: u8, _bytes: &[u8], _now: GuestNs) -> u64 {
        0
    }
    /// What it has for the host, which takes it whenever the device was served.
    fn output(_chip: &mut Self::Chip) -> u64 {
        0
    }
    /// Its state.
    fn save(chip: &Self::Chip) -> Self::State;
    /// Becomes that.
    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError>;
    /// See [`Device::bring`]; `kept` is what was brought before.
    fn bring(_chip: &mut Self::Chip, _from: &mut Self::Chip, _kept: &mut Pages) {}
    /// See [`Device::shown`].
    fn shown(_chip: &Self::Chip) -> u64 {
        0
    }
}

/// Pages of a display's memory.
type Pages = BTreeMap<u64, Vec<u8>>;

/// A card on a bus.
pub struct OnBus<K: Kind> {
    chip: K::Chip,
    pages: Pages,
    /// Hash over what the host took of it.
    output: u64,
}

/// A virtio disk.
pub type VirtioBlock = OnBus<virtio_block::BlockKind>;
/// A virtio console.
pub type VirtioConsole = OnBus<virtio_console::ConsoleKind>;
/// A virtio network card.
pub type VirtioNet = OnBus<virtio_net::NetKind>;
/// A virtio source of random bytes.
pub type VirtioRng = OnBus<virtio_rng::RngKind>;
/// The IDE function with two disks and two CD-ROM drives.
pub type IdeFunction = OnBus<ide::IdeKind>;
/// An e1000.
pub type E1000Card = OnBus<e1000::E1000Kind>;
/// The display.
pub type VgaCard = OnBus<vga::VgaKind>;

impl<K: Kind> OnBus<K> {
    /// Whether an access of `size` bytes at an offset reaches a window of that region.
    fn reaches(&self, region: u8, offset: u64, size: u8) -> bool {
        self.chip.windows().iter().any(|window| {
            window.region == region && offset < window.bytes && window.bytes - offset >= size.into()
        })
    }

    /// The width and the offset of an access to configuration space that does not leave a dword.
    fn configuration(offset: u64, size: u8) -> (u8, Width) {
        let (width, mask) = match size {
            1 => (Width::Byte, 0xff),
            2 => (Width::Word, 0xfe),
            _ => (Width::Dword, 0xfc),
        };
        (offset as u8 & mask, width)
    }
}

impl<K: Kind> Device for OnBus<K> {
    type State = K::State;
    const REGISTERS: &'static [(u8, u32)] = K::REGISTERS;
    const RESTORES_MAX: usize = K::RESTORES_MAX;

    fn power_on() -> Self {
        OnBus { chip: K::power_on(), pages: Pages::new(), output: 0 }
    }

    fn begin(script: &mut Script, variant: u64) {
        K::begin(script, variant);
    }

    fn request(script: &mut Script, number: u64, memory: &Memory) {
        K::request(script, number, memory);
    }

    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64 {
        if region == CONFIG {
            let (offset, width) = Self::configuration(offset, size);
            return self.chip.config_read(offset, width, now).into();
        }
        match self.reaches(region, offset, size) {
            true => self.chip.read(region, offset, size, now),
            false => 0,
        }
    }

    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, now: GuestNs) -> u64 {
        if region == CONFIG {
            let (offset, width) = Self::configuration(offset, size);
            self.chip.config_write(offset, width, value as u32, now);
        } else if self.reaches(region, offset, size) {
            self.chip.write(region, offset, size, value, now);
        }
        0
    }

    fn host(&mut self, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        K::host(&mut self.chip, what, bytes, now)
    }

    fn outputs(&mut self) -> Vec<u64> {
        let mut outputs = vec![self.chip.interrupt().into(), self.chip.isa_lines().into()];
        outputs.push(std::mem::take(&mut self.output));
        while let Some(message) = self.chip.take_message() {
            outputs.push(message.vector.into());
            assert!(outputs.len() < 100, "messages do not end");
        }
        outputs
    }

    fn deadline(&self) -> Option<GuestNs> {
        self.chip.deadline()
    }

    fn service(&mut self, now: GuestNs, memory: &mut Memory) {
        if self.chip.deadline().is_some_and(|deadline| deadline <= now) {
            self.chip.service(now, memory);
            self.output = self.output.rotate_left(1) ^ K::output(&mut self.chip);
        }
    }

    fn reset(&mut self) {
        self.chip.reset();
    }

    fn save(&self) -> K::State {
        K::save(&self.chip)
    }

    fn restore(&mut self, state: K::State) -> Result<(), RestoreError> {
        K::restore(&mut self.chip, state)
    }

    fn bring(&mut self, from: &mut Self) {
        self.pages = std::mem::take(&mut from.pages);
        self.output = from.output;
        K::bring(&mut self.chip, &mut from.chip, &mut self.pages);
    }

    fn shown(&mut self) -> u64 {
        K::shown(&self.chip)
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame for the card.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend_from_slice(bytes);
    frame
}
