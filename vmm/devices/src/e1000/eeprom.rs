//! The EEPROM: 64 words behind a Microwire bus of four lines that the driver moves one by one (software developer's manual, 5.2
//! to 5.6, 13.4.3; National Semiconductor NM93C46). Read only: writes and erasures are taken and do nothing.

use crate::ethernet::Mac;
use serde::{Deserialize, Serialize};

const WORDS: usize = 64;
/// All words together.
const SUM: u16 = 0xbaba;

/// Lines of the bus, as EECD has them.
const SK: u32 = 1 << 0;
const CS: u32 = 1 << 1;
const DI: u32 = 1 << 2;
const DO: u32 = 1 << 3;
const FWE: u32 = 3 << 4;
const REQ: u32 = 1 << 6;
const GNT: u32 = 1 << 7;
const PRES: u32 = 1 << 8;
const WRITABLE: u32 = SK | CS | DI | FWE | REQ;

/// Bits of a start bit, an operation and an address of 6 bits.
const COMMAND_BITS: u8 = 9;
/// Start bit and READ.
const READ: u16 = 0b110;

/// EERD.
const START: u32 = 1 << 0;
const DONE: u32 = 1 << 4;

/// The words, and the bus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Eeprom {
    // Configuration.
    words: [u16; WORDS],
    // State.
    pub(super) bus: Bus,
}

/// How far a transfer is.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Bus {
    /// What was written to EECD last.
    lines: u32,
    command: u16,
    /// Bits of it so far.
    bits: u8,
    /// The bit that is read next, counted from the first word's bit 15.
    reading: Option<u16>,
    out: bool,
    eerd: u32,
}

impl Eeprom {
    pub(super) fn new(mac: Mac) -> Eeprom {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(mac.chunks(2)) {
            *word = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        // 5.6: initialization control 1, subsystem and its vendor, device, vendor.
        words[0x0a..0x0f].copy_from_slice(&[0x4408, 0x001e, 0x8086, 0x100e, 0x8086]);
        let sum = words.iter().fold(0, |sum: u16, word| sum.wrapping_add(*word));
        words[WORDS - 1] = SUM.wrapping_sub(sum);
        Eeprom { words, bus: Bus::default() }
    }

    fn word(&self, address: usize) -> u16 {
        self.words[address % WORDS]
    }

    pub(super) fn eecd(&self) -> u32 {
        let out = if self.bus.out { DO } else { 0 };
        let granted = if self.bus.lines & REQ != 0 { GNT } else { 0 };
        self.bus.lines | out | granted | PRES
    }

    pub(super) fn set_eecd(&mut self, value: u32) {
        let before = std::mem::replace(&mut self.bus.lines, value & WRITABLE);
        if value & CS == 0 {
            let Bus { lines, eerd, .. } = self.bus;
            // The line floats high: ready.
            self.bus = Bus { lines, eerd, out: true, ..Bus::default() };
            return;
        }
        if value & SK == 0 || before & SK != 0 {
            return;
        }
        // A rising edge of the clock.
        if let Some(bit) = self.bus.reading {
            self.bus.out = self.word(usize::from(bit / 16)) >> (15 - bit % 16) & 1 != 0;
            self.bus.reading = Some((bit + 1) % (16 * WORDS as u16));
            return;
        }
        if self.bus.bits < COMMAND_BITS {
            // Zeros before the start bit are none.
            let bit = u16::from(value & DI != 0);
            self.bus.command = self.bus.command << 1 | bit;
            self.bus.bits += u8::from(self.bus.command != 0);
            if self.bus.bits == COMMAND_BITS && self.bus.command >> 6 == READ {
                // A zero comes before the data.
                self.bus.out = false;
                self.bus.reading = Some((self.bus.command & 0x3f) * 16);
            }
        }
    }

    pub(super) fn eerd(&self) -> u32 {
        self.bus.eerd
    }

    pub(super) fn set_eerd(&mut self, value: u32) {
        let address = value >> 8 & 0xff;
        self.bus.eerd = address << 8;
        if value & START != 0 {
            self.bus.eerd |= DONE | u32::from(self.word(address as usize)) << 16;
        }
    }

    /// Whether the bus can be in this state.
    pub(super) fn can_be(bus: &Bus) -> bool {
        bus.lines & !WRITABLE == 0
            && bus.bits <= COMMAND_BITS
            && bus.reading.is_none_or(|bit| bit < 16 * WORDS as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As drivers do: each bit with the clock low, high, low.
    fn shift(eeprom: &mut Eeprom, bits: u16, count: u32) -> u16 {
        let mut read = 0;
        for bit in (0..count).rev() {
            let di = u32::from(bits >> bit & 1) << 2;
            eeprom.set_eecd(0x42 | di);
            eeprom.set_eecd(0x43 | di);
            read = read << 1 | (eeprom.eecd() >> 3 & 1) as u16;
            eeprom.set_eecd(0x42 | di);
        }
        read
    }

    #[test]
    fn words_are_read_by_the_bus_and_by_the_register_and_their_sum_is_right() {
        let mut eeprom = Eeprom::new([0x52, 0x54, 0, 1, 2, 3]);
        let mut sum = 0u16;
        for address in 0..64 {
            eeprom.set_eecd(0x40);
            assert_eq!(eeprom.eecd() & 0x1c0, 0x1c0, "granted and present");
            shift(&mut eeprom, 6, 3);
            shift(&mut eeprom, address, 6);
            let word = shift(&mut eeprom, 0, 16);
            eeprom.set_eerd(u32::from(address) << 8 | 1);
            assert_eq!(eeprom.eerd(), u32::from(word) << 16 | u32::from(address) << 8 | 0x10);
            if address < 3 {
                assert_eq!(word, [0x5452, 0x0100, 0x0302][usize::from(address)]);
            }
            sum = sum.wrapping_add(word);
        }
        assert_eq!(sum, 0xbaba);
    }
}
