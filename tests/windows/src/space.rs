//! Address spaces: page tables in the guest's memory, built entry by entry.

use crate::memory::Memory;
use std::collections::BTreeMap;

const PAGE: u64 = 4096;
/// Present, writable, accessed, dirty.
const ENTRY: u64 = 0x63;
const LARGE: u64 = 0x80;

/// Memory that is handed out page by page.
pub struct Frames {
    next: u64,
}

impl Frames {
    /// From a physical address upwards.
    pub fn from(next: u64) -> Frames {
        Frames { next }
    }

    /// The physical address of so many pages.
    pub fn take(&mut self, pages: u64) -> u64 {
        self.next += pages * PAGE;
        self.next - pages * PAGE
    }

    /// The same, at a multiple of its size.
    pub fn take_aligned(&mut self, pages: u64) -> u64 {
        self.next = self.next.next_multiple_of(pages * PAGE);
        self.take(pages)
    }
}

/// How page tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Two levels, entries of 32 bits.
    Legacy,
    /// Three levels, the first with four entries.
    Pae,
    /// Four levels.
    Long,
}

/// An address space.
#[derive(Clone)]
pub struct Space {
    /// What CR3 is.
    pub root: u64,
    mode: Mode,
    /// Linear page to physical address.
    mapped: BTreeMap<u64, u64>,
}

impl Space {
    /// An empty one of long mode with four levels, with an entry for itself at an index.
    pub fn long(memory: &mut Memory, frames: &mut Frames, self_reference: Option<u64>) -> Space {
        let root = frames.take(1);
        if let Some(index) = self_reference {
            memory.put(root + index * 8, &(root | ENTRY).to_le_bytes());
        }
        Space { root, mode: Mode::Long, mapped: BTreeMap::new() }
    }

    /// An empty one of PAE: its root is 32 bytes somewhere in a page, and the fourth directory has all four of them.
    pub fn pae(memory: &mut Memory, frames: &mut Frames) -> Space {
        let root = frames.take(1) + 0x2e0;
        let directories = frames.take(4);
        for n in 0..4 {
            let directory = directories + n * PAGE;
            memory.put(root + n * 8, &(directory | 1).to_le_bytes());
            memory.put(directories + 3 * PAGE + n * 8, &(directory | ENTRY).to_le_bytes());
        }
        Space { root, mode: Mode::Pae, mapped: BTreeMap::new() }
    }

    /// An empty one of two levels, with an entry for itself at an index.
    pub fn legacy(memory: &mut Memory, frames: &mut Frames, self_reference: Option<u64>) -> Space {
        let root = frames.take(1);
        if let Some(index) = self_reference {
            memory.put(root + index * 4, &((root | ENTRY) as u32).to_le_bytes());
        }
        Space { root, mode: Mode::Legacy, mapped: BTreeMap::new() }
    }

    /// Another address space with the same upper half.
    pub fn sibling(&self, memory: &mut Memory, frames: &mut Frames, self_reference: u64) -> Space {
        assert_eq!(self.mode, Mode::Long);
        let sibling = Space::long(memory, frames, None);
        let upper = memory.read(self.root + 0x800, 0x800);
        memory.put(sibling.root + 0x800, &upper);
        memory.put(sibling.root + self_reference * 8, &(sibling.root | ENTRY).to_le_bytes());
        Space { root: sibling.root, ..self.clone() }
    }

    /// Maps pages to new memory.
    pub fn map_new(&mut self, memory: &mut Memory, frames: &mut Frames, linear: u64, pages: u64) {
        for n in 0..pages {
            let frame = frames.take(1);
            self.map(memory, frames, linear + n * PAGE, frame);
        }
    }

    /// Maps a page.
    pub fn map(&mut self, memory: &mut Memory, frames: &mut Frames, linear: u64, physical: u64) {
        let table = self.table(memory, frames, linear, 12);
        let entry = (physical | ENTRY).to_le_bytes();
        let bytes = self.entry_bytes();
        let index = linear >> 12 & (4096 / bytes - 1);
        memory.put(table + index * bytes, &entry[..bytes as usize]);
        self.mapped.insert(linear / PAGE, physical);
    }

    /// Maps 2 MiB.
    pub fn map_large(&mut self, memory: &mut Memory, frames: &mut Frames, linear: u64) {
        let physical = frames.take_aligned(512);
        let table = self.table(memory, frames, linear, 21);
        let index = linear >> 21 & 511;
        memory.put(table + index * 8, &(physical | ENTRY | LARGE).to_le_bytes());
        for n in 0..512 {
            self.mapped.insert(linear / PAGE + n, physical + n * PAGE);
        }
    }

    /// The table whose entries lead to so many bytes (as log2).
    fn table(&self, memory: &mut Memory, frames: &mut Frames, linear: u64, shift: u32) -> u64 {
        // log2 of the bytes that an entry leads to, and of the entries.
        let levels: &[(u32, u32)] = match self.mode {
            Mode::Legacy => &[(22, 10)],
            Mode::Pae => &[(30, 2), (21, 9)],
            Mode::Long => &[(39, 9), (30, 9), (21, 9)],
        };
        let bytes = self.entry_bytes();
        levels.iter().filter(|(level, _)| *level > shift).fold(
            self.root,
            |table, &(level, bits)| {
                let at = table + (linear >> level & ((1 << bits) - 1)) * bytes;
                let mut entry = memory.read(at, bytes as usize);
                entry.resize(8, 0);
                let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
                if entry & 1 != 0 {
                    return entry & 0x000f_ffff_ffff_f000;
                }
                let new = frames.take(1);
                memory.put(at, &(new | ENTRY).to_le_bytes()[..bytes as usize]);
                new
            },
        )
    }

    fn entry_bytes(&self) -> u64 {
        if self.mode == Mode::Legacy { 4 } else { 8 }
    }

    /// Where a linear address leads.
    pub fn physical(&self, linear: u64) -> u64 {
        self.mapped[&(linear / PAGE)] + linear % PAGE
    }

    /// Puts bytes at a linear address.
    pub fn put(&self, memory: &mut Memory, linear: u64, bytes: &[u8]) {
        for (at, byte) in (linear..).zip(bytes) {
            memory.put(self.physical(at), &[*byte]);
        }
    }

    /// All pages that it leads to: linear page number, physical address.
    pub fn mapped(&self) -> &BTreeMap<u64, u64> {
        &self.mapped
    }
}
