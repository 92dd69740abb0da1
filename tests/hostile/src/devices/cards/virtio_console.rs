//! The virtio console.

use super::Kind;
use super::virtio::{REGISTERS, features, offer, request, start};
use crate::devices::{Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::virtio::console::{self, Console};
use dejavm_devices::virtio::{self, Function};
use dejavm_units::GuestNs;

/// See [`super::VirtioConsole`].
pub enum ConsoleKind {}

impl Kind for ConsoleKind {
    type Chip = Function<Console>;
    type State = virtio::State<console::State>;
    const REGISTERS: &'static [(u8, u32)] = REGISTERS;

    fn power_on() -> Function<Console> {
        Function::new(Console::default())
    }

    fn begin(script: &mut Script, variant: u64) {
        start(script, features(variant), 2);
        offer(script, 0, 0, 1, &[(0x4000, 0x10, true), (0x4100, 0x10, true)]);
        script.host(1, &[7; 30]);
        script.to_deadline();
        offer(script, 1, 0, 1, &[(0x5000, 12, false), (0x5100, 64, false)]);
        script.to_deadline();
    }

    fn request(script: &mut Script, number: u64, memory: &Memory) {
        request(script, number >> 1, (number & 1) as u16, None, memory);
        script.to_deadline();
    }

    fn host(chip: &mut Self::Chip, _what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        chip.device_mut().receive(bytes, now);
        0
    }

    fn output(chip: &mut Self::Chip) -> u64 {
        let sent = chip.device_mut().take_transmitted();
        sent.iter().fold(sent.len() as u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
