//! What host code there is of each page: where its blocks are entered, and the jumps between them. Such a
//! jump leads straight to its target while that has host code, to an exit while it has not.

use super::emit::distance;
use super::host::CodeMemory;
use dejavm_units::{Gpa, Pfn};
use std::collections::BTreeMap;

/// Host addresses of blocks, by offset in their page.
pub(super) type EntryPoints = Box<[u32; 4096]>;

/// A jump: where its 32-bit distance lies, and the exit that it takes while it has no target.
#[derive(Clone, Copy)]
pub(super) struct Site {
    pub(super) at: u32,
    pub(super) exit: u32,
    /// There is no jump: the target's code begins where the jump would be. It is overwritten with one when the
    /// target is no more.
    pub(super) falls: bool,
}

impl Site {
    fn lead_to(self, memory: &mut CodeMemory, to: u32) {
        if self.falls {
            const JMP: u8 = 0xe9;
            memory.write(self.at - 1, &[JMP]);
        }
        memory.write(self.at, &distance(self.at, to));
    }
}

/// A jump in a list of those whose targets' offsets have the upper bits in common.
struct Jump {
    site: Site,
    target: u16,
    /// Index plus one of another.
    next: u32,
}

/// log2 of the bytes whose jumps form a list.
const LIST_SHIFT: u32 = 5;

/// A page of code in one mode.
struct Page {
    entry_points: EntryPoints,
    /// Index plus one in `Pages::jumps`, by the target's offset.
    lists: [u32; 4096 >> LIST_SHIFT],
    /// Checks that a linear address leads here: see [`calls`](super::calls).
    gate: Option<u32>,
    /// Where calls from other pages enter, by the block's offset.
    far_entries: BTreeMap<u16, u32>,
}

/// All pages of code.
pub(super) struct Pages {
    /// Open-addressing hash table from pages to indices in `pages` plus one, with linear probing.
    index: Vec<(u64, u32)>,
    pages: Vec<Page>,
    jumps: Vec<Jump>,
    /// The entry point of what has no host code.
    none: u32,
}

impl Pages {
    pub(super) fn new(none: u32) -> Pages {
        Pages { index: vec![(0, 0); 1 << 10], pages: Vec::new(), jumps: Vec::new(), none }
    }

    pub(super) fn clear(&mut self) {
        *self = Pages::new(self.none);
    }

    /// The slot of `index` that a page has, or would get.
    fn slot(&self, pfn: Pfn, mode: u8) -> (usize, u64) {
        let key = pfn.0 << 8 | u64::from(mode);
        let mask = self.index.len() - 1;
        let mut at = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize & mask;
        while self.index[at].1 != 0 && self.index[at].0 != key {
            at = (at + 1) & mask;
        }
        (at, key)
    }

    fn known(&self, pfn: Pfn, mode: u8) -> Option<usize> {
        let (slot, _) = self.slot(pfn, mode);
        (self.index[slot].1 as usize).checked_sub(1)
    }

    /// The index of a page.
    fn page(&mut self, pfn: Pfn, mode: u8) -> usize {
        let (slot, key) = self.slot(pfn, mode);
        if let Some(known) = (self.index[slot].1 as usize).checked_sub(1) {
            return known;
        }
        let entry_points = Box::new([self.none; 4096]);
        self.pages.push(Page {
            entry_points,
            lists: [0; 4096 >> LIST_SHIFT],
            gate: None,
            far_entries: BTreeMap::new(),
        });
        self.index[slot] = (key, self.pages.len() as u32);
        if self.pages.len() * 2 > self.index.len() {
            self.grow();
        }
        self.pages.len() - 1
    }

    fn grow(&mut self) {
        let size = self.index.len() * 4;
        let old = std::mem::replace(&mut self.index, vec![(0, 0); size]);
        for (key, page) in old.into_iter().filter(|&(_, page)| page != 0) {
            let (slot, _) = self.slot(Pfn(key >> 8), key as u8);
            self.index[slot] = (key, page);
        }
    }

    /// A page's entry points, which stay where they are until [`Pages::clear`].
    pub(super) fn entry_points(&mut self, pfn: Pfn, mode: u8) -> &EntryPoints {
        let page = self.page(pfn, mode);
        &self.pages[page].entry_points
    }

    /// The gate of a page, if it has one.
    pub(super) fn gate(&self, pfn: Pfn, mode: u8) -> Option<u32> {
        self.pages[self.known(pfn, mode)?].gate
    }

    pub(super) fn set_gate(&mut self, pfn: Pfn, mode: u8, gate: u32) {
        let page = self.page(pfn, mode);
        self.pages[page].gate = Some(gate);
    }

    /// Where calls from other pages enter a block, if any did.
    pub(super) fn far_entry(&self, start: Gpa, mode: u8) -> Option<u32> {
        let page = self.known(start.pfn(), mode)?;
        self.pages[page].far_entries.get(&(start.page_offset() as u16)).copied()
    }

    pub(super) fn set_far_entry(&mut self, start: Gpa, mode: u8, entry: u32) {
        let page = self.page(start.pfn(), mode);
        self.pages[page].far_entries.insert(start.page_offset() as u16, entry);
    }

    /// The block at `start` has code at `entry`.
    pub(super) fn enter(&mut self, memory: &mut CodeMemory, start: Gpa, mode: u8, entry: u32) {
        let page = self.page(start.pfn(), mode);
        let page = &mut self.pages[page];
        let offset = start.page_offset() as usize;
        page.entry_points[offset] = entry;
        for site in jumps_to(&self.jumps, page, offset) {
            if !(site.falls && site.at - 1 == entry) {
                site.lead_to(memory, entry);
            }
        }
    }

    /// Code of a page has these jumps to offsets there.
    pub(super) fn link(
        &mut self,
        memory: &mut CodeMemory,
        pfn: Pfn,
        mode: u8,
        sites: &[(Site, u16)],
    ) {
        let page = self.page(pfn, mode);
        let page = &mut self.pages[page];
        for &(site, target) in sites {
            let list = &mut page.lists[usize::from(target) >> LIST_SHIFT];
            self.jumps.push(Jump { site, target, next: *list });
            *list = self.jumps.len() as u32;
            let known = page.entry_points[usize::from(target)];
            if known != self.none {
                site.lead_to(memory, known);
            }
        }
    }

    /// The block at `start` is no more: nobody jumps there.
    pub(super) fn retire(&mut self, memory: &mut CodeMemory, start: Gpa, mode: u8) {
        let Some(page) = self.known(start.pfn(), mode) else { return };
        let page = &mut self.pages[page];
        let offset = start.page_offset() as usize;
        page.entry_points[offset] = self.none;
        for site in jumps_to(&self.jumps, page, offset) {
            site.lead_to(memory, site.exit);
        }
    }
}

/// The jumps to an offset.
fn jumps_to(jumps: &[Jump], page: &Page, offset: usize) -> impl Iterator<Item = Site> {
    let find = move |index: u32| jumps.get((index as usize).checked_sub(1)?);
    std::iter::successors(find(page.lists[offset >> LIST_SHIFT]), move |jump| find(jump.next))
        .filter(move |jump| usize::from(jump.target) == offset)
        .map(|jump| jump.site)
}
