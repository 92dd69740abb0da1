//! Intel 8042 keyboard controller of a PS/2, with a keyboard and a mouse (IBM PS/2 Hardware
//! Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; PIIX4-era ports).
//!
//! Data path: a byte from the controller itself, the keyboard or the mouse, in this order, fills the
//! output buffer and raises IRQ 1 or IRQ 12; reading port 0x60 empties it. Bytes written to port 0x60
//! go to the command that waits for them, else to the keyboard. Keyboard bytes are translated from
//! scan code set 2 to set 1 on their way, if the command byte says so.
//!
//! Time: commands take none. After port 0x60 is read the next byte comes 20 us later, so that the
//! interrupt line falls in between and its edge is seen (the wire itself would take a millisecond).
//!
//! Decided where documents leave room:
//! * The command byte after reset is what firmware leaves: keyboard interrupt and translation on,
//!   mouse port off.
//! * Both interfaces are always there and pass their tests.
//! * Writing to the keyboard turns its interface on.
//!
//! Not modelled: passwords, multiplexed mice, clock and data lines, parity and time-out errors.

mod keyboard;
mod mouse;
mod translation;

use crate::{PortRange, RestoreError};
use dejavm_units::GuestNs;
use keyboard::Keyboard;
use mouse::Mouse;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Register 0 is port 0x60 (data), register 4 port 0x64 (status and command).
pub const PORTS: [PortRange; 2] =
    [PortRange { first: 0x60, count: 1, reg: 0 }, PortRange { first: 0x64, count: 1, reg: 4 }];

/// From the reading of a byte to the coming of the next, in nanoseconds.
const BYTE_NS: u64 = 20_000;

const STATUS_OBF: u8 = 1 << 0;
const STATUS_SYS: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_NOT_LOCKED: u8 = 1 << 4;
const STATUS_AUX_OBF: u8 = 1 << 5;

const CTR_KEYBOARD_INT: u8 = 1 << 0;
const CTR_AUX_INT: u8 = 1 << 1;
const CTR_SYS: u8 = 1 << 2;
const CTR_KEYBOARD_DISABLED: u8 = 1 << 4;
const CTR_AUX_DISABLED: u8 = 1 << 5;
const CTR_TRANSLATE: u8 = 1 << 6;
const CTR_AT_RESET: u8 = CTR_KEYBOARD_INT | CTR_SYS | CTR_AUX_DISABLED | CTR_TRANSLATE;

const OUTPUT_PORT_NO_RESET: u8 = 1 << 0;
const OUTPUT_PORT_A20: u8 = 1 << 1;
const OUTPUT_PORT_KEYBOARD_OBF: u8 = 1 << 4;
const OUTPUT_PORT_AUX_OBF: u8 = 1 << 5;
/// Keyboard clock and data, at rest.
const OUTPUT_PORT_AT_RESET: u8 = 0xc0 | OUTPUT_PORT_NO_RESET | OUTPUT_PORT_A20;

const SELF_TEST_PASSED: u8 = 0x55;
const INTERFACE_TEST_PASSED: u8 = 0x00;
const NO_PASSWORD: u8 = 0xf1;
/// Keyboard not locked, colour display jumper off, manufacturing jumper off.
const INPUT_PORT: u8 = 0xa0;

/// Bytes of the controller's own that may wait; no guest that reads comes near.
const RESPONSES_MAX: usize = 16;
/// Bytes of the controller's memory, the command byte first.
const MEMORY_SIZE: usize = 32;

/// Who a byte in the output buffer comes from, which is what the status and the interrupt tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Source {
    Keyboard,
    Aux,
}

/// What the next byte written to port 0x60 is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Expects {
    KeyboardByte,
    /// A byte of the controller's memory.
    Memory(u8),
    OutputPort,
    KeyboardOutput,
    AuxOutput,
    AuxByte,
}

/// Everything of the controller, the keyboard and the mouse that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    memory: [u8; MEMORY_SIZE],
    output_port: u8,
    expects: Expects,
    /// The last write went to port 0x64.
    last_was_command: bool,
    /// The output buffer, while full.
    output: Option<(u8, Source)>,
    /// What port 0x60 reads while the buffer is empty.
    last_output: u8,
    /// Bytes of the controller's own.
    responses: VecDeque<(u8, Source)>,
    /// A break prefix was swallowed by the translation.
    break_prefix: bool,
    /// No byte enters the output buffer before this time.
    quiet_until: Option<GuestNs>,
    reset_requested: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

/// The keyboard controller, the keyboard and the mouse.
#[derive(Clone, Debug)]
pub struct I8042 {
    // Configuration: none.
    // Glue: none.
    state: State,
}

/// A key, by its code in scan code set 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Make code of set 1, without bit 7: 0x1c is Enter.
    pub code: u8,
    /// With the prefix 0xe0: 0x1c is then the keypad's Enter.
    pub extended: bool,
}

impl Default for I8042 {
    fn default() -> I8042 {
        I8042::new()
    }
}

impl State {
    fn at_reset() -> State {
        let mut memory = [0; MEMORY_SIZE];
        memory[0] = CTR_AT_RESET;
        State {
            memory,
            output_port: OUTPUT_PORT_AT_RESET,
            expects: Expects::KeyboardByte,
            last_was_command: false,
            output: None,
            last_output: 0,
            responses: VecDeque::new(),
            break_prefix: false,
            quiet_until: None,
            reset_requested: false,
            keyboard: Keyboard::at_reset(),
            mouse: Mouse::at_reset(),
        }
    }

    fn command_byte(&self) -> u8 {
        self.memory[0]
    }

    fn change_command_byte(&mut self, clear: u8, set: u8) {
        self.memory[0] = (self.memory[0] & !clear) | set;
    }

    fn respond(&mut self, byte: u8, source: Source) {
        if self.responses.len() < RESPONSES_MAX {
            self.responses.push_back((byte, source));
        }
    }

    /// The next byte for the output buffer.
    fn next_byte(&mut self) -> Option<(u8, Source)> {
        if let Some(response) = self.responses.pop_front() {
            return Some(response);
        }
        if self.command_byte() & CTR_KEYBOARD_DISABLED == 0 {
            while let Some(byte) = self.keyboard.take_byte() {
                if let Some(translated) = self.translated(byte) {
                    return Some((translated, Source::Keyboard));
                }
            }
        }
        if self.command_byte() & CTR_AUX_DISABLED == 0 {
            return self.mouse.take_byte().map(|byte| (byte, Source::Aux));
        }
        None
    }

    /// A byte of the keyboard as the guest gets it; a break prefix becomes part of the next byte.
    fn translated(&mut self, byte: u8) -> Option<u8> {
        if self.command_byte() & CTR_TRANSLATE == 0 {
            return Some(byte);
        }
        if byte == translation::BREAK_PREFIX {
            self.break_prefix = true;
            return None;
        }
        let released = if std::mem::take(&mut self.break_prefix) { 0x80 } else { 0 };
        Some(translation::set_1_of(byte) | released)
    }

    /// Fills the output buffer if it is empty and may be filled.
    fn fill(&mut self) {
        if self.output.is_none() && self.quiet_until.is_none() {
            self.output = self.next_byte();
        }
    }

    fn has_waiting_byte(&self) -> bool {
        let keyboard = self.command_byte() & CTR_KEYBOARD_DISABLED == 0 && self.keyboard.has_byte();
        let aux = self.command_byte() & CTR_AUX_DISABLED == 0 && self.mouse.has_byte();
        !self.responses.is_empty() || keyboard || aux
    }

    fn status(&self) -> u8 {
        let output = match self.output {
            None => 0,
            Some((_, Source::Keyboard)) => STATUS_OBF,
            Some((_, Source::Aux)) => STATUS_OBF | STATUS_AUX_OBF,
        };
        let system = if self.command_byte() & CTR_SYS != 0 { STATUS_SYS } else { 0 };
        let command = if self.last_was_command { STATUS_COMMAND } else { 0 };
        STATUS_NOT_LOCKED | output | system | command
    }

    fn write_output_port(&mut self, value: u8) {
        self.output_port = value & !(OUTPUT_PORT_KEYBOARD_OBF | OUTPUT_PORT_AUX_OBF);
        self.reset_requested |= value & OUTPUT_PORT_NO_RESET == 0;
    }

    fn command(&mut self, command: u8) {
        self.expects = Expects::KeyboardByte;
        match command {
            0x20..=0x3f => {
                self.respond(self.memory[usize::from(command & 0x1f)], Source::Keyboard);
            }
            0x60..=0x7f => self.expects = Expects::Memory(command & 0x1f),
            0xa4 => self.respond(NO_PASSWORD, Source::Keyboard),
            0xa7 => self.change_command_byte(0, CTR_AUX_DISABLED),
            0xa8 => self.change_command_byte(CTR_AUX_DISABLED, 0),
            0xa9 | 0xab => self.respond(INTERFACE_TEST_PASSED, Source::Keyboard),
            0xaa => {
                self.change_command_byte(0, CTR_SYS);
                self.respond(SELF_TEST_PASSED, Source::Keyboard);
            }
            0xad => self.change_command_byte(0, CTR_KEYBOARD_DISABLED),
            0xae => self.change_command_byte(CTR_KEYBOARD_DISABLED, 0),
            0xc0 => self.respond(INPUT_PORT, Source::Keyboard),
            0xd0 => {
                let full = match self.output {
                    None => 0,
                    Some((_, Source::Keyboard)) => OUTPUT_PORT_KEYBOARD_OBF,
                    Some((_, Source::Aux)) => OUTPUT_PORT_AUX_OBF,
                };
                self.respond(self.output_port | full, Source::Keyboard);
            }
            0xd1 => self.expects = Expects::OutputPort,
            0xd2 => self.expects = Expects::KeyboardOutput,
            0xd3 => self.expects = Expects::AuxOutput,
            0xd4 => self.expects = Expects::AuxByte,
            // Disable and enable A20, of later controllers.
            0xdd => self.output_port &= !OUTPUT_PORT_A20,
            0xdf => self.output_port |= OUTPUT_PORT_A20,
            // Test inputs: keyboard clock and data at rest.
            0xe0 => self.respond(0, Source::Keyboard),
            // Pulse the output port bits that are zero; only the reset line is heard of.
            0xf0..=0xff => self.reset_requested |= command & OUTPUT_PORT_NO_RESET == 0,
            // The rest is reserved or nothing that a PC has.
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match std::mem::replace(&mut self.expects, Expects::KeyboardByte) {
            Expects::KeyboardByte => {
                self.change_command_byte(CTR_KEYBOARD_DISABLED, 0);
                self.keyboard.receive(value);
            }
            Expects::Memory(index) => self.memory[usize::from(index)] = value,
            Expects::OutputPort => self.write_output_port(value),
            Expects::KeyboardOutput => self.respond(value, Source::Keyboard),
            Expects::AuxOutput => self.respond(value, Source::Aux),
            Expects::AuxByte => self.mouse.receive(value),
        }
    }
}

// Guest side.
impl I8042 {
    /// The controller at power-on.
    pub fn new() -> I8042 {
        I8042 { state: State::at_reset() }
    }

    /// The reset pin, and power-on for keyboard and mouse.
    pub fn reset(&mut self) {
        self.state = State::at_reset();
    }

    /// Reads register `reg` (see [`PORTS`]).
    pub fn read(&mut self, reg: u16, now: GuestNs) -> u8 {
        self.advance(now);
        let state = &mut self.state;
        match reg {
            0 => {
                if let Some((byte, _)) = state.output.take() {
                    state.last_output = byte;
                    state.quiet_until = Some(GuestNs(now.0.saturating_add(BYTE_NS)));
                }
                state.last_output
            }
            4 => state.status(),
            _ => 0xff,
        }
    }

    /// Writes register `reg` (see [`PORTS`]).
    pub fn write(&mut self, reg: u16, value: u8, now: GuestNs) {
        self.advance(now);
        let state = &mut self.state;
        match reg {
            0 => state.data(value),
            4 => state.command(value),
            _ => return,
        }
        state.last_was_command = reg == 4;
        if !state.responses.is_empty() {
            // The controller answers at once; only the devices' wires are slow.
            state.quiet_until = None;
        }
        state.fill();
    }
}

// Board and host side.
impl I8042 {
    /// Level of IRQ 1.
    pub fn keyboard_irq(&self) -> bool {
        let enabled = self.state.command_byte() & CTR_KEYBOARD_INT != 0;
        enabled && matches!(self.state.output, Some((_, Source::Keyboard)))
    }

    /// Level of IRQ 12.
    pub fn mouse_irq(&self) -> bool {
        let enabled = self.state.command_byte() & CTR_AUX_INT != 0;
        enabled && matches!(self.state.output, Some((_, Source::Aux)))
    }

    /// This controller's wish for the A20 gate. The line is high if this or port 0x92 wants it high.
    pub fn a20(&self) -> bool {
        self.state.output_port & OUTPUT_PORT_A20 != 0
    }

    /// Whether the guest pulled the reset line since the last call.
    pub fn take_reset(&mut self) -> bool {
        std::mem::take(&mut self.state.reset_requested)
    }

    /// A key goes down or up. `false`, and the key is lost, if the keyboard does not scan or its buffer
    /// is full.
    pub fn key(&mut self, key: Key, pressed: bool) -> bool {
        let taken = self.state.keyboard.key(key, pressed);
        self.state.fill();
        taken
    }

    /// The mouse moves (right and up are positive), its wheel turns (towards the user is positive), and
    /// its buttons are now `buttons` (bit 0 left, 1 right, 2 middle).
    pub fn move_mouse(&mut self, right: i32, up: i32, wheel: i32, buttons: u8) {
        self.state.mouse.motion(right, up, wheel, buttons);
        self.state.fill();
    }

    /// Keys that surely have room in the keyboard's buffer. A keyboard that does not scan takes any, and loses them.
    pub fn key_room(&self) -> usize {
        self.state.keyboard.room()
    }

    /// Whether the guest has been told of the mouse's buttons as they are, or is not told of any: another change before that
    /// would take this one's place.
    pub fn buttons_told(&self) -> bool {
        self.state.mouse.buttons_told()
    }

    /// The state of the keyboard's lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    pub fn lights(&self) -> u8 {
        self.state.keyboard.lights()
    }

    /// When the next byte that waits enters the empty output buffer.
    pub fn deadline(&self) -> Option<GuestNs> {
        self.state
            .quiet_until
            .filter(|_| self.state.output.is_none() && self.state.has_waiting_byte())
    }

    /// Brings the controller to `now`.
    pub fn advance(&mut self, now: GuestNs) {
        if self.state.quiet_until.is_some_and(|until| until <= now) {
            self.state.quiet_until = None;
            self.state.fill();
        }
    }
}

mod save_restore {
    use super::*;

    impl I8042 {
        /// The state of the controller, the keyboard and the mouse.
        pub fn save(&self) -> State {
            let I8042 { state } = self;
            state.clone()
        }

        /// Becomes `state`. Refuses queues longer than they get, memory that is not there, and device
        /// settings that cannot be made.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the 8042", field);
            check(state.responses.len() <= RESPONSES_MAX, "responses")?;
            let index_valid = match state.expects {
                Expects::Memory(index) => usize::from(index) < MEMORY_SIZE,
                Expects::KeyboardByte
                | Expects::OutputPort
                | Expects::KeyboardOutput
                | Expects::AuxOutput
                | Expects::AuxByte => true,
            };
            check(index_valid, "expects")?;
            check(state.keyboard.is_valid(), "keyboard")?;
            check(state.mouse.is_valid(), "mouse")?;
            self.state = state;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
