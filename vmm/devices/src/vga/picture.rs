//! What the display shows, of memory and registers.

use super::registers::{Registers, extension};

/// A picture: rows from the top, pixels from the left, red, green and blue of 8 bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Picture {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// The attribute controller: not blanked, and graphics.
const DISPLAY_ON: u8 = 0x20;
const SCREEN_OFF: u8 = 0x20;
const GRAPHICS: u8 = 1;
const BLINK: u8 = 1 << 3;
const LINE_GRAPHICS: u8 = 1 << 2;
const CURSOR_OFF: u8 = 0x20;
/// Bytes of a font, of a glyph in it, and what each takes in memory.
const FONT_BYTES: usize = 8192;
const GLYPH_BYTES: usize = 32;

/// What all modes need.
struct Screen<'a> {
    registers: &'a Registers,
    memory: &'a [u8],
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// The picture.
pub(super) fn of(registers: &Registers, memory: &[u8]) -> Picture {
    let (width, height) = size(registers);
    let rgb = vec![0; 3 * width * height];
    let mut screen = Screen { registers, memory, width, height, rgb };
    if registers.extension_enabled() {
        screen.linear();
    } else if is_on(registers) {
        match (registers.graphics[6] & GRAPHICS, registers.graphics[5] >> 5 & 3) {
            (0, _) => screen.text(),
            (_, 0) => screen.graphics(Screen::planar_pixel),
            (_, 1) => screen.graphics(Screen::interleaved_pixel),
            _ => screen.graphics(Screen::chained_pixel),
        }
    }
    Picture { width: width as u32, height: height as u32, rgb: screen.rgb }
}

/// The text, in text modes.
pub(super) fn text_of(registers: &Registers, memory: &[u8]) -> Option<Vec<String>> {
    if registers.extension_enabled() || registers.graphics[6] & GRAPHICS != 0 {
        return None;
    }
    let (columns, rows, _) = text_size(registers);
    let line = |row: usize| {
        let cells = (0..columns).map(|column| match byte(memory, cell(registers, row, column)) {
            shown @ 0x20..=0x7e => char::from(shown),
            0 | 0xff => ' ',
            _ => '\u{b7}',
        });
        cells.collect::<String>().trim_end().to_owned()
    };
    Some((0..rows).map(line).collect())
}

fn is_on(registers: &Registers) -> bool {
    registers.attribute_index & DISPLAY_ON != 0 && registers.sequencer[1] & SCREEN_OFF == 0
}

fn byte(memory: &[u8], at: usize) -> u8 {
    memory.get(at).copied().unwrap_or(0)
}

/// Lines that the CRT controller scans, before doubling is taken off.
fn lines(registers: &Registers) -> usize {
    let crtc = &registers.crtc;
    let overflow = usize::from(crtc[7]);
    (usize::from(crtc[0x12]) | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
}

fn character_height(registers: &Registers) -> usize {
    usize::from(registers.crtc[9] & 0x1f) + 1
}

fn character_width(registers: &Registers) -> usize {
    if registers.sequencer[1] & 1 != 0 { 8 } else { 9 }
}

/// Columns, rows, and scan lines of each line of a character.
fn text_size(registers: &Registers) -> (usize, usize, usize) {
    let columns = usize::from(registers.crtc[1]) + 1;
    let doubled = 1 << (registers.crtc[9] >> 7);
    let rows = lines(registers) / (character_height(registers) * doubled);
    (columns, rows.max(1), doubled)
}

fn size(registers: &Registers) -> (usize, usize) {
    if registers.extension_enabled() {
        let [width, height] = [extension::WIDTH, extension::HEIGHT]
            .map(|register| usize::from(registers.extension[usize::from(register)]));
        return (width.max(1), height.max(1));
    }
    if registers.graphics[6] & GRAPHICS != 0 {
        return ((usize::from(registers.crtc[1]) + 1) * 8, lines(registers));
    }
    let (columns, rows, doubled) = text_size(registers);
    (columns * character_width(registers), rows * character_height(registers) * doubled)
}

fn start_address(registers: &Registers) -> usize {
    usize::from(registers.crtc[0xc]) << 8 | usize::from(registers.crtc[0xd])
}

/// Where a character is; its attribute is behind it.
fn cell(registers: &Registers, row: usize, column: usize) -> usize {
    let pitch = usize::from(registers.crtc[0x13]) * 2;
    4 * (start_address(registers) + row * pitch + column)
}

impl Screen<'_> {
    fn put(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// An entry of the palette.
    fn palette(&self, index: u8) -> [u8; 3] {
        let at = usize::from(index & self.registers.pixel_mask) * 3;
        let eight_bits = self.registers.palette_has_8_bits();
        std::array::from_fn(|part| {
            let level = self.registers.palette[at + part];
            if eight_bits { level } else { (level & 0x3f) << 2 | (level & 0x3f) >> 4 }
        })
    }

    /// One of sixteen colours, through the attribute controller.
    fn colour(&self, index: u8) -> [u8; 3] {
        let attribute = &self.registers.attribute;
        let inner = attribute[usize::from(index & attribute[0x12] & 0xf)];
        let select = attribute[0x14];
        let outer = if attribute[0x10] & 0x80 != 0 {
            (select & 0xf) << 4 | inner & 0xf
        } else {
            (select & 0xc) << 4 | inner & 0x3f
        };
        self.palette(outer)
    }

    fn text(&mut self) {
        let (columns, rows, doubled) = text_size(self.registers);
        let (width, height) = (character_width(self.registers), character_height(self.registers));
        for row in 0..rows {
            for column in 0..columns {
                let at = cell(self.registers, row, column);
                let (character, attribute) = (byte(self.memory, at), byte(self.memory, at + 1));
                let blink = self.registers.attribute[0x10] & BLINK != 0;
                let background = attribute >> 4 & if blink { 7 } else { 0xf };
                let colours = [self.colour(background), self.colour(attribute & 0xf)];
                let cursor = self.cursor_lines(at / 4);
                for line in 0..height {
                    let bits = match cursor.contains(&line) {
                        true => 0x1ff,
                        false => self.glyph_line(character, attribute, line),
                    };
                    for x in 0..width {
                        let lit = bits >> (8 - x) & 1;
                        for scan in 0..doubled {
                            let y = (row * height + line) * doubled + scan;
                            self.put(column * width + x, y, colours[lit]);
                        }
                    }
                }
            }
        }
    }

    /// The nine dots of a line of a character, leftmost in bit 8.
    fn glyph_line(&self, character: u8, attribute: u8, line: usize) -> usize {
        let select = usize::from(self.registers.sequencer[3]);
        let font = if attribute & 8 != 0 {
            select >> 5 & 1 | select >> 1 & 6
        } else {
            select >> 4 & 1 | select << 1 & 6
        };
        let place = font * FONT_BYTES + usize::from(character) * GLYPH_BYTES + line;
        let bits = usize::from(byte(self.memory, 4 * place + 2));
        let extends =
            self.registers.attribute[0x10] & LINE_GRAPHICS != 0 && matches!(character, 0xc0..=0xdf);
        bits << 1 | if extends { bits & 1 } else { 0 }
    }

    /// The lines of the cell at `address` that the cursor covers.
    fn cursor_lines(&self, address: usize) -> std::ops::Range<usize> {
        let crtc = &self.registers.crtc;
        let at = usize::from(crtc[0xe]) << 8 | usize::from(crtc[0xf]);
        if at != address || crtc[0xa] & CURSOR_OFF != 0 {
            return 0..0;
        }
        usize::from(crtc[0xa] & 0x1f)..usize::from(crtc[0xb] & 0x1f) + 1
    }

    /// Modes in which a pixel's place follows from the CRT controller.
    fn graphics(&mut self, pixel: fn(&Self, usize, usize) -> [u8; 3]) {
        let crtc = &self.registers.crtc;
        let mode = crtc[0x17];
        let pitch = usize::from(crtc[0x13]) << 3;
        let scans = character_height(self.registers) << (crtc[9] >> 7);
        let start = 4 * start_address(self.registers);
        for y in 0..self.height {
            let mut row = y / scans;
            let mut at = start;
            // Address bits 13 and 14 may be the lowest of the row's.
            if mode & 1 == 0 {
                at |= (row & 1) << 15;
                row >>= 1;
            } else if mode & 2 == 0 {
                at |= (row & 2) << 15;
                row >>= 1;
            }
            at += row * pitch;
            for x in 0..self.width {
                let colour = pixel(self, at, x);
                self.put(x, y, colour);
            }
        }
    }

    /// Four planes of a bit each.
    fn planar_pixel(&self, at: usize, x: usize) -> [u8; 3] {
        let place = at + 4 * (x / 8);
        let bit = 7 - x % 8;
        let index = (0..4)
            .fold(0, |index, plane| index | (byte(self.memory, place + plane) >> bit & 1) << plane);
        self.colour(index)
    }

    /// Two bits, of two planes that hold every other byte: the CGA's four colours.
    fn interleaved_pixel(&self, at: usize, x: usize) -> [u8; 3] {
        let plane = x / 4 % 2;
        let bits = byte(self.memory, at + 4 * (x / 8) + plane);
        self.colour(bits >> (6 - 2 * (x % 4)) & 3)
    }

    /// A byte for two dots.
    fn chained_pixel(&self, at: usize, x: usize) -> [u8; 3] {
        self.palette(byte(self.memory, at + x / 2))
    }

    /// Bochs's modes.
    fn linear(&mut self) {
        let [x_offset, y_offset, bits] =
            [extension::X_OFFSET, extension::Y_OFFSET, extension::BITS]
                .map(|register| usize::from(self.registers.extension[usize::from(register)]));
        let pitch = self.registers.linear_pitch();
        let bytes = self.registers.linear_bits().div_ceil(8);
        for y in 0..self.height {
            let row = (y_offset + y) * pitch;
            for x in 0..self.width {
                let at = row + (x_offset + x) * bytes;
                let part = |index| u32::from(byte(self.memory, at + index));
                let word = part(0) | part(1) << 8;
                // Five or six bits to eight.
                let wide =
                    |value: u32, bits: u32| (value << (8 - bits) | value >> (2 * bits - 8)) as u8;
                let colour = match bits {
                    4 => {
                        // Four bytes of memory, one of each plane, are eight pixels.
                        let column = x_offset + x;
                        let row = 4 * ((y_offset + y) * pitch / 4 + column / 8);
                        self.planar_pixel(row, column % 8)
                    }
                    8 => self.palette(part(0) as u8),
                    15 => [word >> 10 & 31, word >> 5 & 31, word & 31].map(|part| wide(part, 5)),
                    16 => [wide(word >> 11 & 31, 5), wide(word >> 5 & 63, 6), wide(word & 31, 5)],
                    _ => [part(2) as u8, part(1) as u8, part(0) as u8],
                };
                self.put(x, y, colour);
            }
        }
    }
}
