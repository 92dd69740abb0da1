//! What keeps cached translations equal to what a walk would find now.
//!
//! A TLB is visible to the guest: through accessed and dirty bits that are not set again while an
//! entry lives, and through entries that outlive their tables. Results would then depend on the
//! TLB's size and on every flush. Ours behaves as if each access walked the tables, by three rules:
//!
//! 1. A page from which a translation was derived is flagged `PAGE_TABLE`, and stores to flagged
//!    pages take the slow path. For each such page [`TableUse`] remembers which entries were used;
//!    a store to a used entry drops what was derived from it.
//! 2. A store entry exists only for a page that is dirty in this epoch, holds no decoded code and is
//!    no page table. Whoever gives a page such a role takes store entries away ([`Mmu::revoke_writes`]).
//! 3. Control-register changes that alter walks drop everything; MOV CR3 merely selects another
//!    address space, whose entries stayed true by rule 1. INVLPG has nothing to do.
//!
//! The kernel's half of the address space is the same in every process, so spaces whose PML4s have
//! equal upper halves share one supervisor TLB ([`Supervisor`]). Rule 1 holds for it because every
//! upper entry of a sharing PML4 counts as used: a store to one makes its space leave.
//!
//! Entries that were not present, or not usable, are never cached, so making an entry present needs
//! no work: the common page fault costs one slow store.

use super::tlb::{SLOTS, Table, Tlb, slot_of};
use super::walk::Walk;
use dejavm_memory::{GuestRam, PageFlags};
use dejavm_units::{Gpa, Pfn};

/// Address spaces kept at a time, at most.
pub(crate) const SPACES: usize = 24;
/// Those of one vCPU. Each of several more is in another, and returns to it when its turn comes.
const SPACES_OF_ONE: usize = 8;
const SPACES_OF_ANOTHER: usize = 2;

/// How a page was used as a page table.
struct TableUse {
    pfn: Pfn,
    /// 1 for a page table, up to 4 for a PML4.
    level: u8,
    /// Bytes of an entry: 4 or 8.
    entry_size: u8,
    /// The linear address that its first entry maps.
    base: u64,
    /// Used at two levels or for two linear addresses: `base` tells nothing.
    ambiguous: bool,
    /// Bit n: entry n was used since it was last dropped.
    used: [u64; 16],
    /// Stores in a row while none was used.
    idle_stores: u8,
}

/// Stores after which a page in which no entry is used is no page table any more. A kernel that changes the
/// protection of a few pages stores to all of their entries, and they are used again soon; one that tears
/// an address space down goes on storing.
const IDLE_STORES_MAX: u8 = 2;

impl TableUse {
    fn new(pfn: Pfn, level: u8, entry_size: u8, linear: u64) -> TableUse {
        let fresh = TableUse {
            pfn,
            level,
            entry_size,
            base: 0,
            ambiguous: false,
            used: [0; 16],
            idle_stores: 0,
        };
        TableUse { base: fresh.base_for(linear), ..fresh }
    }

    fn is_unused(&self) -> bool {
        self.used == [0; 16]
    }

    /// The linear address that the first entry of the table maps, when it is used for `linear`.
    fn base_for(&self, linear: u64) -> u64 {
        let mapped = self.span() * (4096 >> self.entry_size.trailing_zeros());
        // Both halves of a 48-bit address space hang off one PML4.
        linear & 0xffff_ffff_ffff & !(mapped - 1)
    }

    /// The linear address that entry `bit` maps.
    fn start_of(&self, bit: usize) -> u64 {
        let linear = self.base + bit as u64 * self.span();
        ((linear << 16) as i64 >> 16) as u64
    }

    /// Bytes of linear address space that one entry maps.
    fn span(&self) -> u64 {
        let index_bits = if self.entry_size == 8 { 9 } else { 10 };
        1 << (12 + index_bits * (u32::from(self.level) - 1))
    }
}

/// One CR3 value's translations.
struct Space {
    cr3: u64,
    /// The page-directory-pointer entries that PAE paging latched with it.
    pdpte: [u64; 4],
    /// The PML4, if it shares a supervisor TLB by its upper half (4-level paging).
    root: Option<Pfn>,
    /// When it was last selected; the least recent gives way.
    last_use: u64,
    /// Index in `Mmu::supervisors`.
    supervisor: usize,
    user: Box<Tlb>,
}

/// A supervisor TLB and the spaces that share it.
struct Supervisor {
    tlb: Box<Tlb>,
    members: usize,
    /// The space that used it last: whose lower half it may hold.
    last: usize,
}

/// [`Space::cr3`] of a space that must not be selected again; no CR3 value, as those are masked.
const GONE: u64 = 1;

/// What [`Mmu::select`] selected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selected {
    /// Number of the space, below [`SPACES`].
    pub(crate) space: usize,
    /// Number of its supervisor TLB, below [`SPACES`].
    pub(crate) supervisor: usize,
    /// The space was emptied: jumps made in it mean nothing.
    pub(crate) space_emptied: bool,
    /// So was its supervisor TLB.
    pub(crate) supervisor_emptied: bool,
    /// The supervisor TLB served another space before: its lower half was forgotten.
    pub(crate) lower_half_changed: bool,
}

/// How the TLB is sized and disturbed, and what executes: host-side choices that no guest can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Slots in use at most, 1 to 4096.
    pub tlb_slots: usize,
    /// Forget all translations at pseudo-random moments (about one fill in 64), seeded: for tests.
    pub flush_seed: Option<u64>,
    /// What executes.
    pub engine: Engine,
    /// Entries of a block before it is translated.
    pub translate_after: u8,
    /// Interpret translated blocks at pseudo-random moments (one entry in four), seeded: for tests.
    pub mix_seed: Option<u64>,
    /// Bytes of host memory for translated code, at least 128 KiB; when they are used up, all of it is
    /// dropped. Counts until the first translation.
    pub code_bytes: usize,
}

/// What executes instructions. All do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The reference semantics, one instruction at a time, without decoded blocks: slow.
    Reference,
    /// The interpreter of decoded blocks.
    Interpreter,
    /// Host code for blocks that run often, the interpreter for the rest.
    Translator,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            tlb_slots: SLOTS,
            flush_seed: None,
            engine: Engine::Translator,
            translate_after: 1,
            mix_seed: None,
            code_bytes: 96 << 20,
        }
    }
}

/// All cached translations of a CPU.
pub(crate) struct Mmu {
    tuning: Tuning,
    random: u64,
    /// As many spaces are kept.
    spaces_max: usize,
    spaces: Vec<Space>,
    supervisors: Vec<Supervisor>,
    current: usize,
    clock: u64,
    /// RAM page index to index in `tables` plus one; zero for pages that are no tables.
    table_of_page: Vec<u32>,
    tables: Vec<TableUse>,
    free_tables: Vec<u32>,
    /// Where store entries for a RAM page may be: zero for nowhere, slot plus one, or `MANY_SLOTS`.
    write_slot: Vec<u16>,
    /// Physical addresses are ANDed with this: the A20 gate.
    address_mask: u64,
    /// The RAM that all this was derived from.
    ram_identity: u64,
    /// The RAM epoch in which store entries were made.
    epoch: u64,
}

const MANY_SLOTS: u16 = u16::MAX;

impl Mmu {
    pub(crate) fn new() -> Mmu {
        Mmu {
            tuning: Tuning::default(),
            random: 0,
            spaces_max: SPACES_OF_ONE,
            spaces: Vec::new(),
            supervisors: Vec::new(),
            current: 0,
            clock: 0,
            table_of_page: Vec::new(),
            tables: Vec::new(),
            free_tables: Vec::new(),
            write_slot: Vec::new(),
            address_mask: u64::MAX,
            ram_identity: 0,
            epoch: 0,
        }
    }

    /// Makes room for so many vCPUs.
    pub(crate) fn serve(&mut self, processors: u8) {
        let others = usize::from(processors.saturating_sub(1));
        self.spaces_max = SPACES.min(SPACES_OF_ONE + SPACES_OF_ANOTHER * others);
    }

    pub(crate) fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = Tuning { tlb_slots: tuning.tlb_slots.clamp(1, SLOTS), ..tuning };
        self.random = tuning.flush_seed.unwrap_or(0) | 1;
    }

    /// As set.
    pub(crate) fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Tells a TLB which mode its code entries must be of.
    pub(crate) fn choose_code_entries(&mut self, user: bool, mode: u8) {
        self.tlb(user).choose_code_mode(mode);
    }

    /// Enters where the host code of a linear page is.
    pub(crate) fn fill_code(&mut self, user: bool, linear: u64, entry_points: u64) {
        self.tlb(user).fill_code(linear, entry_points);
    }

    /// Forgets where host code is.
    pub(crate) fn forget_code_entries(&mut self) {
        self.each_tlb().for_each(Tlb::forget_code);
    }

    /// Sizes the per-page tables for a machine's RAM. Returns whether it is another RAM than before:
    /// then [`Mmu::forget_all`] must follow.
    pub(crate) fn attach(&mut self, ram: &GuestRam) -> bool {
        if self.ram_identity == ram.identity() {
            return false;
        }
        self.ram_identity = ram.identity();
        let pages = (ram.layout().total_bytes() >> 12) as usize;
        self.table_of_page = vec![0; pages];
        self.write_slot = vec![0; pages];
        true
    }

    /// Follows the A20 gate. [`Mmu::forget_all`] must follow.
    pub(crate) fn set_address_mask(&mut self, mask: u64) {
        self.address_mask = mask;
    }

    /// Selects the address space of a CR3 value (any constant while paging is off). `root` is its
    /// PML4 under 4-level paging.
    pub(crate) fn select(
        &mut self,
        ram: &mut GuestRam,
        cr3: u64,
        pdpte: [u64; 4],
        root: Option<Pfn>,
    ) -> Selected {
        self.clock += 1;
        let known = self.spaces.iter().position(|space| space.cr3 == cr3);
        let mut space_emptied = known.is_none();
        let mut supervisor_emptied = false;
        self.current = match known {
            Some(known) => known,
            None => {
                let (space, fresh) = self.claim(ram, cr3, root);
                supervisor_emptied = fresh;
                space
            }
        };
        let (current, supervisor) = (self.current, self.spaces[self.current].supervisor);
        let space = &mut self.spaces[current];
        space.last_use = self.clock;
        if space.pdpte != pdpte {
            space.pdpte = pdpte;
            space.user.forget_all();
            self.supervisors[supervisor].tlb.forget_all();
            (space_emptied, supervisor_emptied) = (true, true);
        }
        let shared = &mut self.supervisors[supervisor];
        let lower_half_changed = shared.last != current;
        if lower_half_changed {
            shared.last = current;
            shared.tlb.forget_lower_half();
        }
        let space = current;
        Selected { space, supervisor, space_emptied, supervisor_emptied, lower_half_changed }
    }

    /// Makes a space for a CR3 value. Says whether its supervisor TLB is a fresh one.
    fn claim(&mut self, ram: &mut GuestRam, cr3: u64, root: Option<Pfn>) -> (usize, bool) {
        let at = if self.spaces.len() < self.spaces_max {
            let user = Tlb::new();
            let supervisor = usize::MAX;
            let space =
                Space { cr3: GONE, pdpte: [0; 4], root: None, last_use: 0, supervisor, user };
            self.spaces.push(space);
            self.spaces.len() - 1
        } else {
            let oldest = (0..self.spaces.len()).min_by_key(|&n| self.spaces[n].last_use);
            let oldest = oldest.expect("some space is kept");
            self.leave(oldest);
            oldest
        };
        let root = root.filter(|&root| is_upper_half_accessed(ram, root));
        let root = root.filter(|&root| self.note_root(ram, root));
        let companion = root.and_then(|root| self.companion_of(ram, root));
        let (supervisor, fresh) = match companion {
            Some(supervisor) => (supervisor, false),
            None => (self.free_supervisor(), true),
        };
        self.supervisors[supervisor].members += 1;
        if fresh {
            self.supervisors[supervisor].last = at;
        }
        let space = &mut self.spaces[at];
        (space.cr3, space.root, space.supervisor) = (cr3, root, supervisor);
        (at, fresh)
    }

    /// Empties a space; it will not be selected again.
    fn leave(&mut self, at: usize) {
        let space = &mut self.spaces[at];
        (space.cr3, space.root, space.last_use) = (GONE, None, 0);
        space.user.forget_all();
        let supervisor = std::mem::replace(&mut space.supervisor, usize::MAX);
        if let Some(shared) = self.supervisors.get_mut(supervisor) {
            shared.members -= 1;
            if shared.last == at {
                shared.last = usize::MAX;
                shared.tlb.forget_lower_half();
            }
        }
    }

    /// A supervisor TLB that nobody uses, emptied.
    fn free_supervisor(&mut self) -> usize {
        match self.supervisors.iter().position(|shared| shared.members == 0) {
            Some(free) => {
                self.supervisors[free].tlb.forget_all();
                free
            }
            None => {
                self.supervisors.push(Supervisor { tlb: Tlb::new(), members: 0, last: usize::MAX });
                self.supervisors.len() - 1
            }
        }
    }

    /// The supervisor TLB of a space whose PML4 has the same upper half.
    fn companion_of(&self, ram: &GuestRam, root: Pfn) -> Option<usize> {
        const UPPER: usize = 2048;
        let upper = |pfn: Pfn| {
            let mut bytes = [0u8; UPPER];
            ram.read(Gpa(pfn.gpa().0 + UPPER as u64), &mut bytes).ok().map(|()| bytes)
        };
        let own = upper(root)?;
        self.spaces
            .iter()
            .find(|space| space.root.is_some_and(|other| upper(other) == Some(own)))
            .map(|space| space.supervisor)
    }

    /// Makes every upper entry of a PML4 count as used, so that stores to them are noticed. `false`
    /// if the page serves other purposes too.
    fn note_root(&mut self, ram: &mut GuestRam, root: Pfn) -> bool {
        const FIRST_UPPER_ENTRY: u64 = 256 * 8;
        const UPPER_HALF: u64 = 0xffff_8000_0000_0000;
        let entry = Gpa(root.gpa().0 + FIRST_UPPER_ENTRY);
        self.note_use(ram, entry, 4, 8, UPPER_HALF);
        let Some(index) = self.table_at(ram, root.gpa()) else { return false };
        let table = &mut self.tables[index];
        table.used[4..8].fill(u64::MAX);
        !table.ambiguous
    }

    /// Before a store to upper entries of a PML4: whoever shares by them leaves. Returns whether the
    /// table's uses are all forgotten with that.
    fn part_company(&mut self, index: usize) -> bool {
        let root = self.tables[index].pfn;
        let Some(owner) = self.spaces.iter().position(|space| space.root == Some(root)) else {
            return false;
        };
        if owner != self.current {
            self.leave(owner);
            self.tables[index].used = [0; 16];
            return true;
        }
        let supervisor = self.spaces[owner].supervisor;
        for other in 0..self.spaces.len() {
            if other != owner && self.spaces[other].supervisor == supervisor {
                self.leave(other);
            }
        }
        self.spaces[owner].root = None;
        false
    }

    /// The TLB of the current space for one privilege class.
    pub(crate) fn tlb(&mut self, user: bool) -> &mut Tlb {
        let space = &mut self.spaces[self.current];
        if user { &mut space.user } else { &mut self.supervisors[space.supervisor].tlb }
    }

    fn each_tlb(&mut self) -> impl Iterator<Item = &mut Tlb> {
        let users = self.spaces.iter_mut().map(|space| &mut *space.user);
        self.supervisors.iter_mut().map(|shared| &mut *shared.tlb).chain(users)
    }

    /// Forgets everything that was derived from page tables. [`Mmu::select`] must follow.
    pub(crate) fn forget_all(&mut self, ram: &mut GuestRam) {
        self.spaces.clear();
        self.supervisors.clear();
        self.tables.clear();
        self.free_tables.clear();
        self.table_of_page.fill(0);
        ram.clear_flags_everywhere(PageFlags::PAGE_TABLE);
    }

    /// Gives up store entries if the RAM's epoch ended since they were made.
    pub(crate) fn follow_epoch(&mut self, ram: &GuestRam) {
        if self.epoch != ram.epoch() {
            self.epoch = ram.epoch();
            self.each_tlb().for_each(Tlb::forget_writes);
            self.write_slot.fill(0);
        }
    }

    /// Records which table entries a walk used.
    pub(crate) fn note_walk(&mut self, ram: &mut GuestRam, linear: u64, walk: &Walk) {
        for step in walk.steps.into_iter().flatten() {
            self.note_use(ram, step.entry, step.level, walk.entry_size, linear);
        }
    }

    /// Enters a translation. `page` is what the table wants: a host or a guest physical address.
    pub(crate) fn fill(
        &mut self,
        ram: &GuestRam,
        table: Table,
        user: bool,
        linear: u64,
        page: u64,
        pfn: Pfn,
    ) {
        if self.tuning.flush_seed.is_some() {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if self.random.is_multiple_of(64) {
                self.each_tlb().for_each(Tlb::forget_all);
            }
        }
        if table == Table::Write {
            self.note_writable(ram, linear, pfn);
        }
        let capacity = self.tuning.tlb_slots;
        if user {
            self.tlb(true).fill(table, linear, page, capacity);
        } else {
            self.tlb(false).fill_shared(table, linear, page, capacity);
        }
    }

    /// Enters a translation of a page with watched bytes, for the slow path only.
    pub(crate) fn fill_watched(
        &mut self,
        ram: &GuestRam,
        write: bool,
        user: bool,
        linear: u64,
        page: u64,
        pfn: Pfn,
    ) {
        if write {
            self.note_writable(ram, linear, pfn);
        }
        self.tlb(user).fill_watched(write, linear, page);
    }

    /// Remembers where the right to store to a page is kept.
    fn note_writable(&mut self, ram: &GuestRam, linear: u64, pfn: Pfn) {
        let slot = slot_of(linear) as u16 + 1;
        let known = &mut self.write_slot[ram_index(ram, pfn)];
        *known = if *known == 0 || *known == slot { slot } else { MANY_SLOTS };
    }

    fn note_use(&mut self, ram: &mut GuestRam, entry: Gpa, level: u8, entry_size: u8, linear: u64) {
        let pfn = entry.pfn();
        let Some(offset) = ram.layout().offset(pfn.gpa()) else { return };
        let page = (offset >> 12) as usize;
        // A power of two.
        let bit = entry.page_offset() as usize >> entry_size.trailing_zeros();
        let mut slot = self.table_of_page[page];
        if slot == 0 {
            let fresh = TableUse::new(pfn, level, entry_size, linear);
            let index = match self.free_tables.pop() {
                Some(index) => {
                    self.tables[index as usize] = fresh;
                    index
                }
                None => {
                    self.tables.push(fresh);
                    self.tables.len() as u32 - 1
                }
            };
            slot = index + 1;
            self.table_of_page[page] = slot;
            self.revoke_writes(ram, pfn);
            ram.set_flags(pfn, PageFlags::PAGE_TABLE);
        }
        let table = &mut self.tables[slot as usize - 1];
        if table.idle_stores > 0 && table.is_unused() {
            *table = TableUse::new(pfn, level, entry_size, linear);
        } else if table.level != level
            || table.entry_size != entry_size
            || table.base != table.base_for(linear)
        {
            table.ambiguous = true;
        }
        table.used[bit / 64] |= 1 << (bit % 64);
    }

    /// Takes away every right to store to a page without asking.
    pub(crate) fn revoke_writes(&mut self, ram: &GuestRam, pfn: Pfn) {
        let index = ram_index(ram, pfn);
        let host = ram.host_page(pfn).expect("only RAM is stored to without asking") as u64;
        match std::mem::take(&mut self.write_slot[index]) {
            0 => {}
            MANY_SLOTS => self.each_tlb().for_each(|tlb| tlb.forget_write_to(host)),
            slot => {
                let slot = usize::from(slot - 1);
                self.each_tlb().for_each(|tlb| tlb.forget_write_in_slot(slot, host));
            }
        }
    }

    /// Whether a store of `size` bytes at `gpa` (within one page) would drop what the translation
    /// of the linear page `page` was derived from.
    pub(crate) fn store_would_drop(&self, ram: &GuestRam, gpa: Gpa, size: u64, page: u64) -> bool {
        let Some(table) = self.table_at(ram, gpa).map(|index| &self.tables[index]) else {
            return false;
        };
        if table.ambiguous {
            return !table.is_unused();
        }
        entries_of(table, gpa, size).any(|bit| {
            table.used[bit / 64] & 1 << (bit % 64) != 0
                && page.wrapping_sub(table.start_of(bit)) < table.span()
        })
    }

    fn table_at(&self, ram: &GuestRam, gpa: Gpa) -> Option<usize> {
        let offset = ram.layout().offset(gpa)?;
        (self.table_of_page[(offset >> 12) as usize] as usize).checked_sub(1)
    }

    /// Drops what was derived from the entries that a store of `size` bytes at `gpa` is about to
    /// change, and lifts the page's flag if nothing derived from it is left. `forgotten` is told the
    /// linear page of each translation dropped, or `None` for "any": jumps there must be forgotten
    /// too, and they may outlive the TLB entry that they were made from.
    pub(crate) fn before_table_store(
        &mut self,
        ram: &mut GuestRam,
        gpa: Gpa,
        size: u64,
        mut forgotten: impl FnMut(Option<u64>),
    ) {
        let Some(index) = self.table_at(ram, gpa) else { return };
        let upper = |bit: usize| bit >= 256 && self.tables[index].level == 4;
        // An ambiguous table loses all its uses below, those of a shared upper half included.
        let ambiguous = self.tables[index].ambiguous;
        let shared = ambiguous || entries_of(&self.tables[index], gpa, size).any(upper);
        let parted = shared && self.part_company(index);
        if parted {
            forgotten(None);
        }
        let table = &self.tables[index];
        if table.ambiguous && !table.is_unused() {
            self.each_tlb().for_each(Tlb::forget_all);
            forgotten(None);
            self.tables[index].used = [0; 16];
        } else {
            for bit in entries_of(table, gpa, size) {
                let table = &mut self.tables[index];
                if table.used[bit / 64] & 1 << (bit % 64) == 0 {
                    continue;
                }
                table.used[bit / 64] &= !(1 << (bit % 64));
                let (start, span) = (table.start_of(bit), table.span());
                if table.level == 1 {
                    self.each_tlb().for_each(|tlb| tlb.forget(start));
                    forgotten(Some(start));
                } else if !self.lower_table_is_unused(ram, &self.tables[index], bit) {
                    self.forget_range(start, span);
                    forgotten(None);
                }
            }
        }
        let table = &mut self.tables[index];
        if !table.is_unused() {
            table.idle_stores = 0;
        } else if table.idle_stores < IDLE_STORES_MAX {
            table.idle_stores += 1;
        } else {
            let page = ram_index(ram, gpa.pfn());
            self.table_of_page[page] = 0;
            self.free_tables.push(index as u32);
            ram.clear_flags(gpa.pfn(), PageFlags::PAGE_TABLE);
        }
    }

    /// Whether the table that entry `bit` points to has nothing derived through it any more: the
    /// usual case when an address space is torn down, bottom first.
    fn lower_table_is_unused(&self, ram: &GuestRam, table: &TableUse, bit: usize) -> bool {
        let size = usize::from(table.entry_size);
        let mut bytes = [0; 8];
        let entry = Gpa(table.pfn.gpa().0 + (bit * size) as u64);
        if ram.read(entry, &mut bytes[..size]).is_err() {
            return false;
        }
        let old = u64::from_le_bytes(bytes);
        const PRESENT: u64 = 1;
        const LARGE: u64 = 1 << 7;
        if old & PRESENT == 0 || old & LARGE != 0 {
            return false;
        }
        match self.table_at(ram, Gpa(old & 0xf_ffff_ffff_f000 & self.address_mask)) {
            Some(lower) => self.tables[lower].is_unused(),
            // Not tracked: it lost its flag because nothing was left.
            None => true,
        }
    }

    /// Forgets the pages that hold the bytes `first ..= last`.
    pub(crate) fn forget_pages(&mut self, first: u64, last: u64) {
        let start = first & !0xfff;
        self.forget_range(start, (last | 0xfff).wrapping_sub(start).saturating_add(1));
    }

    fn forget_range(&mut self, start: u64, bytes: u64) {
        for tlb in self.each_tlb() {
            tlb.forget_watched();
            let inside: Vec<u64> =
                tlb.pages().filter(|page| page.wrapping_sub(start) < bytes).collect();
            for page in inside {
                tlb.forget(page);
            }
        }
    }

    /// Drops what was derived from a page that was written from outside the CPU. Returns whether
    /// anything was.
    pub(crate) fn page_disturbed(&mut self, ram: &mut GuestRam, pfn: Pfn) -> bool {
        if self.table_at(ram, pfn.gpa()).is_none() {
            return false;
        }
        self.forget_all(ram);
        true
    }
}

/// Whether walks through the upper half of a PML4 will set no accessed bit in it. Else spaces cannot
/// share by it: what one has walked, the other must walk too, as each sets its own bits.
fn is_upper_half_accessed(ram: &GuestRam, root: Pfn) -> bool {
    const PRESENT: u64 = 1 << 0;
    const ACCESSED: u64 = 1 << 5;
    (256..512).all(|n| {
        let entry = ram.read_entry(Gpa(root.gpa().0 + n * 8), 8);
        entry.is_some_and(|entry| entry & (PRESENT | ACCESSED) != PRESENT)
    })
}

fn ram_index(ram: &GuestRam, pfn: Pfn) -> usize {
    (ram.layout().offset(pfn.gpa()).expect("the page is RAM") >> 12) as usize
}

/// The entries that bytes `gpa .. gpa + size` overlap.
fn entries_of(table: &TableUse, gpa: Gpa, size: u64) -> std::ops::RangeInclusive<usize> {
    // A power of two.
    let shift = table.entry_size.trailing_zeros();
    let first = gpa.page_offset() >> shift;
    let last = (gpa.page_offset() + size - 1) >> shift;
    first as usize..=last as usize
}
