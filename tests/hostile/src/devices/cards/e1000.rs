//! The e1000.

use super::{Kind, MAC, frame};
use crate::devices::{CONFIG, Memory, Script};
use dejavm_devices::RestoreError;
use dejavm_devices::e1000::{self, E1000};
use dejavm_units::GuestNs;

/// See [`super::E1000Card`].
pub enum E1000Kind {}

impl Kind for E1000Kind {
    type Chip = E1000;
    type State = e1000::State;
    /// By the manual's order, tails and lengths more often.
    const REGISTERS: &'static [(u8, u32)] = &[
        (0, 0x00),
        (0, 0x08),
        (0, 0x10),
        (0, 0x10),
        (0, 0x14),
        (0, 0x20),
        (0, 0xc0),
        (0, 0xc8),
        (0, 0xd0),
        (0, 0xd8),
        (0, 0x100),
        (0, 0x400),
        (0, 0x2800),
        (0, 0x2804),
        (0, 0x2808),
        (0, 0x2810),
        (0, 0x2818),
        (0, 0x2818),
        (0, 0x3800),
        (0, 0x3804),
        (0, 0x3808),
        (0, 0x3810),
        (0, 0x3818),
        (0, 0x3818),
        (0, 0x3818),
        (0, 0x5200),
        (0, 0x5400),
        (0, 0x5404),
        (1, 0),
        (1, 4),
        (CONFIG, 4),
        (CONFIG, 0x10),
    ];

    fn power_on() -> E1000 {
        E1000::new(MAC)
    }

    fn begin(script: &mut Script, variant: u64) {
        script.config(4, 7);
        for n in 0..8u16 {
            script.memory(0x400 + 16 * n, &[0, 0x40 + 8 * n as u8, 0, 0, 0, 0, 0, 0]);
        }
        // A context for cutting and checksums; a packet that it is for; one without.
        let cut = [14, 24, 33, 0, 34, 50, 0, 0, 0x40, 0, 0, 0x27, 0, 54, 0x20, 0];
        let packet = [0, 0x20, 0, 0, 0, 0, 0, 0, 0xc8, 0, 0x10, 0x2d, 0, 3, 0, 0];
        let plain = [0, 0x20, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0x09, 0, 0, 0, 0];
        for (n, descriptor) in (0u16..).zip([cut, packet, plain]) {
            script.memory(0x800 + 16 * n, &descriptor);
        }
        for (register, value) in [
            (0x2800, 0x400),
            (0x2808, 128),
            (0x2818, 7),
            (0x3800, 0x800),
            (0x3808, 128),
            (0x400, 2),
            (0xd0, 0xff),
            (0x100, 2 | variant & 0x0603_803c),
            (0x3818, 3),
        ] {
            script.write(0, register, 4, value);
        }
        script.to_deadline().host(1, &[7; 30]).to_deadline();
    }

    fn request(script: &mut Script, number: u64, _memory: &Memory) {
        let bits = |from: u32, count: u32| number >> from & ((1 << count) - 1);
        let slot = bits(0, 3) as u16;
        match bits(3, 3) {
            // Buffers for what arrives, and how much of it is taken.
            0 => {
                script.write(0, 0x2818, 4, slot.into());
                script.write(0, 0x100, 4, 2 | bits(8, 32) & 0x0603_803c);
                script.host(1, &[number as u8; 30]);
            }
            // An interrupt's causes and masks, EEPROM, PHY.
            1 => {
                let register = [0xc0, 0xc8, 0xd0, 0xd8, 0x10, 0x14, 0x20, 0x00][slot as usize];
                script.write(0, register, 4, bits(8, 32));
            }
            // A context, a piece of a packet that it is for, one without: then the tail behind it.
            kind => {
                let lengths = [0, 1, 14, 54, 60, 64, 200, 0x5dc, 0x5ea, 0x800, 0x2000, 0xffff];
                let length: u16 = lengths[bits(6, 4) as usize % lengths.len()];
                let mut bytes = [0; 16];
                if kind < 4 {
                    // Where the sums begin, go and end; the whole length, the headers' and a segment's.
                    bytes[..6].copy_from_slice(&[14, 24, 33, 34, 50, 0]);
                    bytes[bits(10, 3) as usize] = bits(13, 8) as u8;
                    bytes[8..10].copy_from_slice(&length.to_le_bytes());
                    bytes[11] = 0x20 | bits(21, 4) as u8;
                    bytes[13] = [54, 0, 14, 200][bits(25, 2) as usize];
                    bytes[14..].copy_from_slice(&(bits(27, 11) as u16).to_le_bytes());
                } else {
                    bytes[1] = 0x20;
                    bytes[8..10].copy_from_slice(&length.to_le_bytes());
                    bytes[10] = bits(10, 8) as u8;
                    bytes[11] = if kind < 7 { 0x20 } else { 0 } | bits(18, 4) as u8;
                    bytes[13] = bits(22, 2) as u8;
                }
                if kind < 7 {
                    bytes[11] |= (bits(24, 1) as u8) << 2 | 0x20;
                }
                script.memory(0x800 + 16 * slot, &bytes);
                script.write(0, 0x3818, 4, u64::from(slot + 1) % 8);
            }
        }
        script.to_deadline();
    }

    fn host(chip: &mut E1000, what: u8, bytes: &[u8], now: GuestNs) -> u64 {
        match what % 8 {
            0 => chip.set_link(what & 8 != 0),
            _ => chip.receive(&frame(bytes), now),
        }
        chip.room() as u64
    }

    fn save(chip: &E1000) -> e1000::State {
        chip.save()
    }

    fn restore(chip: &mut E1000, state: e1000::State) -> Result<(), RestoreError> {
        chip.restore(state)
    }
}
