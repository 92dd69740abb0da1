//! A VGA with Bochs's extension for linear modes, as a card on the PCI bus (IBM VGA as in FreeVGA's documents; QEMU,
//! docs/specs/standard-vga.rst; Bochs VBE: `vbe_display_api.txt`).
//!
//! Data path: the guest writes video memory through the window at 0xa0000, which the sequencer and the graphics controller map to
//! four planes, or linearly through the first base address register; [`Vga::picture`] shows it as the attribute controller, the CRT
//! controller and the palette say. Byte `a` of plane `p` is byte `4 a + p` of video memory, so that 256-colour modes are linear.
//!
//! Registers also answer at 0x400 (from port 0x3c0 on) and 0x500 (the extension's, 16 bits each) of the third base address
//! register. The vertical retrace follows from guest time, 70 times a second.
//!
//! Video memory is not in the state: the board keeps it in pages, by [`Vga::take_written`] and [`Vga::set_memory`].
//!
//! Not modelled: interrupts, the light pen, panning by pixels, the second font's use of bit 3 where both are the same.

mod memory;
mod picture;
mod registers;

pub use picture::Picture;
pub use registers::State;

use crate::RestoreError;
use crate::card::{Card, Space, Surroundings, Window};
use crate::pci::Width;
use crate::pci_header::PciHeader;
use dejavm_units::GuestNs;
use registers::Registers;

/// Bytes of video memory.
pub const MEMORY_BYTES: usize = 16 << 20;
/// Unit in which the board keeps it.
pub const PAGE_BYTES: usize = 4096;

/// Class: display controller, VGA compatible.
const CLASS: u32 = 0x03_00_00;
const LINEAR: u8 = 0;
const MAPPED: u8 = 2;
const LEGACY_MEMORY: u8 = 8;
const LEGACY_PORTS: u8 = 9;
const EXTENSION_PORTS: u8 = 10;

const LEGACY_FIRST: u64 = 0xa_0000;
const LEGACY_BYTES: u64 = 0x2_0000;
const PORTS_FIRST: u64 = 0x3b0;
const PORTS_COUNT: u64 = 0x30;
/// Index, data, and data again where a word is aligned.
const EXTENSION_FIRST: u64 = 0x1ce;
/// Offset of port 0x3c0 among the ports.
const PORT_3C0: u16 = 0x10;

/// Configuration space at power-on.
fn header() -> PciHeader {
    PciHeader::new(0x1234, 0x1111, CLASS, 2)
        .subsystem(0x1af4, 0x1100)
        .with_bar(0, Space::Memory, MEMORY_BYTES as u32)
        .with_bar(2, Space::Memory, 0x1000)
}

/// The card.
#[derive(Clone)]
pub struct Vga {
    header: PciHeader,
    registers: Registers,
    memory: Box<[u8]>,
    /// Transient: which pages of memory the board has not taken yet.
    written: Box<[bool]>,
    any_written: bool,
    /// Transient: how often something was written, registers too.
    changes: u64,
}

impl std::fmt::Debug for Vga {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.registers.fmt(f)
    }
}

impl Default for Vga {
    fn default() -> Vga {
        Vga::new()
    }
}

impl Vga {
    /// The card at power-on.
    pub fn new() -> Vga {
        Vga {
            header: header(),
            registers: Registers::default(),
            memory: vec![0; MEMORY_BYTES].into(),
            written: vec![false; MEMORY_BYTES / PAGE_BYTES].into(),
            any_written: false,
            changes: 0,
        }
    }

    /// Another number than before, if it may show something else than before.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// It may show something else.
    pub fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Does what a display's firmware does: text of 80 columns and 25 lines in mode 3, with a font of 256 characters of 16 lines.
    pub fn set_text_mode(&mut self, font: &[u8]) {
        self.registers.set_text_mode();
        for (character, glyph) in font.chunks_exact(16).take(256).enumerate() {
            for (line, bits) in glyph.iter().enumerate() {
                self.put(4 * (32 * character + line) + 2, *bits);
            }
        }
        for cell in 0..80 * 25 {
            self.put(4 * cell, b' ');
            self.put(4 * cell + 1, 0x07);
        }
    }

    /// What the display shows.
    pub fn picture(&self) -> Picture {
        picture::of(&self.registers, &self.memory)
    }

    /// The text that the display shows, lines without trailing blanks; `None` in graphics modes.
    pub fn text(&self) -> Option<Vec<String>> {
        picture::text_of(&self.registers, &self.memory)
    }

    /// Calls `keep` with the number and the contents of each page of memory written since the last time, ascending.
    pub fn take_written(&mut self, mut keep: impl FnMut(u64, &[u8])) {
        if !std::mem::take(&mut self.any_written) {
            return;
        }
        for (number, written) in (0u64..).zip(&mut self.written) {
            if std::mem::take(written) {
                let start = number as usize * PAGE_BYTES;
                keep(number, &self.memory[start..start + PAGE_BYTES]);
            }
        }
    }

    /// Replaces all of memory, which `read` gives page by page.
    pub fn set_memory(&mut self, mut read: impl FnMut(u64, &mut [u8])) {
        for (number, page) in (0u64..).zip(self.memory.chunks_exact_mut(PAGE_BYTES)) {
            read(number, page);
        }
        self.written.fill(false);
        self.any_written = false;
        self.note_change();
    }

    fn put(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.memory.get_mut(at) {
            *byte = value;
            self.written[at / PAGE_BYTES] = true;
            self.any_written = true;
        }
    }

    fn fetch(&self, at: usize) -> u8 {
        self.memory.get(at).copied().unwrap_or(0xff)
    }

    fn read_byte(&mut self, region: u8, offset: u64, now: GuestNs) -> u8 {
        match region {
            LINEAR => self.fetch(offset as usize),
            LEGACY_MEMORY => self.read_window(offset as u32),
            LEGACY_PORTS => self.registers.read(offset as u16, now),
            MAPPED => match offset {
                0x400..=0x41f => self.registers.read(offset as u16 - 0x400 + PORT_3C0, now),
                0x500..=0x515 => {
                    let value = self.registers.extension((offset as u16 - 0x500) / 2);
                    value.to_le_bytes()[offset as usize % 2]
                }
                _ => 0,
            },
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, region: u8, offset: u64, value: u8) {
        match region {
            LINEAR => self.put(offset as usize, value),
            LEGACY_MEMORY => self.write_window(offset as u32, value),
            LEGACY_PORTS => self.registers.write(offset as u16, value),
            MAPPED => {
                if let 0x400..=0x41f = offset {
                    self.registers.write(offset as u16 - 0x400 + PORT_3C0, value);
                }
            }
            _ => {}
        }
    }

    fn write_extension(&mut self, register: u16, value: u16) {
        if self.registers.set_extension(register, value) {
            self.memory.fill(0);
            self.written.fill(true);
            self.any_written = true;
        }
    }

    /// The state, memory left out.
    pub fn save(&self) -> State {
        let Vga { header, registers, memory: _, written: _, any_written: _, changes: _ } = self;
        registers.save(header.bytes())
    }

    /// Becomes `state`, memory left as it is. Refuses what no card can hold.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        let header = self.header.restore_bytes(state.header());
        RestoreError::unless(header.is_some(), "the display", "header")?;
        self.registers.restore(state)
    }
}

impl Card for Vga {
    fn config_read(&mut self, offset: u8, width: Width, _now: GuestNs) -> u32 {
        self.header.read(offset, width, false)
    }

    fn config_write(&mut self, offset: u8, width: Width, value: u32, _now: GuestNs) {
        self.header.write(offset, width, value);
    }

    fn windows(&self) -> Vec<Window> {
        let fixed = |space, first, bytes, region| Window { space, first, bytes, region };
        let mut windows = vec![
            fixed(Space::Memory, LEGACY_FIRST, LEGACY_BYTES, LEGACY_MEMORY),
            fixed(Space::Ports, PORTS_FIRST, PORTS_COUNT, LEGACY_PORTS),
            fixed(Space::Ports, EXTENSION_FIRST, 4, EXTENSION_PORTS),
        ];
        windows.extend(self.header.windows());
        windows
    }

    fn read(&mut self, region: u8, offset: u64, size: u8, now: GuestNs) -> u64 {
        if region == EXTENSION_PORTS {
            return self.registers.read_extension_port(offset).into();
        }
        let mut value = 0;
        for byte in 0..size.min(8) {
            let read = self.read_byte(region, offset + u64::from(byte), now);
            value |= u64::from(read) << (8 * byte);
        }
        value
    }

    fn write(&mut self, region: u8, offset: u64, size: u8, value: u64, _now: GuestNs) {
        self.note_change();
        match (region, offset) {
            (EXTENSION_PORTS, 0) => self.registers.select_extension(value as u16),
            (EXTENSION_PORTS, _) => {
                let register = self.registers.selected_extension();
                self.write_extension(register, value as u16);
            }
            (MAPPED, 0x500..=0x515) => {
                self.write_extension((offset as u16 - 0x500) / 2, value as u16);
            }
            _ => {
                for byte in 0..size.min(8) {
                    let at = offset + u64::from(byte);
                    self.write_byte(region, at, (value >> (8 * byte)) as u8);
                }
            }
        }
    }

    fn deadline(&self) -> Option<GuestNs> {
        None
    }

    fn service(&mut self, _now: GuestNs, _around: &mut dyn Surroundings) {}

    fn reset(&mut self) {
        self.header = header();
        self.registers = Registers::default();
    }
}

#[cfg(test)]
mod tests;
