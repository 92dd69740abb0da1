//! The e1000.

use super::{Kind, MAC, frame};
use crate::devices::{CONFIG, Script};
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
