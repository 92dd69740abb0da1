//! The IDE function with its drives.

use super::Kind;
use crate::devices::memory::DRIVE_BYTES;
use crate::devices::{CONFIG, Memory, Script};
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

    fn request(script: &mut Script, number: u64, _memory: &Memory) {
        const COMMANDS: [u8; 32] = [
            0x20, 0x24, 0x29, 0xc4, 0xc8, 0x25, 0x30, 0x34, 0x39, 0xc5, 0xca, 0x35, 0xec, 0xa0,
            0xa0, 0xa0, 0xa0, 0xa1, 0xa1, 0xc6, 0xc6, 0xef, 0xe7, 0xea, 0x40, 0x42, 0x08, 0x90,
            0x91, 0xf8, 0x27, 0xe1,
        ];
        const PACKETS: [u8; 16] = [
            0x28, 0x28, 0xa8, 0xbe, 0x12, 0x25, 0x43, 0x5a, 0x03, 0x00, 0x1b, 0x1e, 0x46, 0x4a,
            0x51, 0x52,
        ];
        let bits = |from: u32, count: u32| number >> from & ((1 << count) - 1);
        let region = bits(0, 1) as u8 * 2;
        let command = COMMANDS[bits(1, 5) as usize];
        for (register, value) in [
            (6, 0xe0 | bits(6, 1) << 4),
            (1, bits(7, 1)),
            // Twice: what was there before counts for large disks.
            (2, bits(8, 2)),
            (2, bits(10, 4)),
            (3, bits(14, 7)),
            (4, if bits(7, 1) == 0 { 0 } else { 8 * bits(14, 7) }),
            (5, bits(21, 1) * 8),
            (7, command.into()),
        ] {
            script.write(region, register, 1, value);
        }
        if command == 0xa0 {
            let packet = u64::from(PACKETS[bits(22, 4) as usize]);
            let (sector, count) = (bits(14, 5) << 8, bits(10, 2) << 8);
            for word in [packet | bits(26, 8) << 8, 0, sector, count << 8 & 0xff00, count, 0] {
                script.write(region, 0, 2, word);
            }
        }
        // A table of pieces, of which the last may lack; to memory or from there.
        let last = 0x80 * bits(34, 1) as u8;
        let length = [0, 2, 4, 8][bits(35, 2) as usize];
        script.memory(0x100, &[0, 0x10, 0, 0, 0, length, 0, 0, 0, 0x20, 0, 0, 0, 8, 0, last]);
        script.write(4, u32::from(region) * 4 + 4, 4, 0x100);
        if bits(37, 1) != 0 {
            script.write(4, u32::from(region) * 4, 1, 1 | bits(38, 1) << 3);
        }
        script.to_deadline();
        for _ in 0..bits(39, 3) * 32 {
            script.write(region, 0, 4, number);
        }
        script.to_deadline();
    }

    fn save(chip: &Ide) -> ide::State {
        chip.save()
    }

    fn restore(chip: &mut Ide, state: ide::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
