//! The virtio source of random bytes.

use super::Kind;
use super::virtio::{REGISTERS, features, offer, request, start};
use crate::devices::{Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::virtio::rng::{self, Rng};
use dejavm_devices::virtio::{self, Function};

/// See [`super::VirtioRng`].
pub enum RngKind {}

impl Kind for RngKind {
    type Chip = Function<Rng>;
    type State = virtio::State<rng::State>;
    const REGISTERS: &'static [(u8, u32)] = REGISTERS;

    fn power_on() -> Function<Rng> {
        Function::new(Rng::new(7))
    }

    fn begin(script: &mut Script, variant: u64) {
        start(script, features(variant), 1);
        offer(script, 0, 0, 1, &[(0x4000, 0x40, true), (0x4100, 0x40, true)]);
        script.to_deadline();
    }

    fn request(script: &mut Script, number: u64, memory: &Memory) {
        request(script, number, 0, None, memory);
        script.to_deadline();
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
