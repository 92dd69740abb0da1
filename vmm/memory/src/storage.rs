//! Pages that no address leads to: what a machine's disks hold beside RAM.
//!
//! A disk's contents are state like RAM's, of the same kind: pages that are written, compared, kept in checkpoints and brought back. So
//! they are numbered as pages are, far above any physical address, and whoever keeps account of pages ([`GuestRam::read_page`],
//! [`GuestRam::write_page`], [`GuestRam::take_dirty`], [`GuestRam::all_pages`]) does it for both. Nothing that takes a guest physical
//! address knows them: no processor, no device and no debugger reaches them.
//!
//! [`GuestRam::read_page`]: crate::GuestRam::read_page
//! [`GuestRam::write_page`]: crate::GuestRam::write_page
//! [`GuestRam::take_dirty`]: crate::GuestRam::take_dirty
//! [`GuestRam::all_pages`]: crate::GuestRam::all_pages
#![forbid(unsafe_code)]

use dejavm_units::{PAGE_SIZE, Pfn};
use std::collections::{BTreeMap, BTreeSet};

/// The number of the first page of the first volume: its address would be 2^56, where no processor has physical addresses.
const FIRST: u64 = 1 << 44;
/// From one volume's first page to the next one's: 4 PiB.
const STRIDE: u64 = 1 << 40;
/// Volumes of a machine at most.
const VOLUMES_MAX: usize = 255;

/// Bytes of a page.
const PAGE: usize = PAGE_SIZE as usize;

/// The number of page `index` of volume `volume`.
///
/// # Panics
/// Where no machine has volumes: the 256th, or beyond 4 PiB.
pub fn storage_page(volume: usize, index: u64) -> Pfn {
    assert!(volume < VOLUMES_MAX && index < STRIDE, "volume {volume} has no page {index:#x}");
    Pfn(FIRST + volume as u64 * STRIDE + index)
}

/// The pages of a machine's volumes. Those that were never written, or only with zeros, are zero and take no memory.
#[derive(Default)]
pub(crate) struct Storage {
    /// Pages of each volume.
    sizes: Vec<u64>,
    pages: BTreeMap<Pfn, Box<[u8; PAGE]>>,
    dirty: BTreeSet<Pfn>,
}

impl Storage {
    /// Volumes of so many pages each, all zeros.
    pub(crate) fn new(sizes: &[u64]) -> Storage {
        assert!(sizes.len() <= VOLUMES_MAX && sizes.iter().all(|size| *size <= STRIDE));
        Storage { sizes: sizes.to_vec(), ..Storage::default() }
    }

    pub(crate) fn has(&self, pfn: Pfn) -> bool {
        let Some(number) = pfn.0.checked_sub(FIRST) else { return false };
        let size = self.sizes.get((number / STRIDE) as usize);
        size.is_some_and(|size| number % STRIDE < *size)
    }

    /// The page's contents; `false`, and nothing is changed, if there is no such page.
    pub(crate) fn read(&self, pfn: Pfn, into: &mut [u8; PAGE]) -> bool {
        if !self.has(pfn) {
            return false;
        }
        match self.pages.get(&pfn) {
            Some(page) => into.copy_from_slice(&page[..]),
            None => into.fill(0),
        }
        true
    }

    /// Sets the page's contents; `false`, and nothing is changed, if there is no such page.
    pub(crate) fn write(&mut self, pfn: Pfn, from: &[u8; PAGE]) -> bool {
        if !self.has(pfn) {
            return false;
        }
        if *from == [0; PAGE] {
            self.pages.remove(&pfn);
        } else {
            self.pages.entry(pfn).or_insert_with(|| Box::new([0; PAGE])).copy_from_slice(from);
        }
        self.dirty.insert(pfn);
        true
    }

    /// Pages that are not zero, ascending.
    pub(crate) fn not_zero(&self) -> impl Iterator<Item = Pfn> {
        self.pages.keys().copied()
    }

    /// Pages written since the last call, ascending.
    pub(crate) fn take_dirty(&mut self) -> impl Iterator<Item = Pfn> + use<> {
        std::mem::take(&mut self.dirty).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_has_the_pages_that_it_was_given_and_no_others() {
        let mut storage = Storage::new(&[2, 0, 1]);
        let full = [7; PAGE];
        let mut page = [1; PAGE];
        assert!(storage.read(storage_page(0, 1), &mut page) && page == [0; PAGE]);
        for (volume, index) in [(0, 2), (1, 0), (2, 1), (3, 0), (254, 5)] {
            assert!(!storage.write(storage_page(volume, index), &full), "{volume}.{index}");
        }
        for pfn in [0, 1, FIRST - 1, u64::MAX] {
            assert!(!storage.read(Pfn(pfn), &mut page), "{pfn:#x}");
        }
        assert!(storage.write(storage_page(2, 0), &full));
        assert!(storage.write(storage_page(0, 1), &full));
        assert!(storage.read(storage_page(2, 0), &mut page) && page == full);
        let written = [storage_page(0, 1), storage_page(2, 0)];
        assert_eq!(storage.not_zero().collect::<Vec<_>>(), written);
        assert_eq!(storage.take_dirty().collect::<Vec<_>>(), written);
        assert!(storage.write(storage_page(0, 1), &[0; PAGE]));
        assert_eq!(storage.not_zero().collect::<Vec<_>>(), written[1..]);
        assert_eq!(storage.take_dirty().collect::<Vec<_>>(), written[..1], "a page of zeros too");
        assert_eq!(storage.take_dirty().count(), 0);
    }
}
