//! The virtio network card.

use super::virtio::{REGISTERS, features, offer, request, start};
use super::{Kind, MAC, frame};
use crate::devices::{Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::virtio::net::{self, Net};
use dejavm_devices::virtio::{self, Function};
use dejavm_units::GuestNs;

/// See [`super::VirtioNet`].
pub enum NetKind {}

impl Kind for NetKind {
    type Chip = Function<Net>;
    type State = virtio::State<net::State>;
    const REGISTERS: &'static [(u8, u32)] = REGISTERS;

    fn power_on() -> Function<Net> {
        Function::new(Net::new(MAC))
    }

    fn begin(script: &mut Script, variant: u64) {
        start(script, features(variant), 2);
        offer(script, 0, 0, 1, &[(0x4000, 0x200, true)]);
        offer(script, 0, 1, 2, &[(0x4400, 12, true), (0x4410, 0x100, true)]);
        script.host(1, &[7; 30]);
        script.to_deadline();
        offer(script, 1, 0, 1, &[(0x5000, 12, false), (0x5100, 64, false)]);
        script.to_deadline();
    }

    fn request(script: &mut Script, number: u64, memory: &Memory) {
        request(script, number >> 1, (number & 1) as u16, None, memory);
        script.to_deadline();
    }

    fn host(chip: &mut Self::Chip, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        match what % 8 {
            0 => chip.device_mut().set_link(what & 8 != 0, now),
            _ => chip.device_mut().receive(&frame(bytes), now),
        }
        chip.device().room() as u64
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
