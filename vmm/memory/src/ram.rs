//! The RAM itself and the flags of its pages.
//!
//! UNSAFETY: the guest's RAM is a mapping that the CPU engines access through raw pointers,
//! so no Rust reference into it may ever exist. All access here goes through `copy_nonoverlapping`
//! on pointers that were bounds-checked against the mapping, on the machine's one thread.
#![expect(unsafe_code, reason = "guest RAM is reached through raw pointers; see UNSAFETY above")]

use crate::layout::{RamLayout, VGA_WINDOW};
use crate::storage::Storage;
use dejavm_units::{Gpa, PAGE_SIZE, Pfn};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// `PROT_READ | PROT_WRITE` and `MAP_PRIVATE | MAP_ANONYMOUS`: how the mapping was made, for the
/// record that `vm-memory` keeps with a view.
const READ_WRITE: i32 = 0x3;
const PRIVATE: i32 = 0x22;

/// What is known of a page of RAM. A store may bypass this module only if it checked that the page
/// is [`DIRTY`](PageFlags::DIRTY) and neither [`CODE`](PageFlags::CODE) nor
/// [`PAGE_TABLE`](PageFlags::PAGE_TABLE) nor [`READ_ONLY`](PageFlags::READ_ONLY); whoever sets one of the latter takes such rights
/// away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFlags(pub u8);

impl PageFlags {
    /// Written since the last [`GuestRam::take_dirty`].
    pub const DIRTY: PageFlags = PageFlags(1);
    /// The CPU holds instructions decoded from this page.
    pub const CODE: PageFlags = PageFlags(2);
    /// The CPU holds address translations derived from this page.
    pub const PAGE_TABLE: PageFlags = PageFlags(4);
    /// The CPU reads the page as RAM, but its stores go to the board: what a chipset does where firmware is.
    pub const READ_ONLY: PageFlags = PageFlags(8);

    /// Whether any flag of `other` is set.
    #[inline]
    pub const fn intersects(self, other: PageFlags) -> bool {
        self.0 & other.0 != 0
    }
    /// Both sets of flags.
    #[inline]
    pub const fn union(self, other: PageFlags) -> PageFlags {
        PageFlags(self.0 | other.0)
    }
}

/// An access that leaves RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no RAM at guest physical {gpa} for {bytes} bytes")]
pub struct OutsideRam {
    /// First address of the access.
    pub gpa: Gpa,
    /// Length of the access in bytes.
    pub bytes: usize,
}

/// RAM that the host would not give.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// `mmap` failed.
    #[error("the host refused to map {bytes} bytes of guest RAM: {reason}")]
    Map {
        /// The size asked for.
        bytes: u64,
        /// The host's answer.
        reason: String,
    },
}

/// Guest RAM as the `vm-memory` traits want it; borrowed from the [`GuestRam`] that holds it.
pub struct LoaderView<'a> {
    memory: GuestMemoryMmap<()>,
    ram: PhantomData<&'a mut GuestRam>,
}

impl Deref for LoaderView<'_> {
    type Target = GuestMemoryMmap<()>;
    fn deref(&self) -> &GuestMemoryMmap<()> {
        let PhantomData = self.ram;
        &self.memory
    }
}

/// The next [`GuestRam::identity`].
static IDENTITIES: AtomicU64 = AtomicU64::new(1);

/// The RAM of one machine, and the pages of its volumes.
pub struct GuestRam {
    layout: RamLayout,
    mapping: MmapRegion<()>,
    /// One per page of the RAM file, in file order.
    flags: Box<[PageFlags]>,
    /// Pages with `CODE` or `PAGE_TABLE` that were written from outside the CPU.
    disturbed: Vec<Pfn>,
    /// Distinguishes this RAM from every other of the process.
    identity: u64,
    /// Counts [`GuestRam::take_dirty`] and [`GuestRam::set_read_only`]; a change tells the CPU to give up its write rights.
    epoch: u64,
    storage: Storage,
}

impl GuestRam {
    /// Allocates zeroed RAM. The host commits pages only when they are first touched.
    pub fn new(layout: RamLayout) -> Result<GuestRam, RamError> {
        let bytes = layout.total_bytes();
        let mapping = MmapRegion::new(bytes as usize)
            .map_err(|error| RamError::Map { bytes, reason: error.to_string() })?;
        // Random access over 4 KiB host pages costs several times what it costs over huge ones.
        // Anonymous memory rather than a memfd, because most hosts allow huge pages only for the
        // former. A refusal is harmless.
        // SAFETY: advice about our own fresh mapping; it changes no contents.
        let _ = unsafe {
            rustix::mm::madvise(
                mapping.as_ptr().cast::<c_void>(),
                mapping.size(),
                rustix::mm::Advice::LinuxHugepage,
            )
        };
        let pages = (bytes / PAGE_SIZE) as usize;
        Ok(GuestRam {
            layout,
            mapping,
            flags: vec![PageFlags::default(); pages].into_boxed_slice(),
            disturbed: Vec::new(),
            identity: IDENTITIES.fetch_add(1, Ordering::Relaxed),
            epoch: 0,
            storage: Storage::default(),
        })
    }

    /// The address map of this RAM.
    #[inline]
    pub fn layout(&self) -> RamLayout {
        self.layout
    }

    /// Host address of the page `pfn`, or `None` where no RAM answers.
    #[inline]
    pub fn host_page(&self, pfn: Pfn) -> Option<*mut u8> {
        let offset = self.layout.offset(pfn.gpa())? as usize;
        debug_assert!(offset + PAGE_SIZE as usize <= self.mapping.size());
        Some(self.mapping.as_ptr().wrapping_add(offset))
    }

    /// Index of a page's flags: its place in the RAM file.
    #[inline]
    fn index(&self, pfn: Pfn) -> Option<usize> {
        self.layout.offset(pfn.gpa()).map(|offset| (offset / PAGE_SIZE) as usize)
    }

    /// The flags of a page; none outside RAM.
    #[inline]
    pub fn flags(&self, pfn: Pfn) -> PageFlags {
        self.index(pfn).map_or(PageFlags::default(), |index| self.flags[index])
    }

    /// Adds flags to a page of RAM.
    #[inline]
    pub fn set_flags(&mut self, pfn: Pfn, flags: PageFlags) {
        let index = self.index(pfn).expect("flags are set only on pages of RAM");
        self.flags[index].0 |= flags.0;
    }

    /// Takes flags off a page of RAM.
    #[inline]
    pub fn clear_flags(&mut self, pfn: Pfn, flags: PageFlags) {
        let index = self.index(pfn).expect("flags are cleared only on pages of RAM");
        self.flags[index].0 &= !flags.0;
    }

    /// Lets stores of the CPU go to the board instead, or lets them reach the page. Everyone else writes it as before. For
    /// between two runs.
    pub fn set_read_only(&mut self, pfn: Pfn, read_only: bool) {
        if read_only {
            self.set_flags(pfn, PageFlags::READ_ONLY);
            self.epoch += 1;
        } else {
            self.clear_flags(pfn, PageFlags::READ_ONLY);
        }
    }

    /// Takes flags off every page.
    pub fn clear_flags_everywhere(&mut self, flags: PageFlags) {
        for page in &mut self.flags {
            page.0 &= !flags.0;
        }
    }

    /// Reads `bytes` bytes (4 or 8) that lie in one page, as the page-table walker does; `None`
    /// outside RAM.
    #[inline]
    pub fn read_entry(&self, gpa: Gpa, bytes: u32) -> Option<u64> {
        assert!(
            gpa.page_offset() + 8 <= PAGE_SIZE || bytes == 4 && gpa.page_offset().is_multiple_of(4)
        );
        let offset = self.layout.offset(gpa)? as usize;
        let host = self.mapping.as_ptr().wrapping_add(offset);
        // SAFETY: `offset` lies in the mapping, whose size is a multiple of the page size, and the
        // assertion keeps the bytes inside one page.
        Some(unsafe {
            if bytes == 4 {
                u64::from(host.cast::<u32>().read_unaligned())
            } else {
                host.cast::<u64>().read_unaligned()
            }
        })
    }

    /// Copies guest memory out. Fails, having copied nothing, if any byte lies outside RAM.
    pub fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), OutsideRam> {
        let host = self.host_range(gpa, into.len())?;
        // SAFETY: `host_range` checked that the whole range lies in the mapping; `into` is a
        // distinct Rust allocation.
        unsafe { std::ptr::copy_nonoverlapping(host, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies bytes into guest memory as a device would (DMA): pages become dirty, and the CPU will
    /// drop what it derived from them before it runs again. Fails, having written nothing, if any
    /// byte lies outside RAM.
    pub fn write(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), OutsideRam> {
        let host = self.host_range(gpa, from.len())?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), host, from.len()) };
        if !from.is_empty() {
            let last = gpa.wrapping_add(from.len() as u64 - 1).pfn();
            for pfn in gpa.pfn().0..=last.0 {
                self.note_outside_write(Pfn(pfn));
            }
        }
        Ok(())
    }

    /// As [`GuestRam::write`], for the CPU itself: it drops by itself what it derived from the page.
    pub fn write_by_cpu(&mut self, gpa: Gpa, from: &[u8]) -> Result<(), OutsideRam> {
        let host = self.host_range(gpa, from.len())?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), host, from.len()) };
        if !from.is_empty() {
            let last = gpa.wrapping_add(from.len() as u64 - 1).pfn();
            for pfn in gpa.pfn().0..=last.0 {
                self.set_flags(Pfn(pfn), PageFlags::DIRTY);
            }
        }
        Ok(())
    }

    /// Gives host memory back: the pages in so many bytes of the RAM file (units of [`PAGE_SIZE`]) are zero from now on. For
    /// machines that end, whose RAM is being written elsewhere.
    pub fn give_back(&mut self, offset: u64, bytes: u64) {
        assert!(
            offset.is_multiple_of(PAGE_SIZE)
                && offset.checked_add(bytes).is_some_and(|end| end <= self.mapping.size() as u64),
            "what is given back is of this RAM"
        );
        let host = self.mapping.as_ptr().wrapping_add(offset as usize);
        // SAFETY: the range lies in our private anonymous mapping, into which no Rust reference exists; its pages are zero
        // afterwards, as fresh ones are.
        let given = unsafe {
            rustix::mm::madvise(
                host.cast::<c_void>(),
                bytes as usize,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
        given.expect("advice about our own mapping");
        for page in offset / PAGE_SIZE..(offset + bytes).div_ceil(PAGE_SIZE) {
            self.note_written(self.layout.gpa(page * PAGE_SIZE).pfn());
        }
    }

    /// Says that a page was written by something that keeps no account of it, such as the kernel's KVM. Of a page where no
    /// RAM is there is nothing to say.
    pub fn note_written(&mut self, pfn: Pfn) {
        if self.index(pfn).is_some() {
            self.note_outside_write(pfn);
        }
    }

    fn note_outside_write(&mut self, pfn: Pfn) {
        let derived = PageFlags::CODE.union(PageFlags::PAGE_TABLE);
        if self.flags(pfn).intersects(derived) {
            self.disturbed.push(pfn);
        }
        self.set_flags(pfn, PageFlags::DIRTY);
    }

    /// Pages that were written from outside while the CPU held something derived from them. The
    /// CPU calls this before it runs.
    pub fn take_disturbed(&mut self) -> Vec<Pfn> {
        std::mem::take(&mut self.disturbed)
    }

    /// Ends the epoch: returns the pages written since the last call, ascending, and forgets them.
    pub fn take_dirty(&mut self) -> Vec<Pfn> {
        let layout = self.layout;
        let mut dirty = Vec::new();
        for (index, page) in self.flags.iter_mut().enumerate() {
            if page.intersects(PageFlags::DIRTY) {
                page.0 &= !PageFlags::DIRTY.0;
                dirty.push(layout.gpa(index as u64 * PAGE_SIZE).pfn());
            }
        }
        self.epoch += 1;
        dirty.extend(self.storage.take_dirty());
        dirty
    }

    /// Gives the machine volumes of so many pages each, all zeros ([`storage_page`](crate::storage_page)).
    ///
    /// # Panics
    /// With more than 255 volumes, or one of more than 4 PiB.
    pub fn set_volumes(&mut self, pages: &[u64]) {
        self.storage = Storage::new(pages);
    }

    /// Whether there is such a page, of RAM or of a volume.
    pub fn has_page(&self, pfn: Pfn) -> bool {
        // Numbers from there on have no address.
        pfn.0 < 1 << 52 && (self.index(pfn).is_some() || self.storage.has(pfn))
    }

    /// Reads a page of RAM or of a volume.
    ///
    /// # Panics
    /// Unless it is a page that is to be read.
    pub fn read_page(&self, pfn: Pfn, into: &mut [u8]) -> Result<(), OutsideRam> {
        let page = into.as_mut_array().expect("a page is read whole");
        match self.storage.read(pfn, page) {
            true => Ok(()),
            false => self.read(self.address(pfn)?, into),
        }
    }

    /// Writes a page of RAM, as [`GuestRam::write`] does, or of a volume.
    ///
    /// # Panics
    /// Unless it is a page that is to be written.
    pub fn write_page(&mut self, pfn: Pfn, from: &[u8]) -> Result<(), OutsideRam> {
        let page = from.as_array().expect("a page is written whole");
        match self.storage.write(pfn, page) {
            true => Ok(()),
            false => self.write(self.address(pfn)?, from),
        }
    }

    /// A page's address, if its number can have one.
    fn address(&self, pfn: Pfn) -> Result<Gpa, OutsideRam> {
        if self.has_page(pfn) {
            return Ok(pfn.gpa());
        }
        Err(OutsideRam { gpa: Gpa(pfn.0.wrapping_mul(PAGE_SIZE)), bytes: PAGE_SIZE as usize })
    }

    /// A number that no other RAM of the process has, never 0: whoever keeps what was derived from a
    /// RAM knows by it when it is lent another one. No part of any state.
    #[inline]
    pub fn identity(&self) -> u64 {
        self.identity
    }

    /// The number of epochs ended so far.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All pages of RAM, ascending (the VGA window left out).
    pub fn pages(&self) -> impl Iterator<Item = Pfn> + use<> {
        let layout = self.layout;
        (0..layout.total_bytes() / PAGE_SIZE)
            .map(move |page| layout.gpa(page * PAGE_SIZE).pfn())
            .filter(|pfn| !VGA_WINDOW.contains(&pfn.gpa().0))
    }

    /// All pages of RAM, and those of volumes that are not zero, ascending.
    pub fn all_pages(&self) -> impl Iterator<Item = Pfn> {
        self.pages().chain(self.storage.not_zero())
    }

    /// The pages of volumes that are not zero, ascending.
    pub fn volume_pages(&self) -> impl Iterator<Item = Pfn> {
        self.storage.not_zero()
    }

    /// Whether a page is one of a volume.
    pub fn is_volume_page(&self, pfn: Pfn) -> bool {
        self.storage.has(pfn)
    }

    /// A view of the same RAM as the `vm-memory` traits want it, for loaders. Writing through it
    /// marks nothing dirty: call [`GuestRam::assume_all_written`] afterwards.
    pub fn loader_view(&mut self) -> Result<LoaderView<'_>, RamError> {
        let bytes = self.layout.total_bytes();
        let refused = |reason: String| RamError::Map { bytes, reason };
        let mut regions = Vec::new();
        for (base, offset, length) in [
            (0, 0, self.layout.low_bytes()),
            (1u64 << 32, self.layout.low_bytes(), self.layout.high_bytes()),
        ] {
            if length == 0 {
                continue;
            }
            let start = self.mapping.as_ptr().wrapping_add(offset as usize);
            // SAFETY: the range lies in our mapping, page-aligned; the view borrows `self` so that
            // the mapping outlives it, and it is not owned, so dropping it unmaps nothing.
            let mapping =
                unsafe { MmapRegion::build_raw(start, length as usize, READ_WRITE, PRIVATE) }
                    .map_err(|error| refused(error.to_string()))?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(base))
                .ok_or_else(|| refused("a region wraps the address space".into()))?;
            regions.push(region);
        }
        let memory =
            GuestMemoryMmap::from_regions(regions).map_err(|error| refused(error.to_string()))?;
        Ok(LoaderView { memory, ram: PhantomData })
    }

    /// Marks every page dirty and disturbed, after a loader or a restore wrote RAM behind our back.
    pub fn assume_all_written(&mut self) {
        for pfn in self.pages().collect::<Vec<_>>() {
            self.note_outside_write(pfn);
        }
    }

    fn host_range(&self, gpa: Gpa, bytes: usize) -> Result<*mut u8, OutsideRam> {
        let outside = OutsideRam { gpa, bytes };
        if bytes == 0 {
            return Ok(self.mapping.as_ptr());
        }
        let first = self.layout.offset(gpa).ok_or(outside)?;
        let end = gpa.0.checked_add(bytes as u64 - 1).ok_or(outside)?;
        let last = self.layout.offset(Gpa(end)).ok_or(outside)?;
        // Equal distances mean that no hole lies between, except the VGA window, which is a hole
        // in the addresses but not in the file.
        let spans_window = gpa.0 < VGA_WINDOW.start && end >= VGA_WINDOW.end;
        if last - first != bytes as u64 - 1 || spans_window {
            return Err(outside);
        }
        Ok(self.mapping.as_ptr().wrapping_add(first as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_the_page_is_dirty_once() {
        let mut ram = ram();
        ram.write(Gpa(0x1ffe), &[1, 2, 3, 4]).unwrap();
        let mut bytes = [0; 4];
        ram.read(Gpa(0x1ffe), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!(ram.take_dirty(), [Pfn(1), Pfn(2)]);
        assert_eq!(ram.take_dirty(), []);
    }

    #[test]
    fn accesses_that_leave_ram_fail_whole() {
        let mut ram = ram();
        for (gpa, bytes) in
            [(0x9_ffff, 2), (0xa_0000, 1), (0x9_f000, 0x3_0000), (0x3f_ffff, 2), (u64::MAX, 2)]
        {
            let expected = OutsideRam { gpa: Gpa(gpa), bytes };
            assert_eq!(ram.write(Gpa(gpa), &vec![7; bytes]), Err(expected));
        }
        assert_eq!(ram.take_dirty(), []);
    }

    #[test]
    fn outside_writes_to_code_and_page_tables_are_reported() {
        let mut ram = ram();
        ram.set_flags(Pfn(5), PageFlags::CODE);
        ram.write(Gpa(0x5000), &[0]).unwrap();
        ram.write(Gpa(0x6000), &[0]).unwrap();
        assert_eq!(ram.take_disturbed(), [Pfn(5)]);
        assert_eq!(ram.take_disturbed(), []);
    }

    #[test]
    fn the_loader_view_is_the_same_memory() {
        use vm_memory::Bytes;
        let mut ram = ram();
        let view = ram.loader_view().unwrap();
        view.write_slice(b"kernel", GuestAddress(0x10_0000)).unwrap();
        let mut bytes = [0; 6];
        ram.read(Gpa(0x10_0000), &mut bytes).unwrap();
        assert_eq!(&bytes, b"kernel");
        ram.assume_all_written();
        assert_eq!(ram.take_dirty().len(), (4 << 20) / 4096 - 32);
    }
}
