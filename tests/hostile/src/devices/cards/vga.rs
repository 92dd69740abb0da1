//! The display.

use super::{Kind, Pages};
use crate::devices::{CONFIG, Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::vga::{self, PAGE_BYTES, Vga};

/// See [`super::VgaCard`].
pub enum VgaKind {}

impl Kind for VgaKind {
    type Chip = Vga;
    type State = vga::State;
    /// The ports, the extension's, memory by both ways, the mapped registers, configuration space.
    const REGISTERS: &'static [(u8, u32)] = &[
        (9, 0x10),
        (9, 0x12),
        (9, 0x14),
        (9, 0x15),
        (9, 0x16),
        (9, 0x17),
        (9, 0x18),
        (9, 0x19),
        (9, 0x1e),
        (9, 0x1f),
        (9, 0x24),
        (9, 0x25),
        (9, 0x2a),
        (10, 0),
        (10, 1),
        (8, 0),
        (8, 0x1234),
        (8, 0x1_8000),
        (8, 0x1_fff8),
        (0, 0),
        (0, 0x10_0000),
        (0, 0xff_fff8),
        (2, 0x400),
        (2, 0x41c),
        (2, 0x500),
        (2, 0x508),
        (CONFIG, 4),
        (CONFIG, 0x10),
        (CONFIG, 0x18),
    ];

    fn power_on() -> Vga {
        Vga::new()
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 3);
        if variant & 1 != 0 {
            // A linear mode: width, height, bits, on.
            let depth = [4, 8, 15, 16, 24, 32][(variant >> 1) as usize % 6];
            for (register, value) in [(1, 640), (2, 480), (3, depth), (4, 0x41)] {
                script.write(10, 0, 2, register).write(10, 1, 2, value);
            }
        } else {
            // Planes, written by mode 2 of the graphics controller.
            for (index, value) in [(0x14, 0x0f02), (0x14, 0x0604), (0x1e, 0x0205), (0x1e, 0x0506)] {
                script.write(9, index, 2, value);
            }
        }
        script.write(8, 0x100, 4, 0x0102_0304);
    }

    fn request(script: &mut Script, number: u64, _memory: &Memory) {
        // A register of some set, and then something is drawn.
        let (index, value) = (number & 0x1f, number >> 5 & 0xff);
        match number >> 13 & 7 {
            0 => script.write(9, 0x14, 2, index & 7 | value << 8),
            1 | 2 => script.write(9, 0x1e, 2, index & 15 | value << 8),
            3 => script.write(9, 0x24, 2, index | value << 8),
            4 => script.write(9, 0x10, 1, index).write(9, 0x10, 1, value),
            5 => script.write(9, 0x18, 1, value).write(9, 0x19, 1, index),
            6 => script.write(10, 0, 2, index & 15).write(10, 1, 2, number >> 16 & 0x7ff),
            _ => script.write(2, 0x500 + 2 * (index as u32 & 15), 2, number >> 16 & 0x7ff),
        };
        let at = (number >> 27) as u32 & 0x1_ffff;
        script.write([8, 0][(number >> 44) as usize & 1], at, 4, number >> 16);
    }

    const RESTORES_MAX: usize = 3;

    fn save(chip: &Vga) -> vga::State {
        chip.save()
    }

    fn restore(chip: &mut Vga, state: vga::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }

    fn bring(chip: &mut Vga, from: &mut Vga, kept: &mut Pages) {
        from.take_written(|page, contents| {
            kept.insert(page, contents.to_vec());
        });
        let empty = [0; PAGE_BYTES];
        chip.set_memory(|page, into| {
            into.copy_from_slice(kept.get(&page).map_or(&empty[..], |page| page));
        });
    }

    fn shown(chip: &Vga) -> u64 {
        let picture = chip.picture();
        let text = chip.text().map_or(0, |lines| lines.len() as u64);
        picture.rgb.iter().fold(text ^ picture.width as u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}
