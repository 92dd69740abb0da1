//! The display: its memory as pages of the machine, and what it shows.
//!
//! The card holds its memory while the machine runs, and a volume of pages that no address leads to holds it where the machine is at
//! rest, so that it is in digests, checkpoints and branches. Pages that were written go there when a run ends; after a restore they
//! come from there before anything else happens.

use crate::hardware::Hardware;
use crate::machine::Machine;
use crate::memory_map;
use dejavm_devices::Vga;
use dejavm_devices::vga::{self, Picture};
use dejavm_memory::{GuestRam, storage_page};
use dejavm_units::Gpa;
use std::borrow::Cow;

/// Pages of the volume.
pub(crate) const PAGES: u64 = (vga::MEMORY_BYTES / vga::PAGE_BYTES) as u64;

/// The volume's number: behind those of the drives and of RAM behind ROM.
fn volume(hardware: &Hardware) -> usize {
    hardware.drives.len() + usize::from(hardware.firmware.is_some())
}

/// The display of a machine without firmware, as firmware would leave it.
pub(crate) struct Console {
    volume: usize,
    /// The volume may hold other memory than the card.
    restored: bool,
}

impl Console {
    pub(crate) fn new(hardware: &Hardware) -> Console {
        Console { volume: volume(hardware), restored: false }
    }
}

/// How many glyphs are looked at to find a font: smiling faces, which no code has.
const SECOND_GLYPH: [u8; 16] =
    [0, 0, 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e, 0, 0, 0, 0];

/// The font of 16 lines in a display's ROM, if it has the usual one.
fn font_of(rom: &[u8]) -> Option<&[u8]> {
    let second = rom.windows(16).position(|window| window == SECOND_GLYPH)?;
    rom.get(second.checked_sub(16)?..)?.get(..4096)
}

impl Machine {
    /// Does what the display's firmware would have done: text mode, with the font in its ROM. Nothing without a display.
    pub fn set_text_mode(&mut self, rom: &[u8]) {
        let Some(display) = self.board.cards.display_mut() else { return };
        display.set_text_mode(font_of(rom).unwrap_or(&[]));
        self.keep_display();
    }

    /// Whether there is a display.
    pub fn has_display(&self) -> bool {
        self.board.cards.display().is_some()
    }

    /// What the display shows; `None`: there is none.
    pub fn picture(&self) -> Option<Picture> {
        self.shown().map(|display| display.picture())
    }

    /// The text that the display shows; `None`: there is no display, or it shows graphics.
    pub fn screen_text(&self) -> Option<Vec<String>> {
        self.shown().and_then(|display| display.text())
    }

    /// Another number than before, if the display may show something else than before. No state: two machines, or one restored, may
    /// count differently.
    pub fn display_changes(&self) -> u64 {
        self.board.cards.display().map_or(0, dejavm_devices::Vga::changes)
    }

    /// The display with its memory as it is now.
    fn shown(&self) -> Option<Cow<'_, Vga>> {
        let display = self.board.cards.display()?;
        if !self.console.restored {
            return Some(Cow::Borrowed(display));
        }
        let mut copy = display.clone();
        load(&mut copy, &self.ram, self.console.volume);
        Some(Cow::Owned(copy))
    }

    /// The state was restored, or pages were brought by somebody else.
    pub(crate) fn display_was_restored(&mut self) {
        self.console.restored = true;
        if let Some(display) = self.board.cards.display_mut() {
            display.note_change();
        }
    }

    /// Before the machine runs.
    pub(crate) fn follow_display(&mut self) {
        if !std::mem::take(&mut self.console.restored) {
            return;
        }
        let Machine { ram, board, console, .. } = self;
        let Some(display) = board.cards.display_mut() else { return };
        load(display, ram, console.volume);
    }

    /// When the machine comes to rest.
    pub(crate) fn keep_display(&mut self) {
        let Machine { ram, board, console, .. } = self;
        let Some(display) = board.cards.display_mut() else { return };
        display.take_written(|page, contents| {
            let page = storage_page(console.volume, page);
            ram.write_page(page, contents).expect("the display has a volume");
        });
    }
}

/// Brings the display its memory.
fn load(display: &mut Vga, ram: &GuestRam, volume: usize) {
    display.set_memory(|page, into| {
        ram.read_page(storage_page(volume, page), into).expect("the display has a volume");
    });
}

/// Says in the zero page that there is a VGA in text mode (Linux, include/uapi/linux/screen_info.h).
pub(crate) fn write_screen_info(ram: &mut GuestRam) {
    const MODE: (u64, u8) = (0x06, 3);
    const COLUMNS: (u64, u8) = (0x07, 80);
    const LINES: (u64, u8) = (0x0e, 25);
    const IS_VGA: (u64, u8) = (0x0f, 1);
    const POINTS: (u64, u8) = (0x10, 16);
    for (offset, value) in [MODE, COLUMNS, LINES, IS_VGA, POINTS] {
        ram.write(Gpa(memory_map::BOOT_PARAMS + offset), &[value])
            .expect("any machine has RAM below 640 KiB");
    }
}
