//! The registers: sequencer, graphics, attribute and CRT controllers, palette, and Bochs's extension.

use super::MEMORY_BYTES;
use crate::RestoreError;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// Bytes of the palette: 256 colours of red, green, blue.
const PALETTE_BYTES: usize = 768;

/// Registers of Bochs's extension.
pub(super) mod extension {
    pub(in super::super) const ID: u16 = 0;
    pub(in super::super) const WIDTH: u16 = 1;
    pub(in super::super) const HEIGHT: u16 = 2;
    pub(in super::super) const BITS: u16 = 3;
    pub(in super::super) const ENABLE: u16 = 4;
    pub(in super::super) const BANK: u16 = 5;
    pub(in super::super) const VIRTUAL_WIDTH: u16 = 6;
    pub(in super::super) const VIRTUAL_HEIGHT: u16 = 7;
    pub(in super::super) const X_OFFSET: u16 = 8;
    pub(in super::super) const Y_OFFSET: u16 = 9;
    pub(in super::super) const MEMORY_64K: u16 = 10;
    pub(in super::super) const COUNT: usize = 10;
}

/// Bits of `ENABLE`.
const ENABLED: u16 = 1 << 0;
const CAPABILITIES: u16 = 1 << 1;
const PALETTE_8_BITS: u16 = 1 << 5;
const KEEP_MEMORY: u16 = 1 << 7;

/// The newest version of the extension, and the oldest.
const ID_NEWEST: u16 = 0xb0c5;
const ID_OLDEST: u16 = 0xb0c0;
const WIDTH_MAX: u16 = 2560;
const HEIGHT_MAX: u16 = 1600;
const BITS_MAX: u16 = 32;

/// Lines of a frame at 31.469 kHz, of which 400 are seen; nanoseconds of a line, of which those before the blank are seen.
const FRAME_LINES: u64 = 449;
const SEEN_LINES: u64 = 400;
const RETRACE_LINES: std::ops::Range<u64> = 412..414;
const LINE_NS: u64 = 31_778;
const SEEN_NS: u64 = 25_422;

/// All registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Registers {
    pub(super) misc: u8,
    pub(super) sequencer_index: u8,
    pub(super) sequencer: [u8; 8],
    pub(super) graphics_index: u8,
    pub(super) graphics: [u8; 16],
    pub(super) attribute_index: u8,
    /// The next write to 0x3c0 is data.
    attribute_data_next: bool,
    pub(super) attribute: [u8; 32],
    crtc_index: u8,
    pub(super) crtc: [u8; 32],
    feature: u8,
    pub(super) pixel_mask: u8,
    /// What 0x3c7 reads as: 3 after it was written, 0 after 0x3c8 was.
    palette_state: u8,
    palette_read: u8,
    palette_write: u8,
    /// Which of red, green, blue comes next.
    palette_part: u8,
    palette_pending: [u8; 2],
    /// 768 bytes.
    pub(super) palette: Vec<u8>,
    pub(super) latch: u32,
    extension_index: u16,
    pub(super) extension: [u16; extension::COUNT],
}

/// Everything of the card that can change but its memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Configuration space.
    header: Vec<u8>,
    registers: Registers,
}

impl State {
    pub(super) fn header(&self) -> &[u8] {
        &self.header
    }
}

impl Default for Registers {
    fn default() -> Registers {
        let mut extension = [0; extension::COUNT];
        extension[usize::from(extension::ID)] = ID_NEWEST;
        Registers {
            misc: 0,
            sequencer_index: 0,
            sequencer: [0; 8],
            graphics_index: 0,
            graphics: [0; 16],
            attribute_index: 0,
            attribute_data_next: false,
            attribute: [0; 32],
            crtc_index: 0,
            crtc: [0; 32],
            feature: 0,
            pixel_mask: 0xff,
            palette_state: 0,
            palette_read: 0,
            palette_write: 0,
            palette_part: 0,
            palette_pending: [0; 2],
            palette: vec![0; PALETTE_BYTES],
            latch: 0,
            extension_index: 0,
            extension,
        }
    }
}

impl Registers {
    /// Mode 3, as IBM's table of video parameters has it.
    pub(super) fn set_text_mode(&mut self) {
        self.misc = 0x67;
        self.sequencer[..5].copy_from_slice(&[3, 0, 3, 0, 2]);
        self.graphics[..9].copy_from_slice(&[0, 0, 0, 0, 0, 0x10, 0x0e, 0x0f, 0xff]);
        self.crtc[..25].copy_from_slice(&[
            0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
            0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
        ]);
        self.attribute[..21].copy_from_slice(&[
            0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0,
            0x0f, 8, 0,
        ]);
        // The display is on.
        self.attribute_index = 0x20;
        // EGA's 64 colours: bits 2 to 0 are two thirds of red, green and blue, bits 5 to 3 one third.
        for (colour, rgb) in self.palette.chunks_exact_mut(3).take(64).enumerate() {
            for (part, bit) in rgb.iter_mut().zip([2, 1, 0]) {
                let level = (colour >> bit & 1) * 2 + (colour >> (bit + 3) & 1);
                *part = (level * 21) as u8;
            }
        }
    }

    pub(super) fn is_chained(&self) -> bool {
        self.sequencer[4] & 8 != 0
    }

    pub(super) fn is_odd_even(&self) -> bool {
        self.graphics[5] & 0x10 != 0
    }

    pub(super) fn bank(&self) -> u16 {
        self.extension[usize::from(extension::BANK)]
    }

    pub(super) fn extension_enabled(&self) -> bool {
        self.extension[usize::from(extension::ENABLE)] & ENABLED != 0
    }

    pub(super) fn palette_has_8_bits(&self) -> bool {
        self.extension[usize::from(extension::ENABLE)] & PALETTE_8_BITS != 0
    }

    /// Whether ports 0x3bx are those of a monochrome display, and not 0x3dx.
    fn is_elsewhere(&self, port: u16) -> bool {
        let colour = self.misc & 1 != 0;
        match port {
            0x00..=0x0f => colour,
            0x20..=0x2f => !colour,
            _ => false,
        }
    }

    /// Reads a port, counted from 0x3b0.
    pub(super) fn read(&mut self, port: u16, now: GuestNs) -> u8 {
        if self.is_elsewhere(port) {
            return 0xff;
        }
        match port {
            0x10 if self.attribute_data_next => 0,
            0x10 => self.attribute_index,
            0x11 => self.attribute[usize::from(self.attribute_index & 0x1f)],
            // Nothing that interrupts, no switch.
            0x12 => 0,
            0x14 => self.sequencer_index,
            0x15 => self.sequencer[usize::from(self.sequencer_index & 7)],
            0x16 => self.pixel_mask,
            0x17 => self.palette_state,
            0x18 => self.palette_write,
            0x19 => self.read_palette(),
            0x1a => self.feature,
            0x1c => self.misc,
            0x1e => self.graphics_index,
            0x1f => self.graphics[usize::from(self.graphics_index & 0xf)],
            0x04 | 0x24 => self.crtc_index,
            0x05 | 0x25 => self.crtc[usize::from(self.crtc_index & 0x1f)],
            0x0a | 0x2a => {
                self.attribute_data_next = false;
                status(now)
            }
            _ => 0xff,
        }
    }

    /// Writes a port, counted from 0x3b0.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        if self.is_elsewhere(port) {
            return;
        }
        match port {
            0x10 => self.write_attribute(value),
            0x12 => self.misc = value & !0x10,
            0x14 => self.sequencer_index = value & 7,
            0x15 => {
                const MASKS: [u8; 8] = [3, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0xff];
                let index = usize::from(self.sequencer_index & 7);
                self.sequencer[index] = value & MASKS[index];
            }
            0x16 => self.pixel_mask = value,
            0x17 => {
                (self.palette_read, self.palette_part) = (value, 0);
                self.palette_state = 3;
            }
            0x18 => {
                (self.palette_write, self.palette_part) = (value, 0);
                self.palette_state = 0;
            }
            0x19 => self.write_palette(value),
            0x1e => self.graphics_index = value & 0xf,
            0x1f => {
                const MASKS: [u8; 9] = [0xf, 0xf, 0xf, 0x1f, 3, 0x7b, 0xf, 0xf, 0xff];
                let index = usize::from(self.graphics_index & 0xf);
                if let Some(mask) = MASKS.get(index) {
                    self.graphics[index] = value & mask;
                }
            }
            0x04 | 0x24 => self.crtc_index = value,
            0x05 | 0x25 => self.write_crtc(value),
            0x0a | 0x2a => self.feature = value & 0x10,
            _ => {}
        }
    }

    fn write_attribute(&mut self, value: u8) {
        self.attribute_data_next = !self.attribute_data_next;
        if self.attribute_data_next {
            self.attribute_index = value & 0x3f;
            return;
        }
        let index = usize::from(self.attribute_index & 0x1f);
        self.attribute[index] = match index {
            0x00..=0x0f => value & 0x3f,
            0x10 => value & !0x10,
            0x11 => value,
            0x12 => value & 0x3f,
            0x13 | 0x14 => value & 0xf,
            _ => return,
        };
    }

    fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.crtc_index & 0x1f);
        let locked = self.crtc[0x11] & 0x80 != 0;
        match index {
            0..=7 if locked => {
                // Bit 4 of the overflow register is line compare's.
                if index == 7 {
                    self.crtc[7] = self.crtc[7] & !0x10 | value & 0x10;
                }
            }
            _ => self.crtc[index] = value,
        }
    }

    fn read_palette(&mut self) -> u8 {
        let at = usize::from(self.palette_read) * 3 + usize::from(self.palette_part % 3);
        self.palette_part += 1;
        if self.palette_part >= 3 {
            self.palette_part = 0;
            self.palette_read = self.palette_read.wrapping_add(1);
        }
        self.palette[at]
    }

    fn write_palette(&mut self, value: u8) {
        let part = usize::from(self.palette_part % 3);
        if let Some(pending) = self.palette_pending.get_mut(part) {
            *pending = value;
            self.palette_part += 1;
            return;
        }
        let at = usize::from(self.palette_write) * 3;
        let [red, green] = self.palette_pending;
        self.palette[at..at + 3].copy_from_slice(&[red, green, value]);
        self.palette_part = 0;
        self.palette_write = self.palette_write.wrapping_add(1);
    }

    pub(super) fn select_extension(&mut self, register: u16) {
        self.extension_index = register;
    }

    pub(super) fn selected_extension(&self) -> u16 {
        self.extension_index
    }

    /// Reads the index port, or one of the data ports.
    pub(super) fn read_extension_port(&self, offset: u64) -> u16 {
        if offset == 0 { self.extension_index } else { self.extension(self.extension_index) }
    }

    /// Reads a register of the extension.
    pub(super) fn extension(&self, register: u16) -> u16 {
        let capabilities = self.extension[usize::from(extension::ENABLE)] & CAPABILITIES != 0;
        match register {
            extension::WIDTH if capabilities => WIDTH_MAX,
            extension::HEIGHT if capabilities => HEIGHT_MAX,
            extension::BITS if capabilities => BITS_MAX,
            extension::MEMORY_64K => (MEMORY_BYTES >> 16) as u16,
            _ => self.extension.get(usize::from(register)).copied().unwrap_or(0),
        }
    }

    /// Writes a register of the extension. Whether memory is to be cleared.
    pub(super) fn set_extension(&mut self, register: u16, value: u16) -> bool {
        let old = self.extension;
        let enabled = self.extension_enabled();
        let Some(place) = self.extension.get_mut(usize::from(register)) else { return false };
        match register {
            extension::ID => {
                if (ID_OLDEST..=ID_NEWEST).contains(&value) {
                    *place = value;
                }
            }
            extension::WIDTH if !enabled && value <= WIDTH_MAX => *place = value & !7,
            extension::HEIGHT if !enabled && value <= HEIGHT_MAX => *place = value,
            extension::BITS if !enabled => {
                if let 4 | 8 | 15 | 16 | 24 | 32 = value {
                    *place = value;
                }
            }
            extension::WIDTH | extension::HEIGHT | extension::BITS => {}
            extension::BANK => *place = value & ((MEMORY_BYTES >> 16) as u16 - 1),
            extension::ENABLE => {
                *place = value;
                if value & ENABLED != 0 && !enabled {
                    self.begin_linear_mode();
                    return value & KEEP_MEMORY == 0;
                }
                if value & ENABLED == 0 {
                    self.extension[usize::from(extension::BANK)] = 0;
                }
            }
            _ => *place = value,
        }
        self.keep_in_memory(&old);
        false
    }

    /// Bytes of a line in memory.
    pub(super) fn linear_pitch(&self) -> usize {
        let width = usize::from(self.extension[usize::from(extension::VIRTUAL_WIDTH)]);
        width * self.linear_bits().max(1) / 8
    }

    /// Bits of a pixel in memory.
    pub(super) fn linear_bits(&self) -> usize {
        match self.extension[usize::from(extension::BITS)] {
            15 => 16,
            bits => bits.into(),
        }
    }

    fn begin_linear_mode(&mut self) {
        let width = self.extension[usize::from(extension::WIDTH)];
        self.extension[usize::from(extension::VIRTUAL_WIDTH)] = width;
        self.extension[usize::from(extension::X_OFFSET)] = 0;
        self.extension[usize::from(extension::Y_OFFSET)] = 0;
        self.set_virtual_height();
        // Graphics, 64 KiB at 0xa0000; planes chained but for 4 bits.
        self.graphics[6] = self.graphics[6] & !0x0c | 0x05;
        self.graphics[5] &= !0x10;
        self.sequencer[2] = 0x0f;
        if self.extension[usize::from(extension::BITS)] == 4 {
            self.sequencer[4] &= !8;
        } else {
            self.sequencer[4] |= 8;
        }
    }

    fn set_virtual_height(&mut self) {
        let lines = MEMORY_BYTES / self.linear_pitch().max(1);
        self.extension[usize::from(extension::VIRTUAL_HEIGHT)] = lines.min(0xffff) as u16;
    }

    /// A picture that does not lie in memory keeps the virtual size that it had.
    fn keep_in_memory(&mut self, old: &[u16; extension::COUNT]) {
        if !self.extension_enabled() {
            return;
        }
        let [width, height] = [extension::WIDTH, extension::HEIGHT]
            .map(|register| self.extension[usize::from(register)]);
        if self.extension[usize::from(extension::VIRTUAL_WIDTH)] < width {
            self.extension[usize::from(extension::VIRTUAL_WIDTH)] = width;
        }
        self.set_virtual_height();
        let virtual_height = self.extension[usize::from(extension::VIRTUAL_HEIGHT)];
        let last = self.extension[usize::from(extension::Y_OFFSET)].saturating_add(height);
        if last > virtual_height {
            self.extension = *old;
        }
    }

    pub(super) fn save(&self, header: &[u8]) -> State {
        State { header: header.to_vec(), registers: self.clone() }
    }

    pub(super) fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let State { header: _, registers } = state;
        let check = |valid, field| RestoreError::unless(valid, "the display", field);
        check(registers.palette.len() == PALETTE_BYTES, "palette")?;
        check(registers.palette_part < 3, "palette_part")?;
        let bank_max = (MEMORY_BYTES as u32 >> 16) as u16;
        check(registers.bank() < bank_max, "bank")?;
        let [width, height] = [extension::WIDTH, extension::HEIGHT]
            .map(|register| registers.extension[usize::from(register)]);
        check(width <= WIDTH_MAX && height <= HEIGHT_MAX, "extension")?;
        *self = registers;
        Ok(())
    }
}

/// The input status register: bit 0 where nothing is shown, bit 3 in the vertical retrace.
fn status(now: GuestNs) -> u8 {
    let line = now.0 / LINE_NS % FRAME_LINES;
    let blank = line >= SEEN_LINES || now.0 % LINE_NS >= SEEN_NS;
    u8::from(blank) | u8::from(RETRACE_LINES.contains(&line)) << 3
}
