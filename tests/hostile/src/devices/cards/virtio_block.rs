//! The virtio disk.

use super::Kind;
use super::virtio::{REGISTERS, features, offer, request, start};
use crate::devices::memory::DRIVE_BYTES;
use crate::devices::{Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::virtio::block::{self, Block};
use dejavm_devices::virtio::{self, Function};

/// See [`super::VirtioBlock`].
pub enum BlockKind {}

impl Kind for BlockKind {
    type Chip = Function<Block>;
    type State = virtio::State<block::State>;
    const REGISTERS: &'static [(u8, u32)] = REGISTERS;

    fn power_on() -> Function<Block> {
        Function::new(Block::new(DRIVE_BYTES as u64, false, "hostile"))
    }

    fn begin(script: &mut Script, variant: u64) {
        start(script, features(variant), 1);
        // Reads two sectors, writes one.
        script.memory(0x2000, &[0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        offer(script, 0, 0, 1, &[(0x2000, 16, false), (0x3000, 1024, true), (0x2100, 1, true)]);
        script.to_deadline();
        script.memory(0x2020, &[1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        offer(script, 0, 3, 2, &[(0x2020, 16, false), (0x3100, 512, false), (0x2100, 1, true)]);
        script.to_deadline();
    }

    fn request(script: &mut Script, number: u64, memory: &Memory) {
        // Reads, writes, a flush, what it is called, discards, what there is not, mostly within the disk.
        const KINDS: [u8; 8] = [0, 0, 1, 1, 4, 8, 11, 13];
        let mut header = [0; 16];
        header[0] = KINDS[(number & 7) as usize];
        header[8..10].copy_from_slice(&((number >> 3) as u16 & 0x8f).to_le_bytes());
        script.memory(0x2040, &header);
        request(script, number >> 11, 0, Some((0x2040, 16, false)), memory);
        script.to_deadline();
    }

    fn save(chip: &Self::Chip) -> Self::State {
        chip.save()
    }

    fn restore(chip: &mut Self::Chip, state: Self::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
