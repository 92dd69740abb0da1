//! The PHY, an 88E1011S's registers as far as drivers look, behind MDIC (software developer's manual, 8 and 13.4.5). Whatever the
//! guest asks for, the link is 1000 Mbit/s, full duplex, negotiated, as long as the cable is in.

use serde::{Deserialize, Serialize};

/// MDIC.
const ADDRESS: u32 = 1;
const OPERATION_WRITE: u32 = 1;
const OPERATION_READ: u32 = 2;
const READY: u32 = 1 << 28;
const INTERRUPT: u32 = 1 << 29;
const ERROR: u32 = 1 << 30;

/// Control: reset and restart of the negotiation are over at once.
const CONTROL: usize = 0;
const CONTROL_MOMENTARY: u16 = 1 << 15 | 1 << 9;
const REGISTERS: usize = 32;

/// Registers that keep what is written: control, advertisement, 1000BASE-T control, and the maker's own.
fn is_kept(register: usize) -> bool {
    matches!(register, 0 | 4 | 7 | 9 | 16 | 18 | 20 | 22..32)
}

/// What can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Phy {
    kept: Vec<u16>,
    mdic: u32,
}

impl Phy {
    pub(super) fn new() -> Phy {
        let mut kept = vec![0; REGISTERS];
        // Negotiation on, full duplex, 1000 Mbit/s; all speeds; 1000BASE-T; defaults of the maker's.
        for (register, value) in
            [(0, 0x1140), (4, 0x0de1), (7, 0x2001), (9, 0x0e00), (16, 0x0360), (20, 0x0d60)]
        {
            kept[register] = value;
        }
        Phy { kept, mdic: READY }
    }

    pub(super) fn mdic(&self) -> u32 {
        self.mdic
    }

    /// Does what is asked; whether an interrupt for its end was asked for.
    pub(super) fn set_mdic(&mut self, value: u32, link: bool) -> bool {
        let register = (value >> 16 & 0x1f) as usize;
        let data = value as u16;
        let mut result = value & !(READY | ERROR);
        match (value >> 26 & 3, value >> 21 & 0x1f) {
            (OPERATION_WRITE, ADDRESS) => {
                if is_kept(register) {
                    let momentary = if register == CONTROL { CONTROL_MOMENTARY } else { 0 };
                    self.kept[register] = data & !momentary;
                }
            }
            (OPERATION_READ, ADDRESS) => {
                result = result & !0xffff | u32::from(self.read(register, link));
            }
            _ => result |= ERROR,
        }
        self.mdic = result | READY;
        value & INTERRUPT != 0
    }

    fn read(&self, register: usize, link: bool) -> u16 {
        match (register, link) {
            // Status: what it can do; negotiated, linked.
            (1, true) => 0x796d,
            (1, false) => 0x7949,
            (2, _) => 0x0141,
            (3, _) => 0x0c20,
            // What the other end can do.
            (5, true) => 0x45e1,
            (6, true) => 0x0001,
            (10, true) => 0x3c00,
            // 1000 Mbit/s, full duplex, resolved, linked.
            (17, true) => 0xac00,
            (5 | 6 | 10 | 17, false) => 0,
            (register, _) => self.kept[register],
        }
    }

    /// Whether a PHY can be in this state.
    pub(super) fn is_possible(&self) -> bool {
        self.kept.len() == REGISTERS
            && self.kept[CONTROL] & CONTROL_MOMENTARY == 0
            && (0..REGISTERS).all(|register| is_kept(register) || self.kept[register] == 0)
    }
}
