//! Loads and stores at linear addresses: the fast path through the TLB, and the slow one.
//!
//! UNSAFETY: a TLB entry holds the host address of a page of guest RAM. Entries are made only by
//! [`Cpu::fill`] from [`GuestRam::host_page`](dejavm_memory::GuestRam::host_page), and all of them
//! are dropped when RAM is lent anew ([`Cpu::attach`]); so while a run lasts, each points to a mapped
//! page of the RAM that is lent. The compare proves that all bytes of the access lie in that page.
//! Guest RAM is never behind a Rust reference, so raw reads and writes alias nothing.
#![expect(unsafe_code, reason = "guest RAM is reached through TLB entries; see UNSAFETY above")]

use super::coherence::SPACES;
use super::tlb::{Entry, Table, Tlb, slot_of};
use super::walk::Access;
use crate::cpu::{Cpu, control};
use crate::exception::Abort;
use dejavm_memory::PageFlags;
use dejavm_units::{Gpa, Pfn};

/// Host pointer for `S` bytes at `linear`, if the entry covers them all.
#[inline(always)]
fn hit<const S: u64>(entry: &Entry, linear: u64) -> Option<*mut u8> {
    let offset = linear ^ entry.tag;
    if offset <= 4096 - S { Some((entry.page + offset) as *mut u8) } else { None }
}

/// Reads `S` bytes (1, 2, 4 or 8).
#[inline(always)]
fn read_host<const S: u64>(pointer: *mut u8) -> u64 {
    // SAFETY: `hit` returned the pointer for `S` bytes; see the module's argument.
    unsafe {
        match S {
            1 => u64::from(pointer.read()),
            2 => u64::from(pointer.cast::<u16>().read_unaligned()),
            4 => u64::from(pointer.cast::<u32>().read_unaligned()),
            _ => pointer.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes `S` bytes (1, 2, 4 or 8).
#[inline(always)]
fn write_host<const S: u64>(pointer: *mut u8, value: u64) {
    // SAFETY: as for `read_host`, with a pointer from a store entry.
    unsafe {
        match S {
            1 => pointer.write(value as u8),
            2 => pointer.cast::<u16>().write_unaligned(value as u16),
            4 => pointer.cast::<u32>().write_unaligned(value as u32),
            _ => pointer.cast::<u64>().write_unaligned(value),
        }
    }
}

/// As [`read_host`], for a size known late.
fn read_host_sized(pointer: *mut u8, size: u32) -> u64 {
    match size {
        1 => read_host::<1>(pointer),
        2 => read_host::<2>(pointer),
        4 => read_host::<4>(pointer),
        _ => read_host::<8>(pointer),
    }
}

/// As [`write_host`], for a size known late.
fn write_host_sized(pointer: *mut u8, value: u64, size: u32) {
    match size {
        1 => write_host::<1>(pointer, value),
        2 => write_host::<2>(pointer, value),
        4 => write_host::<4>(pointer, value),
        _ => write_host::<8>(pointer, value),
    }
}

/// Pages whose stores take the slow path, which drops what was derived from them, or asks the board.
const KEPT: PageFlags = PageFlags::CODE.union(PageFlags::PAGE_TABLE).union(PageFlags::READ_ONLY);

/// A store split at a page boundary: where each piece goes and which bytes it takes.
type Pieces = [(Gpa, usize, usize); 2];

impl Cpu {
    /// The TLB of the current address space and privilege class.
    #[inline(always)]
    fn tlb(&self) -> &Tlb {
        // SAFETY: `tlb` points into a `Box` of `self.mmu`, which keeps it until the space table
        // changes; `select_space` sets it anew then. No reference outlives the call it serves.
        unsafe { &*self.tlb }
    }

    /// Loads `S` bytes at the current privilege level, zero-extended.
    #[inline(always)]
    pub(crate) fn load_sized<const S: u64>(&mut self, linear: u64) -> Result<u64, Abort> {
        match self.load_hit::<S>(linear) {
            Some(value) => Ok(value),
            None => self.load_slow(linear, S as u32),
        }
    }

    /// Stores `S` bytes at the current privilege level.
    #[inline(always)]
    pub(crate) fn store_sized<const S: u64>(
        &mut self,
        linear: u64,
        value: u64,
    ) -> Result<(), Abort> {
        match hit::<S>(&self.tlb().data[slot_of(linear)].write, linear) {
            Some(pointer) => {
                write_host::<S>(pointer, value);
                Ok(())
            }
            None => self.store_slow(linear, value, S as u32),
        }
    }

    /// Replaces `S` bytes by what `change` makes of them; the store is checked before the load.
    #[inline(always)]
    pub(crate) fn modify_linear<const S: u64>(
        &mut self,
        linear: u64,
        change: impl FnOnce(&mut Cpu, u64) -> u64,
    ) -> Result<(), Abort> {
        match hit::<S>(&self.tlb().data[slot_of(linear)].write, linear) {
            Some(pointer) => {
                let new = change(self, read_host::<S>(pointer));
                write_host::<S>(pointer, new);
                Ok(())
            }
            None => {
                self.probe_store(linear, S as u32)?;
                let old = self.load_sized::<S>(linear)?;
                let new = change(self, old);
                self.store_slow(linear, new, S as u32)
            }
        }
    }

    /// Loads `S` bytes if the TLB knows them.
    #[inline(always)]
    pub(crate) fn load_hit<const S: u64>(&self, linear: u64) -> Option<u64> {
        hit::<S>(&self.tlb().data[slot_of(linear)].read, linear).map(read_host::<S>)
    }

    /// Stores `S` bytes if the TLB knows where.
    #[inline(always)]
    pub(crate) fn store_hit<const S: u64>(&mut self, linear: u64, value: u64) -> Option<()> {
        hit::<S>(&self.tlb().data[slot_of(linear)].write, linear)
            .map(|pointer| write_host::<S>(pointer, value))
    }

    /// Replaces `S` bytes by what `change` makes of them, if the TLB knows where.
    #[inline(always)]
    pub(crate) fn modify_hit<const S: u64>(
        &mut self,
        linear: u64,
        change: impl FnOnce(&mut Cpu, u64) -> u64,
    ) -> Option<()> {
        let pointer = hit::<S>(&self.tlb().data[slot_of(linear)].write, linear)?;
        let new = change(self, read_host::<S>(pointer));
        write_host::<S>(pointer, new);
        Some(())
    }

    /// Loads 16 bytes if the TLB knows them.
    #[inline(always)]
    pub(crate) fn load_u128_hit(&self, linear: u64) -> Option<u128> {
        hit::<16>(&self.tlb().data[slot_of(linear)].read, linear)
            // SAFETY: as for `read_host`.
            .map(|pointer| unsafe { pointer.cast::<u128>().read_unaligned() })
    }

    /// Stores 16 bytes if the TLB knows where.
    #[inline(always)]
    pub(crate) fn store_u128_hit(&mut self, linear: u64, value: u128) -> Option<()> {
        hit::<16>(&self.tlb().data[slot_of(linear)].write, linear)
            // SAFETY: as for `write_host`.
            .map(|pointer| unsafe { pointer.cast::<u128>().write_unaligned(value) })
    }

    /// Loads 16 bytes at the current privilege level.
    #[inline(always)]
    pub(crate) fn load_u128(&mut self, linear: u64) -> Result<u128, Abort> {
        match hit::<16>(&self.tlb().data[slot_of(linear)].read, linear) {
            // SAFETY: as for `read_host`.
            Some(pointer) => Ok(unsafe { pointer.cast::<u128>().read_unaligned() }),
            None => {
                self.require_canonical(linear, 16)?;
                let low = self.load_slow(linear, 8)?;
                let high = self.load_slow(linear.wrapping_add(8), 8)?;
                Ok(u128::from(high) << 64 | u128::from(low))
            }
        }
    }

    /// Stores 16 bytes at the current privilege level, all or nothing.
    #[inline(always)]
    pub(crate) fn store_u128(&mut self, linear: u64, value: u128) -> Result<(), Abort> {
        match hit::<16>(&self.tlb().data[slot_of(linear)].write, linear) {
            Some(pointer) => {
                // SAFETY: as for `write_host`.
                unsafe { pointer.cast::<u128>().write_unaligned(value) };
                Ok(())
            }
            None => {
                self.probe_store(linear, 16)?;
                self.store_slow(linear, value as u64, 8)?;
                self.store_slow(linear.wrapping_add(8), (value >> 64) as u64, 8)
            }
        }
    }

    /// Loads 1, 2, 4 or 8 bytes at the current privilege level, zero-extended.
    pub(crate) fn load(&mut self, linear: u64, size: u32) -> Result<u64, Abort> {
        match size {
            1 => self.load_sized::<1>(linear),
            2 => self.load_sized::<2>(linear),
            4 => self.load_sized::<4>(linear),
            _ => self.load_sized::<8>(linear),
        }
    }

    /// Stores 1, 2, 4 or 8 bytes at the current privilege level.
    pub(crate) fn store(&mut self, linear: u64, value: u64, size: u32) -> Result<(), Abort> {
        match size {
            1 => self.store_sized::<1>(linear, value),
            2 => self.store_sized::<2>(linear, value),
            4 => self.store_sized::<4>(linear, value),
            _ => self.store_sized::<8>(linear, value),
        }
    }

    /// A load that the CPU makes on its own behalf (descriptor tables, TSS): supervisor rights
    /// whatever the privilege level.
    pub(crate) fn load_system(&mut self, linear: u64, size: u32) -> Result<u64, Abort> {
        self.load_as(linear, size, false)
    }

    /// A store that the CPU makes on its own behalf.
    pub(crate) fn store_system(&mut self, linear: u64, v: u64, size: u32) -> Result<(), Abort> {
        self.store_as(linear, v, size, false)
    }

    /// Host address of `bytes` bytes of RAM at `linear` for loading, if they lie in one page that
    /// may be read now; fills the TLB. `None` where the slow path must decide.
    pub(crate) fn readable_span(&mut self, linear: u64, bytes: usize) -> Option<*const u8> {
        let offset = (linear & 0xfff) as usize;
        if bytes == 0 || offset + bytes > 4096 {
            return None;
        }
        if self.known_readable_span(linear, bytes).is_none() {
            self.translate(linear, Access::Read).ok()?;
        }
        self.known_readable_span(linear, bytes)
    }

    /// What [`Cpu::readable_span`] found, if it still holds; translates nothing.
    pub(crate) fn known_readable_span(&mut self, linear: u64, bytes: usize) -> Option<*const u8> {
        hit::<1>(&self.tlb().data[slot_of(linear)].read, linear)
            .or_else(|| self.unwatched::<false>(linear, bytes))
            .map(<*mut u8>::cast_const)
    }

    /// As [`Cpu::readable_span`] for storing: `None` also for code and page tables.
    pub(crate) fn writable_span(&mut self, linear: u64, bytes: usize) -> Option<*mut u8> {
        let offset = (linear & 0xfff) as usize;
        if bytes == 0 || offset + bytes > 4096 {
            return None;
        }
        let known = |cpu: &Cpu| {
            hit::<1>(&cpu.tlb().data[slot_of(linear)].write, linear)
                .or_else(|| cpu.unwatched::<true>(linear, bytes))
        };
        if known(self).is_none() {
            self.translate(linear, Access::Write).ok()?;
        }
        known(self)
    }

    /// Translates one byte's address for an access by the current privilege level.
    pub(crate) fn translate(&mut self, linear: u64, access: Access) -> Result<Gpa, Abort> {
        let user = self.cpl == 3;
        self.translate_as(linear, access, user)
    }

    /// Translates with user or supervisor rights, through the TLB.
    pub(crate) fn translate_as(
        &mut self,
        linear: u64,
        access: Access,
        user: bool,
    ) -> Result<Gpa, Abort> {
        let known = match access {
            Access::Read => None,
            Access::Write => Some(self.mmu.tlb(user).kept[slot_of(linear)]),
            Access::Fetch => Some(self.mmu.tlb(user).fetch[slot_of(linear)]),
        };
        if let Some(entry) = known
            && linear ^ entry.tag < 4096
        {
            let gpa = Gpa(entry.page + (linear & 0xfff));
            // A page that is neither code nor page table any more gets an entry of its own.
            if access == Access::Fetch || self.ram().flags(gpa.pfn()).intersects(KEPT) {
                return Ok(gpa);
            }
        }
        let walk = self.walk(linear, access, user)?;
        self.fill(linear, access, user, &walk);
        Ok(walk.gpa)
    }

    /// Enters a walk into the TLB where the rules allow it.
    fn fill(&mut self, linear: u64, access: Access, user: bool, walk: &super::walk::Walk) {
        let pfn = walk.gpa.pfn();
        let Some(host) = self.ram().host_page(pfn) else { return };
        // Recording the walk may turn its own target into a page table: do that first.
        let (mmu, ram) = self.mmu_and_ram();
        mmu.note_walk(ram, linear, walk);
        let (table, page) = match access {
            Access::Read => (Table::Read, host as u64),
            Access::Fetch => (Table::Fetch, pfn.gpa().0),
            Access::Write => {
                // Dirty by the translation, whether or not a store follows: so that the set of
                // dirty pages does not depend on what else is derived from the page.
                ram.set_flags(pfn, PageFlags::DIRTY);
                if ram.flags(pfn).intersects(KEPT) {
                    (Table::Kept, pfn.gpa().0)
                } else {
                    (Table::Write, host as u64)
                }
            }
        };
        // Watched pages take the slow path. A store entry serves loads too.
        let watched = match access {
            Access::Read => self.watches_page(linear, false),
            Access::Write => self.watches_page(linear, true),
            Access::Fetch => false,
        };
        // Handlers take a hit as proof that the address is canonical.
        if super::is_canonical(linear) && !(watched && table == Table::Kept) {
            let (mmu, ram) = self.mmu_and_ram();
            if watched {
                mmu.fill_watched(ram, table == Table::Write, user, linear, page, pfn);
            } else {
                mmu.fill(ram, table, user, linear, page, pfn);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, linear: u64, size: u32) -> Result<u64, Abort> {
        if self.is_watching()
            && let Some(pointer) = self.unwatched::<false>(linear, size as usize)
        {
            return Ok(read_host_sized(pointer, size));
        }
        let user = self.cpl == 3;
        self.load_as(linear, size, user)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, linear: u64, value: u64, size: u32) -> Result<(), Abort> {
        if self.is_watching()
            && let Some(pointer) = self.unwatched::<true>(linear, size as usize)
        {
            write_host_sized(pointer, value, size);
            return Ok(());
        }
        let user = self.cpl == 3;
        self.store_as(linear, value, size, user)
    }

    /// Host address of bytes that no watchpoint waits for, in a page with some that one does, if such
    /// an access by the current privilege level was translated before.
    fn unwatched<const WRITE: bool>(&self, linear: u64, bytes: usize) -> Option<*mut u8> {
        let entry = self.tlb().watched(WRITE, linear);
        let offset = linear ^ entry.tag;
        let known = offset < 4096 && offset as usize + bytes <= 4096;
        (known && self.unwatched_bytes(linear, bytes as u32, WRITE) == bytes as u32)
            .then(|| (entry.page + offset) as *mut u8)
    }

    /// An access with a byte that no page table can map, or that the limit of a flat segment keeps
    /// out: the reference path, which knows the segment, says which exception that is.
    #[inline]
    fn require_canonical(&mut self, linear: u64, size: u32) -> Result<(), Abort> {
        let last = linear.wrapping_add(u64::from(size) - 1);
        let fits = super::is_canonical(linear)
            && super::is_canonical(last)
            && (last <= 0xffff_ffff || self.is_64bit());
        if fits || self.alone {
            return Ok(());
        }
        self.require_alone()
    }

    /// Loads with user or supervisor rights.
    pub(crate) fn load_as(&mut self, linear: u64, size: u32, user: bool) -> Result<u64, Abort> {
        self.require_canonical(linear, size)?;
        let mut bytes = [0u8; 8];
        let pieces = self.pieces(linear, size, Access::Read, user)?;
        self.prepare_watched(linear, size, false)?;
        for (gpa, from, to) in pieces {
            if from == to || self.ram().read(gpa, &mut bytes[from..to]).is_ok() {
                continue;
            }
            self.require_alone()?;
            let at = self.position;
            if to - from == size as usize && size.is_power_of_two() {
                let value = self.bus().mmio_read(gpa, size as u8, at);
                bytes[from..to].copy_from_slice(&value.to_le_bytes()[..size as usize]);
            } else {
                for (n, byte) in bytes[from..to].iter_mut().enumerate() {
                    *byte = self.bus().mmio_read(gpa.wrapping_add(n as u64), 1, at) as u8;
                }
            }
            self.end_of_block = true;
        }
        self.note_watched(linear, size, false);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores with user or supervisor rights.
    pub(crate) fn store_as(
        &mut self,
        linear: u64,
        value: u64,
        size: u32,
        user: bool,
    ) -> Result<(), Abort> {
        self.require_canonical(linear, size)?;
        let pieces = self.pieces(linear, size, Access::Write, user)?;
        self.prepare_stores(&pieces)?;
        self.prepare_watched(linear, size, true)?;
        let bytes = value.to_le_bytes();
        for (gpa, from, to) in pieces {
            if from == to || self.store_physical(gpa, &bytes[from..to]) {
                continue;
            }
            let at = self.position;
            if to - from == size as usize && size.is_power_of_two() {
                self.bus().mmio_write(gpa, size as u8, value, at);
            } else {
                for (n, byte) in bytes[from..to].iter().enumerate() {
                    let gpa = gpa.wrapping_add(n as u64);
                    self.bus().mmio_write(gpa, 1, u64::from(*byte), at);
                }
            }
            self.end_of_block = true;
        }
        self.note_watched(linear, size, true);
        Ok(())
    }

    /// Checks that a store of up to 16 bytes would succeed at the current privilege level.
    pub(crate) fn probe_store(&mut self, linear: u64, size: u32) -> Result<(), Abort> {
        if self.is_watching() && self.unwatched::<true>(linear, size as usize).is_some() {
            return Ok(());
        }
        self.require_canonical(linear, size)?;
        let user = self.cpl == 3;
        let pieces = self.pieces(linear, size, Access::Write, user)?;
        self.prepare_stores(&pieces)?;
        self.prepare_watched(linear, size, true)
    }

    /// Splits an access at its page boundary and translates both parts before anything happens.
    fn pieces(
        &mut self,
        linear: u64,
        size: u32,
        access: Access,
        user: bool,
    ) -> Result<Pieces, Abort> {
        let size = size as usize;
        let in_page = (0x1000 - (linear & 0xfff) as usize).min(size);
        let first = self.translate_as(linear, access, user)?;
        let mut pieces = [(first, 0, in_page), (Gpa(0), size, size)];
        if in_page < size {
            let mut next = linear.wrapping_add(in_page as u64);
            if !self.is_64bit() {
                next &= 0xffff_ffff;
            }
            pieces[1].0 = self.translate_as(next, access, user)?;
            pieces[1].1 = in_page;
        }
        Ok(pieces)
    }

    /// Asks to run alone if a store has effects that the next instruction must see.
    fn prepare_stores(&mut self, pieces: &Pieces) -> Result<(), Abort> {
        if self.alone {
            return Ok(());
        }
        for &(gpa, from, to) in pieces {
            if from != to && self.store_needs_to_be_alone(gpa, to - from) {
                self.require_alone()?;
            }
        }
        Ok(())
    }

    fn store_needs_to_be_alone(&mut self, gpa: Gpa, bytes: usize) -> bool {
        let flags = self.ram().flags(gpa.pfn());
        if flags.intersects(PageFlags::READ_ONLY) || self.ram().host_page(gpa.pfn()).is_none() {
            return true;
        }
        let (code, ram) = self.code_and_ram();
        if flags.intersects(PageFlags::CODE) && code.overlaps(ram, gpa, bytes) {
            return true;
        }
        let page = self.page();
        let (mmu, ram) = self.mmu_and_ram();
        flags.intersects(PageFlags::PAGE_TABLE)
            && mmu.store_would_drop(ram, gpa, bytes as u64, page)
    }

    /// Stores to RAM within one page, dropping whatever was derived from those bytes. `false`, with
    /// no effect, where no RAM takes stores.
    pub(crate) fn store_physical(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        let flags = self.ram().flags(gpa.pfn());
        if flags.intersects(PageFlags::READ_ONLY) {
            return false;
        }
        if flags.intersects(PageFlags::CODE) {
            self.forget_code(gpa, bytes.len());
        }
        if flags.intersects(PageFlags::PAGE_TABLE) {
            self.forget_translations(gpa, bytes.len());
        }
        self.ram().write_by_cpu(gpa, bytes).is_ok()
    }

    /// Drops translations derived from table entries that are about to change.
    fn forget_translations(&mut self, gpa: Gpa, bytes: usize) {
        // Room for the entries of the longest store of most instructions; more are as good as all.
        let mut pages = [0; 4];
        let (mut count, mut all) = (0, false);
        let (mmu, ram) = self.mmu_and_ram();
        mmu.before_table_store(ram, gpa, bytes as u64, |page| match (page, pages.get_mut(count)) {
            (Some(page), Some(room)) => {
                *room = page;
                count += 1;
            }
            _ => all = true,
        });
        if all {
            self.jumps.forget_all();
        } else {
            pages[..count].iter().for_each(|&page| self.jumps.forget_page(page));
        }
    }

    /// Drops the code decoded from bytes that are about to change.
    fn forget_code(&mut self, gpa: Gpa, bytes: usize) {
        let (code, ram) = self.code_and_ram();
        code.forget(ram, gpa, bytes, crate::interp::dead);
        self.translator.retire(self.code.take_retired());
    }

    /// Prepares for accessed and dirty bits that a walk sets: where they are part of decoded code,
    /// that code is dropped, by an instruction that runs alone.
    pub(crate) fn prepare_entry_update(&mut self, gpa: Gpa, bytes: usize) -> Result<(), Abort> {
        if !self.ram().flags(gpa.pfn()).intersects(PageFlags::CODE) {
            return Ok(());
        }
        let (code, ram) = self.code_and_ram();
        if code.overlaps(ram, gpa, bytes) {
            self.require_alone()?;
            self.forget_code(gpa, bytes);
        }
        Ok(())
    }

    /// Translates the address of an instruction between two chains of blocks.
    pub(crate) fn translate_block(&mut self, linear: u64) -> Result<Gpa, Abort> {
        self.alone = true;
        let gpa = self.translate(linear, Access::Fetch);
        self.alone = false;
        gpa
    }

    /// Drops all decoded code. Only between blocks.
    pub(crate) fn forget_all_code(&mut self) {
        let (code, ram) = self.code_and_ram();
        code.clear(ram);
        self.translator.clear();
        self.mmu.forget_code_entries();
        self.jumps.forget_all();
        self.pending_link = None;
    }

    /// Takes up newly lent RAM: sizes tables, follows its epoch, drops what was derived from pages
    /// that devices or loaders wrote meanwhile.
    pub(crate) fn attach(&mut self) {
        let (mmu, ram) = self.mmu_and_ram();
        if mmu.attach(ram) {
            // Other RAM than before: nothing that was derived means anything.
            mmu.forget_all(ram);
            self.forget_all_code();
            self.regime = [u64::MAX; 4];
        }
        let (mmu, ram) = self.mmu_and_ram();
        mmu.follow_epoch(ram);
        for pfn in ram.take_disturbed() {
            self.page_disturbed(pfn);
        }
        if let Some(cuts) = self.debugger.take_new_cuts() {
            let (code, ram) = self.code_and_ram();
            code.forget_at(ram, |offset| cuts.contains(offset), crate::interp::dead);
            self.translator.retire(self.code.take_retired());
        }
        self.flush_translations();
    }

    fn page_disturbed(&mut self, pfn: Pfn) {
        let (mmu, ram) = self.mmu_and_ram();
        if mmu.page_disturbed(ram, pfn) {
            self.jumps.forget_all();
        }
        if self.ram().flags(pfn).intersects(PageFlags::CODE) {
            self.forget_code(pfn.gpa(), 4096);
        }
    }

    /// Called when CR0, CR3, CR4, EFER, the PDPTEs or A20 changed: what follows is translated by
    /// their new values.
    pub(crate) fn flush_translations(&mut self) {
        self.end_of_block = true;
        let regime = self.paging_regime();
        if regime != self.regime {
            self.regime = regime;
            let a20_mask = self.a20_mask;
            let (mmu, ram) = self.mmu_and_ram();
            mmu.set_address_mask(a20_mask);
            mmu.forget_all(ram);
            self.jumps.forget_all();
        }
        self.select_space();
    }

    /// INVLPG: translations are always those of the tables, so there is nothing to do.
    pub(crate) fn invalidate_page(&mut self, _linear: u64) {}

    /// Everything but CR3 that a walk depends on.
    pub(crate) fn paging_regime(&self) -> [u64; 4] {
        [
            self.cr0 & (control::CR0_PG | control::CR0_WP),
            self.cr4
                & (control::CR4_PSE | control::CR4_PAE | control::CR4_SMEP | control::CR4_LA57),
            self.efer & (control::EFER_LMA | control::EFER_NXE),
            self.a20_mask,
        ]
    }

    /// Where jumps made now belong, as the jump cache wants it.
    pub(crate) fn jump_place(&self) -> usize {
        self.place[usize::from(self.cpl == 3)]
    }

    /// Points `tlb` at the tables for the current CR3 and privilege level.
    pub(crate) fn select_space(&mut self) {
        let paging = self.cr0 & control::CR0_PG != 0;
        let pae = self.cr4 & control::CR4_PAE != 0 && !self.is_long_mode();
        let mask = if pae { !0x1f } else { 0xf_ffff_ffff_f000 };
        let cr3 = if paging { self.cr3 & mask } else { u64::MAX };
        let pdpte = if paging && pae { self.pdpte } else { [0; 4] };
        let root = (paging && self.is_long_mode()).then(|| Gpa(cr3).pfn());
        let (mmu, ram) = self.mmu_and_ram();
        let selected = mmu.select(ram, cr3, pdpte, root);
        if selected.space_emptied {
            self.jumps.forget_place(selected.space);
        }
        if selected.supervisor_emptied {
            self.jumps.forget_place(SPACES + selected.supervisor);
        }
        if selected.lower_half_changed {
            self.jumps.forget_supervisor_lower_half();
        }
        self.place = [SPACES + selected.supervisor, selected.space];
        let user = self.cpl == 3;
        self.tlb = self.mmu.tlb(user);
    }
}
