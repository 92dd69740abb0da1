//! Guest memory: which pages there are, and where in the file.

use crate::source::{ReadAt, read_some};
use crate::{Error, Result};
use std::sync::Arc;

/// Bytes of a guest page.
pub const PAGE_BYTES: u64 = 4096;

/// Pages that follow one another, both in guest-physical memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical page number of the first (`regionPPN`).
    pub first_page: u64,
    /// Its page number in the file (`regionPageNum`), counted from where memory begins there.
    pub page_in_file: u64,
    /// Pages (`regionSize`).
    pub pages: u64,
}

impl Region {
    /// Guest-physical address of the first byte.
    pub fn start(&self) -> u64 {
        self.first_page * PAGE_BYTES
    }

    /// Guest-physical address behind the last byte.
    pub fn end(&self) -> u64 {
        self.start() + self.bytes()
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }
}

/// A guest's physical memory.
#[derive(Clone)]
pub struct GuestMemory {
    source: Arc<dyn ReadAt>,
    /// Where memory begins in the source.
    base: u64,
    regions: Vec<Region>,
}

/// Page numbers of 32 bits end there, in bytes of memory.
const PAGES_MAX: u64 = 1 << 32;

impl GuestMemory {
    /// Memory whose regions begin at `base` in a source. What the source has not, is zero: sparse files are cut short
    /// when they are copied.
    ///
    /// # Errors
    /// If regions overlap, or reach beyond what 32 bits can number.
    pub fn new(source: Arc<dyn ReadAt>, base: u64, regions: Vec<Region>) -> Result<GuestMemory> {
        let mut regions = regions;
        regions.retain(|region| region.pages > 0);
        regions.sort_by_key(|region| region.first_page);
        for region in &regions {
            let ends =
                [region.first_page, region.page_in_file].map(|page| page.checked_add(region.pages));
            if ends.iter().any(|end| end.is_none_or(|end| end > PAGES_MAX)) {
                let what = format!(
                    "a region of {:#x} pages from page {:#x} reaches beyond page {PAGES_MAX:#x}",
                    region.pages, region.first_page
                );
                return Err(Error::damaged(0, what));
            }
        }
        for pair in regions.windows(2) {
            if pair[0].first_page + pair[0].pages > pair[1].first_page {
                let what = format!(
                    "regions overlap: one ends at page {:#x}, the next begins at {:#x}",
                    pair[0].first_page + pair[0].pages,
                    pair[1].first_page
                );
                return Err(Error::damaged(0, what));
            }
        }
        Ok(GuestMemory { source, base, regions })
    }

    /// By guest-physical address, not overlapping.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(Region::bytes).sum()
    }

    /// Bytes that its file takes up on disk for it, at most; as many as memory has where nobody can tell.
    pub fn bytes_stored(&self) -> u64 {
        self.source.stored().unwrap_or(u64::MAX).min(self.bytes())
    }

    /// Reads from a guest-physical address, across regions that follow one another.
    ///
    /// # Errors
    /// If there is no memory, or the file cannot be read.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<()> {
        let (mut address, mut into) = (address, into);
        while !into.is_empty() {
            let after = self.regions.partition_point(|region| region.start() <= address);
            let region = after.checked_sub(1).map(|index| self.regions[index]);
            let Some(region) = region.filter(|region| address < region.end()) else {
                return Err(Error::NoMemory(address));
            };
            let count =
                usize::try_from(region.end() - address).unwrap_or(usize::MAX).min(into.len());
            let (now, rest) = into.split_at_mut(count);
            let place = self.base + region.page_in_file * PAGE_BYTES + (address - region.start());
            let have = read_some(&*self.source, now, place)?;
            now[have..].fill(0);
            (address, into) = (address + count as u64, rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(regions: &[[u64; 3]]) -> Result<GuestMemory> {
        let bytes: Vec<u8> = (0..5 * 4096u32 - 100).map(|n| (n / 4096) as u8 + 1).collect();
        let regions = regions.iter().map(|&[first_page, page_in_file, pages]| Region {
            first_page,
            page_in_file,
            pages,
        });
        GuestMemory::new(Arc::new(bytes), 0, regions.collect())
    }

    #[test]
    fn reads_go_across_regions_and_end_at_holes() {
        let memory = memory(&[[2, 0, 1], [0, 3, 2], [16, 1, 2]]).unwrap();
        let mut bytes = [0; 3];
        memory.read(0x1fff, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 1, 1], "the file is short by 100 bytes, which are zero");
        memory.read(0x0fff, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 5, 5]);
        assert!(matches!(memory.read(0x2ffe, &mut bytes), Err(Error::NoMemory(0x3000))));
        assert!(matches!(memory.read(u64::MAX, &mut bytes), Err(Error::NoMemory(u64::MAX))));
        assert_eq!(memory.bytes(), 5 * 4096);
    }

    #[test]
    fn regions_that_overlap_or_end_nowhere_are_refused() {
        for regions in [
            &[[0, 0, 2], [1, 2, 1]][..],
            &[[u64::MAX, 0, 2]],
            &[[0, u64::MAX, 2]],
            &[[1, 0, 1 << 32]],
        ] {
            assert!(memory(regions).is_err(), "{regions:?}");
        }
    }
}
