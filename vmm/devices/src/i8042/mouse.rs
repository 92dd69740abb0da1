//! The mouse: PS/2, with the wheel and fourth and fifth button identities of the IntelliMouse.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const ACK: u8 = 0xfa;
const ERROR: u8 = 0xfc;
const TEST_PASSED: u8 = 0xaa;

/// No packet is started while so many bytes wait; the motion is kept.
const PACKET_BYTES_MAX: usize = 16;
/// Bound on all that waits.
const BYTES_MAX: usize = 32;

/// Sets of three sample rates after which the identity changes.
const KNOCK_WHEEL: [u8; 3] = [200, 100, 80];
const KNOCK_FIVE_BUTTONS: [u8; 3] = [200, 200, 80];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expects {
    Command,
    SampleRate,
    Resolution,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Mode {
    Stream,
    Remote,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mouse {
    bytes: VecDeque<u8>,
    expects: Expects,
    mode: Mode,
    /// Echoes what it receives (wrap mode).
    wrap: bool,
    reporting: bool,
    scaling_2_to_1: bool,
    resolution: u8,
    sample_rate: u8,
    /// The last three sample rates.
    rates: [u8; 3],
    /// 0: three buttons, 3: wheel, 4: wheel and five buttons.
    identity: u8,
    buttons: u8,
    reported_buttons: u8,
    /// Motion not yet reported: right, up, wheel.
    motion: [i32; 3],
    last_sent: u8,
}

impl Mouse {
    pub(super) fn at_reset() -> Mouse {
        Mouse {
            bytes: VecDeque::new(),
            expects: Expects::Command,
            mode: Mode::Stream,
            wrap: false,
            reporting: false,
            scaling_2_to_1: false,
            resolution: 2,
            sample_rate: 100,
            rates: [0; 3],
            identity: 0,
            buttons: 0,
            reported_buttons: 0,
            motion: [0; 3],
            last_sent: TEST_PASSED,
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.bytes.len() <= BYTES_MAX
            && matches!(self.identity, 0 | 3 | 4)
            && self.resolution < 4
            && self.buttons < 32
            && self.reported_buttons < 32
    }

    pub(super) fn has_byte(&self) -> bool {
        !self.bytes.is_empty() || self.has_report()
    }

    pub(super) fn take_byte(&mut self) -> Option<u8> {
        self.stream();
        let byte = self.bytes.pop_front()?;
        self.last_sent = byte;
        Some(byte)
    }

    /// See [`super::I8042::move_mouse`].
    pub(super) fn motion(&mut self, right: i32, up: i32, wheel: i32, buttons: u8) {
        for (sum, moved) in self.motion.iter_mut().zip([right, up, wheel]) {
            *sum = sum.saturating_add(moved);
        }
        self.buttons = buttons & 0x1f;
    }

    /// See [`super::I8042::buttons_told`].
    pub(super) fn buttons_told(&self) -> bool {
        let tells = self.reporting && self.mode == Mode::Stream && !self.wrap;
        !tells || self.buttons == self.reported_buttons
    }

    fn has_report(&self) -> bool {
        let wheel_moved = self.identity != 0 && self.motion[2] != 0;
        let moved = self.motion[0] != 0 || self.motion[1] != 0 || wheel_moved;
        self.reporting
            && self.mode == Mode::Stream
            && !self.wrap
            && (moved || self.buttons != self.reported_buttons)
    }

    /// Starts packets while there is something to report and room for it.
    fn stream(&mut self) {
        while self.has_report() && self.bytes.len() < PACKET_BYTES_MAX {
            self.report();
        }
    }

    /// Queues a packet with as much of the motion as fits into it.
    fn report(&mut self) {
        let mut take = |axis: usize, min: i32, max: i32| {
            let part = self.motion[axis].clamp(min, max);
            self.motion[axis] -= part;
            part
        };
        let right = take(0, -255, 255);
        let up = take(1, -255, 255);
        let wheel_range = if self.identity == 0 { i32::MIN..=i32::MAX } else { -8..=7 };
        let wheel = take(2, *wheel_range.start(), *wheel_range.end());
        let sign = |value: i32, bit: u8| if value < 0 { 1 << bit } else { 0 };
        let head = 0x08 | (self.buttons & 7) | sign(right, 4) | sign(up, 5);
        let fourth = match self.identity {
            3 => Some(wheel as u8),
            4 => Some((wheel as u8 & 0x0f) | (self.buttons & 0x18) << 1),
            _ => None,
        };
        self.reported_buttons = self.buttons;
        let packet = [head, right as u8, up as u8];
        self.answer(&packet);
        if let Some(fourth) = fourth {
            self.answer(&[fourth]);
        }
    }

    /// A byte from the controller.
    pub(super) fn receive(&mut self, byte: u8) {
        if self.wrap && byte != 0xec && byte != 0xff {
            self.answer(&[byte]);
            return;
        }
        match std::mem::replace(&mut self.expects, Expects::Command) {
            Expects::Command => self.command(byte),
            Expects::SampleRate => {
                self.sample_rate = byte;
                self.rates = [self.rates[1], self.rates[2], byte];
                if self.rates == KNOCK_WHEEL {
                    self.identity = 3;
                } else if self.rates == KNOCK_FIVE_BUTTONS && self.identity == 3 {
                    self.identity = 4;
                }
                self.answer(&[ACK]);
            }
            Expects::Resolution => {
                self.resolution = byte & 3;
                self.answer(&[ACK]);
            }
        }
    }

    fn command(&mut self, command: u8) {
        // A command interrupts what is being sent.
        self.bytes.clear();
        match command {
            0xe6 | 0xe7 => self.scaling_2_to_1 = command == 0xe7,
            0xe8 => self.expects = Expects::Resolution,
            0xe9 => {
                let status = self.status();
                self.answer(&[ACK, status, self.resolution, self.sample_rate]);
                return;
            }
            0xea => self.mode = Mode::Stream,
            0xeb => {
                self.answer(&[ACK]);
                self.report();
                return;
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.mode = Mode::Remote,
            0xf2 => {
                self.answer(&[ACK, self.identity]);
                return;
            }
            0xf3 => self.expects = Expects::SampleRate,
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => self.set_defaults(),
            0xfe => {
                self.answer(&[self.last_sent]);
                return;
            }
            0xff => {
                let buttons = self.buttons;
                *self = Mouse { buttons, reported_buttons: buttons, ..Mouse::at_reset() };
                self.answer(&[ACK, TEST_PASSED, self.identity]);
                return;
            }
            _ => {
                self.answer(&[ERROR]);
                return;
            }
        }
        self.answer(&[ACK]);
    }

    /// Defaults (0xf6) keep the identity.
    fn set_defaults(&mut self) {
        self.reporting = false;
        self.mode = Mode::Stream;
        self.scaling_2_to_1 = false;
        self.resolution = 2;
        self.sample_rate = 100;
        self.motion = [0; 3];
        self.reported_buttons = self.buttons;
    }

    fn status(&self) -> u8 {
        let button = |from: u8, to: u8| (self.buttons >> from & 1) << to;
        u8::from(self.mode == Mode::Remote) << 6
            | u8::from(self.reporting) << 5
            | u8::from(self.scaling_2_to_1) << 4
            | button(0, 2)
            | button(2, 1)
            | button(1, 0)
    }

    /// Queues an answer. A guest that never reads fills the queue and gets no more.
    fn answer(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= BYTES_MAX {
            self.bytes.extend(bytes);
        }
    }
}
