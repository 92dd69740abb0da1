//! The translation lookaside buffer of one address space at one privilege class.
//!
//! Three direct-mapped tables: loads, stores, fetches. An entry holds what a walk found, so that a
//! hit costs a compare and an add. What makes a hit legal is kept by others: see
//! [`super::coherence`].

/// Slots of each table; a power of two.
pub(crate) const SLOTS: usize = 4096;

/// Pages with watched bytes that are remembered at a time; a power of two.
const WATCHED_SLOTS: usize = 64;

/// The slot of a linear address.
#[inline(always)]
pub(crate) const fn slot_of(linear: u64) -> usize {
    (linear >> 12) as usize & (SLOTS - 1)
}

/// A tag that no address probing `slot` can match: it belongs to another slot, so `linear ^ tag`
/// has a bit above the page offset set.
const fn empty_tag(slot: usize) -> u64 {
    ((slot ^ 1) as u64) << 12
}

/// One translation: `linear ^ tag` is the offset in the page, or more than 4095 on a miss.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// The linear address of the page.
    pub(crate) tag: u64,
    /// Its host address (loads and stores) or its guest physical address (fetches).
    pub(crate) page: u64,
}

const fn watched_slot(linear: u64) -> usize {
    (linear >> 12) as usize & (WATCHED_SLOTS - 1)
}

/// Entries whose tags belong to other slots.
const EMPTY_WATCHED: [[Entry; WATCHED_SLOTS]; 2] = {
    let mut entries = [Entry { tag: 0, page: 0 }; WATCHED_SLOTS];
    let mut slot = 0;
    while slot < WATCHED_SLOTS {
        entries[slot].tag = empty_tag(slot);
        slot += 1;
    }
    [entries; 2]
};

/// The translations of data in one slot, next to each other: who loads from a page mostly stores too.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Data {
    pub(crate) read: Entry,
    pub(crate) write: Entry,
}

/// The tables of one address space at one privilege class.
#[repr(C)]
pub(crate) struct Tlb {
    /// First, so that host code finds it without a displacement.
    pub(crate) data: [Data; SLOTS],
    pub(crate) fetch: [Entry; SLOTS],
    /// Pages that may be stored to, by the slow path only: `page` is guest physical.
    pub(crate) kept: [Entry; SLOTS],
    /// For host code: `page` is the address of the entry points in the physical page.
    /// Apart from the other tables: data must not displace it.
    pub(crate) code: [Entry; SLOTS],
    /// The decoding mode that those are of.
    code_mode: u8,
    /// Slots of `code` that were filled since it was last forgotten.
    code_filled: Vec<u16>,
    is_code_filled: [bool; SLOTS],
    /// Slots of which at least one table holds an entry, oldest first.
    filled: Vec<u16>,
    is_filled: [bool; SLOTS],
    /// Slots filled for the lower half of the address space since it was last forgotten.
    lower: Vec<u16>,
    is_lower: [bool; SLOTS],
    /// Pages that a debugger watches, for the slow path only: loads, stores. Whenever anything is
    /// forgotten, all of them are.
    watched: [[Entry; WATCHED_SLOTS]; 2],
    any_watched: bool,
}

/// Whether a linear address lies in the lower half of a 48-bit address space.
#[inline(always)]
pub(crate) const fn is_lower_half(linear: u64) -> bool {
    linear >> 47 & 1 == 0
}

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Read,
    Write,
    Fetch,
    Kept,
}

const TABLES: [Table; 4] = [Table::Read, Table::Write, Table::Fetch, Table::Kept];

impl Tlb {
    /// An empty one, on the heap.
    pub(crate) fn new() -> Box<Tlb> {
        let empty: [Entry; SLOTS] =
            std::array::from_fn(|slot| Entry { tag: empty_tag(slot), page: 0 });
        Box::new(Tlb {
            data: std::array::from_fn(|slot| Data { read: empty[slot], write: empty[slot] }),
            fetch: empty,
            kept: empty,
            code: empty,
            code_mode: 0,
            code_filled: Vec::new(),
            is_code_filled: [false; SLOTS],
            filled: Vec::new(),
            is_filled: [false; SLOTS],
            lower: Vec::new(),
            is_lower: [false; SLOTS],
            watched: EMPTY_WATCHED,
            any_watched: false,
        })
    }

    /// Enters a translation for the slow path.
    pub(crate) fn fill_watched(&mut self, write: bool, linear: u64, page: u64) {
        let tag = linear & !0xfff;
        self.watched[usize::from(write)][watched_slot(linear)] = Entry { tag, page };
        self.any_watched = true;
    }

    /// The entry that may know a page with watched bytes, for loads or for stores.
    pub(crate) fn watched(&self, write: bool, linear: u64) -> &Entry {
        &self.watched[usize::from(write)][watched_slot(linear)]
    }

    pub(crate) fn forget_watched(&mut self) {
        if self.any_watched {
            self.watched = EMPTY_WATCHED;
            self.any_watched = false;
        }
    }

    fn entry(&mut self, table: Table, slot: usize) -> &mut Entry {
        match table {
            Table::Read => &mut self.data[slot].read,
            Table::Write => &mut self.data[slot].write,
            Table::Fetch => &mut self.fetch[slot],
            Table::Kept => &mut self.kept[slot],
        }
    }

    /// Enters a translation. At most `capacity` slots stay in use; the oldest gives way.
    pub(crate) fn fill(&mut self, table: Table, linear: u64, page: u64, capacity: usize) {
        let slot = slot_of(linear);
        let tag = linear & !0xfff;
        // Another page's entries in this slot go, so that a slot speaks of one page.
        if self.is_filled[slot] {
            for table in TABLES {
                if self.entry(table, slot).tag != tag {
                    self.entry(table, slot).tag = empty_tag(slot);
                }
            }
        } else {
            if self.filled.len() >= capacity {
                let oldest = usize::from(self.filled.remove(0));
                self.empty_slot(oldest);
            }
            self.filled.push(slot as u16);
            self.is_filled[slot] = true;
        }
        *self.entry(table, slot) = Entry { tag, page };
    }

    /// As [`Tlb::fill`], remembering what [`Tlb::forget_lower_half`] must forget.
    pub(crate) fn fill_shared(&mut self, table: Table, linear: u64, page: u64, capacity: usize) {
        self.fill(table, linear, page, capacity);
        let slot = slot_of(linear);
        if is_lower_half(linear) && !self.is_lower[slot] {
            self.is_lower[slot] = true;
            self.lower.push(slot as u16);
        }
    }

    /// Forgets the lower half of the address space.
    pub(crate) fn forget_lower_half(&mut self) {
        self.forget_watched();
        for slot in std::mem::take(&mut self.lower) {
            let slot = usize::from(slot);
            self.is_lower[slot] = false;
            for table in TABLES {
                if is_lower_half(self.entry(table, slot).tag) {
                    self.entry(table, slot).tag = empty_tag(slot);
                }
            }
        }
        for &slot in &self.code_filled {
            let slot = usize::from(slot);
            if is_lower_half(self.code[slot].tag) {
                self.code[slot].tag = empty_tag(slot);
            }
        }
    }

    fn empty_slot(&mut self, slot: usize) {
        self.is_filled[slot] = false;
        for table in TABLES {
            self.entry(table, slot).tag = empty_tag(slot);
        }
    }

    /// Forgets one page.
    pub(crate) fn forget(&mut self, linear: u64) {
        self.forget_watched();
        let (slot, tag) = (slot_of(linear), linear & !0xfff);
        // Most TLBs know nothing of most pages: that is told by less memory than the tables are.
        if self.is_filled[slot] {
            for table in TABLES {
                if self.entry(table, slot).tag == tag {
                    self.entry(table, slot).tag = empty_tag(slot);
                }
            }
        }
        if self.is_code_filled[slot] && self.code[slot].tag == tag {
            self.code[slot].tag = empty_tag(slot);
        }
    }

    /// Forgets everything.
    pub(crate) fn forget_all(&mut self) {
        self.forget_watched();
        for slot in std::mem::take(&mut self.lower) {
            self.is_lower[usize::from(slot)] = false;
        }
        for slot in std::mem::take(&mut self.filled) {
            self.empty_slot(usize::from(slot));
        }
        self.forget_code();
    }

    /// Forgets where host code is.
    pub(crate) fn forget_code(&mut self) {
        for slot in std::mem::take(&mut self.code_filled) {
            let slot = usize::from(slot);
            self.is_code_filled[slot] = false;
            self.code[slot].tag = empty_tag(slot);
        }
    }

    /// Enters where the host code of a page is.
    pub(crate) fn fill_code(&mut self, linear: u64, entry_points: u64) {
        let slot = slot_of(linear);
        if !self.is_code_filled[slot] {
            self.is_code_filled[slot] = true;
            self.code_filled.push(slot as u16);
        }
        self.code[slot] = Entry { tag: linear & !0xfff, page: entry_points };
    }

    /// Forgets where host code is unless it is of this mode.
    pub(crate) fn choose_code_mode(&mut self, mode: u8) {
        if self.code_mode != mode {
            self.code_mode = mode;
            self.forget_code();
        }
    }

    /// Forgets the right to store anywhere.
    pub(crate) fn forget_writes(&mut self) {
        self.forget_watched();
        for slot in 0..self.filled.len() {
            let slot = usize::from(self.filled[slot]);
            self.data[slot].write.tag = empty_tag(slot);
            self.kept[slot].tag = empty_tag(slot);
        }
    }

    /// Forgets the right to store to the page at this host address through one slot.
    pub(crate) fn forget_write_in_slot(&mut self, slot: usize, host_page: u64) {
        self.forget_watched();
        if self.data[slot].write.page == host_page {
            self.data[slot].write.tag = empty_tag(slot);
        }
    }

    /// Forgets the right to store to the page at this host address, wherever it is mapped.
    pub(crate) fn forget_write_to(&mut self, host_page: u64) {
        self.forget_watched();
        for index in 0..self.filled.len() {
            let slot = usize::from(self.filled[index]);
            self.forget_write_in_slot(slot, host_page);
        }
    }

    /// Pages in use: the linear addresses of all entries, for forgetting ranges.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        let held = |entry: Entry, slot: usize| (slot_of(entry.tag) == slot).then_some(entry.tag);
        let data = self.filled.iter().flat_map(move |&slot| {
            let slot = usize::from(slot);
            let Data { read, write } = self.data[slot];
            [read, write, self.fetch[slot], self.kept[slot]].map(|entry| held(entry, slot))
        });
        let code = self.code_filled.iter().map(move |&slot| {
            let slot = usize::from(slot);
            held(self.code[slot], slot)
        });
        data.chain(code).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(entry: Entry, linear: u64) -> Option<u64> {
        let offset = linear ^ entry.tag;
        (offset < 4096).then_some(entry.page + offset)
    }

    fn read(tlb: &Tlb, linear: u64) -> Option<u64> {
        hit(tlb.data[slot_of(linear)].read, linear)
    }

    fn write(tlb: &Tlb, linear: u64) -> Option<u64> {
        hit(tlb.data[slot_of(linear)].write, linear)
    }

    #[test]
    fn an_empty_table_hits_nothing() {
        let tlb = Tlb::new();
        for linear in [0, 0xfff, 0x1000, u64::MAX, 1 << 63, (SLOTS as u64) << 12] {
            assert_eq!(read(&tlb, linear), None);
        }
    }

    #[test]
    fn capacity_one_holds_one_page() {
        let mut tlb = Tlb::new();
        tlb.fill(Table::Read, 0x5123, 0xa000, 1);
        assert_eq!(read(&tlb, 0x5678), Some(0xa678));
        tlb.fill(Table::Write, 0x6000, 0xb000, 1);
        assert_eq!(read(&tlb, 0x5678), None);
        assert_eq!(write(&tlb, 0x6001), Some(0xb001));
        tlb.forget_all();
        assert_eq!(write(&tlb, 0x6001), None);
    }

    #[test]
    fn a_slot_speaks_of_one_page() {
        let mut tlb = Tlb::new();
        let alias = 0x5000 + ((SLOTS as u64) << 12);
        tlb.fill(Table::Read, 0x5000, 0xa000, SLOTS);
        tlb.fill(Table::Write, alias, 0xb000, SLOTS);
        assert_eq!(read(&tlb, 0x5000), None);
        assert_eq!(write(&tlb, alias), Some(0xb000));
        assert_eq!(tlb.pages().collect::<Vec<_>>(), [alias]);
    }
}
