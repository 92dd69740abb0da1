//! The keyboard: an MF2 keyboard with scan code set 2 (and 1 on request).

use super::{Key, translation};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const TEST_PASSED: u8 = 0xaa;
const ECHO: u8 = 0xee;
const IDENTITY: [u8; 2] = [0xab, 0x83];
const EXTENDED_PREFIX: u8 = 0xe0;

/// Key codes wait until there are so many bytes (the keyboard's own buffer); answers always fit.
const KEY_BYTES_MAX: usize = 16;
/// Bound on all that waits.
const BYTES_MAX: usize = 32;
/// Codes of a key at most: a prefix, that of a release, and its own.
const CODES_MAX: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expects {
    Command,
    Lights,
    ScanCodeSet,
    Typematic,
    /// Key type of scan code set 3 (0xfb to 0xfd).
    KeyType,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Keyboard {
    bytes: VecDeque<u8>,
    expects: Expects,
    scanning: bool,
    /// 1 or 2.
    scan_code_set: u8,
    lights: u8,
    typematic: u8,
    /// The last byte sent, for "resend".
    last_sent: u8,
}

impl Keyboard {
    pub(super) fn at_reset() -> Keyboard {
        Keyboard {
            bytes: VecDeque::new(),
            expects: Expects::Command,
            scanning: true,
            scan_code_set: 2,
            lights: 0,
            typematic: 0x2b,
            last_sent: TEST_PASSED,
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.bytes.len() <= BYTES_MAX && matches!(self.scan_code_set, 1 | 2) && self.lights < 8
    }

    pub(super) fn has_byte(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn take_byte(&mut self) -> Option<u8> {
        let byte = self.bytes.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    pub(super) fn lights(&self) -> u8 {
        self.lights
    }

    /// Keys that surely have room.
    pub(super) fn room(&self) -> usize {
        if self.scanning {
            KEY_BYTES_MAX.saturating_sub(self.bytes.len()) / CODES_MAX
        } else {
            usize::MAX
        }
    }

    /// Queues the codes of a key; see [`super::I8042::key`].
    pub(super) fn key(&mut self, key: Key, pressed: bool) -> bool {
        let mut codes = Vec::with_capacity(CODES_MAX);
        if key.extended {
            codes.push(EXTENDED_PREFIX);
        }
        let code = key.code & 0x7f;
        if self.scan_code_set == 1 {
            codes.push(if pressed { code } else { code | 0x80 });
        } else {
            let Some(set_2) = translation::set_2_of(code) else { return false };
            if !pressed {
                codes.push(translation::BREAK_PREFIX);
            }
            codes.push(set_2);
        }
        let fits = self.scanning && self.bytes.len() + codes.len() <= KEY_BYTES_MAX;
        if fits {
            self.bytes.extend(codes);
        }
        fits
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        match std::mem::replace(&mut self.expects, Expects::Command) {
            Expects::Command => self.command(byte),
            // A command in place of its parameter aborts the one before.
            _ if byte >= 0xed => self.command(byte),
            Expects::Lights => {
                self.lights = byte & 7;
                self.answer(&[ACK]);
            }
            Expects::ScanCodeSet => match byte {
                0 => self.answer(&[ACK, self.scan_code_set]),
                // Set 3 is not modelled: it is acknowledged, and 2 is answered when asked.
                _ => {
                    self.scan_code_set = if byte == 1 { 1 } else { 2 };
                    self.answer(&[ACK]);
                }
            },
            Expects::Typematic => {
                self.typematic = byte & 0x7f;
                self.answer(&[ACK]);
            }
            Expects::KeyType => self.answer(&[ACK]),
        }
    }

    fn command(&mut self, command: u8) {
        match command {
            0xed => self.expect(Expects::Lights),
            0xee => self.answer(&[ECHO]),
            0xf0 => self.expect(Expects::ScanCodeSet),
            0xf2 => self.answer(&[ACK, IDENTITY[0], IDENTITY[1]]),
            0xf3 => self.expect(Expects::Typematic),
            0xf4 => {
                self.bytes.clear();
                self.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                *self =
                    Keyboard { lights: self.lights, scanning: command == 0xf6, ..Self::at_reset() };
                self.answer(&[ACK]);
            }
            // All keys of set 3: typematic, make, and so on.
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfb..=0xfd => self.expect(Expects::KeyType),
            0xfe => self.answer(&[self.last_sent]),
            0xff => {
                *self = Keyboard::at_reset();
                self.answer(&[ACK, TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    fn expect(&mut self, parameter: Expects) {
        self.expects = parameter;
        self.answer(&[ACK]);
    }

    /// Queues an answer. A guest that never reads fills the queue and gets no more.
    fn answer(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= BYTES_MAX {
            self.bytes.extend(bytes);
        }
    }
}
