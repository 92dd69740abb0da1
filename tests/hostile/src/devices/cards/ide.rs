//! The IDE function with its drives.

use super::Kind;
use crate::devices::memory::DRIVE_BYTES;
use crate::devices::{CONFIG, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::ide::{self, Ide, Media};

/// See [`super::IdeFunction`].
pub enum IdeKind {}

impl Kind for IdeKind {
    type Chip = Ide;
    type State = ide::State;
    /// The command blocks, data more often than others; the control blocks; the bus master; configuration space.
    const REGISTERS: &'static [(u8, u32)] = &[
        (0, 0),
        (0, 0),
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        (0, 6),
        (0, 7),
        (0, 7),
        (2, 0),
        (2, 0),
        (2, 1),
        (2, 2),
        (2, 6),
        (2, 7),
        (1, 0),
        (3, 0),
        (4, 0),
        (4, 2),
        (4, 4),
        (4, 8),
        (4, 12),
        (CONFIG, 4),
        (CONFIG, 0x20),
        (CONFIG, 0x40),
    ];

    fn power_on() -> Ide {
        let disk = |sectors, read_only| Some(Media::Disk { sectors, read_only });
        let sectors = DRIVE_BYTES as u64 / 512;
        let cd = Some(Media::Cd { sectors: sectors / 4 });
        Ide::new([disk(sectors, false), cd, cd, disk(sectors - 1, true)])
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 0x0005).write(CONFIG, 0x40, 4, 0x8000_8000);
        let region = (variant & 1) as u8 * 2;
        let command = |script: &mut Script, device: u64, count: u64, number: u64| {
            for (register, value) in [(6, device), (2, count), (3, 1), (4, 0), (5, 0), (7, number)]
            {
                script.write(region, register, 1, value);
            }
        };
        match variant >> 1 & 3 {
            // IDENTIFY DEVICE or its packet sibling, and a few words of it.
            0 => {
                command(script, 0xe0, 1, [0xec, 0xa1][usize::from(region != 0)]);
                script.to_deadline();
            }
            // WRITE SECTORS.
            1 => {
                command(script, 0xe0, 1, 0x30);
                script.to_deadline().write(region, 0, 2, 0x1234).write(region, 0, 4, 0x5678);
            }
            // READ DMA.
            2 => {
                script.memory(0x100, &[0, 0x10, 0, 0, 0, 2, 0, 0x80]);
                script.write(4, u32::from(region) * 4 + 4, 4, 0x100);
                command(script, 0xe0, 1, 0xc8);
                script.write(4, u32::from(region) * 4, 1, 9).to_deadline();
            }
            // PACKET: READ (10), one sector.
            _ => {
                command(script, 0xf0, 0, 0xa0);
                for word in [0x28, 0, 0x0100, 0, 0x0100, 0] {
                    script.write(region, 0, 2, word);
                }
                script.to_deadline();
            }
        }
    }

    fn save(chip: &Ide) -> ide::State {
        chip.save()
    }

    fn restore(chip: &mut Ide, state: ide::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
