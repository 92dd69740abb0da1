//! Guest memory: which pages there are, and where in the file.

use crate::source::{ReadAt, read_some};
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a guest page.
pub const PAGE_BYTES: u64 = 4096;

/// Pages that follow one another, both in guest-physical memory and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest-physical page number of the first (`regionPPN`).
    pub first_page: u64,
    /// Its page number in the file (`regionPageNum`), counted from where memory begins there. Of memory that is no
    /// checkpoint's: as if the regions lay back to back.
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

/// Bytes that follow one another, both in guest-physical memory and in the file, from anywhere to anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Guest-physical address of the first.
    pub address: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Extent {
    fn end(&self) -> u64 {
        self.address + self.bytes
    }

    /// Without what lies below an address.
    fn from(self, address: u64) -> Extent {
        let cut = address.saturating_sub(self.address).min(self.bytes);
        Extent { address: self.address + cut, offset: self.offset + cut, bytes: self.bytes - cut }
    }
}

/// A guest's physical memory.
#[derive(Clone)]
pub struct GuestMemory {
    source: Arc<dyn ReadAt>,
    /// For sentences.
    path: Option<PathBuf>,
    /// Where there is memory, by address.
    regions: Vec<Region>,
    /// What of it is in the source, by address; the rest is zero.
    extents: Vec<Extent>,
}

/// Page numbers of 32 bits end there, in bytes of memory.
const PAGES_MAX: u64 = 1 << 32;
/// Processors have no more physical addresses (SDM vol. 3A, 4.1.4: MAXPHYADDR is 52 at most).
const ADDRESSES_END: u64 = 1 << 52;

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
        if regions.is_empty() {
            return Err(Error::Regions("there is no page in it".into()));
        }
        for region in &regions {
            let ends =
                [region.first_page, region.page_in_file].map(|page| page.checked_add(region.pages));
            if ends.iter().any(|end| end.is_none_or(|end| end > PAGES_MAX)) {
                let what = format!(
                    "{:#x} pages from page {:#x}, in the file from page {:#x}, reach beyond page {PAGES_MAX:#x}, the last \
                     that the format can number",
                    region.pages, region.first_page, region.page_in_file
                );
                return Err(Error::Regions(what));
            }
        }
        for pair in regions.windows(2) {
            if pair[0].first_page + pair[0].pages > pair[1].first_page {
                let what = format!(
                    "two regions overlap: one has {:#x} pages from page {:#x}, the other {:#x} from page {:#x}",
                    pair[0].pages, pair[0].first_page, pair[1].pages, pair[1].first_page
                );
                return Err(Error::Regions(what));
            }
        }
        let extents = regions.iter().map(|region| Extent {
            address: region.start(),
            offset: base.saturating_add(region.page_in_file * PAGE_BYTES),
            bytes: region.bytes(),
        });
        let extents = extents.collect();
        Ok(GuestMemory { source, path: None, regions, extents })
    }

    /// Memory that lies in a source in extents, and memory of zeros. Where extents overlap, the one with the lower
    /// address has it; around what does not begin or end with a page, the page is zero.
    ///
    /// # Errors
    /// If there is nothing, or something beyond all physical addresses.
    pub fn of_extents(
        source: Arc<dyn ReadAt>,
        extents: Vec<Extent>,
        zeros: &[Range<u64>],
    ) -> Result<GuestMemory> {
        let mut extents = extents;
        let ends = extents.iter().map(|extent| (extent.address, extent.bytes));
        let ends = ends.chain(zeros.iter().map(|zeros| (zeros.start, zeros.end - zeros.start)));
        for (address, bytes) in ends {
            if address.checked_add(bytes).is_none_or(|end| end > ADDRESSES_END) {
                let what = format!(
                    "{bytes:#x} bytes from address {address:#x} reach beyond all physical addresses"
                );
                return Err(Error::Regions(what));
            }
        }
        extents.sort_by_key(|extent| extent.address);
        let mut all: Vec<(u64, u64)> =
            extents.iter().map(|extent| (extent.address, extent.end())).collect();
        all.extend(zeros.iter().map(|zeros| (zeros.start, zeros.end)));
        let regions = pages_of(all);
        if regions.is_empty() {
            return Err(Error::Regions("there is no page in it".into()));
        }
        let mut apart: Vec<Extent> = Vec::new();
        for extent in extents {
            let end = apart.last().map_or(0, Extent::end);
            let extent = extent.from(end);
            match apart.last_mut() {
                _ if extent.bytes == 0 => {}
                Some(last)
                    if extent.address == end
                        && last.offset.checked_add(last.bytes) == Some(extent.offset) =>
                {
                    last.bytes += extent.bytes;
                }
                _ => apart.push(extent),
            }
        }
        apart.shrink_to_fit();
        Ok(GuestMemory { source, path: None, regions, extents: apart })
    }

    /// The same, with a name for sentences.
    pub(crate) fn named(self, path: &Path) -> GuestMemory {
        GuestMemory { path: Some(path.into()), ..self }
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

    /// Bytes that should be in the file, which ends before them. They are read as zeros.
    pub fn bytes_missing(&self) -> u64 {
        let Ok(size) = self.source.size() else { return 0 };
        let missing = self.extents.iter().map(|extent| {
            let end = extent.offset.saturating_add(extent.bytes);
            end - size.clamp(extent.offset, end)
        });
        missing.sum()
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
            self.read_extents(address, now)?;
            (address, into) = (address + count as u64, rest);
        }
        Ok(())
    }

    /// How many bytes from an address on are zero, as far as that is known without reading them.
    pub fn zeros(&self, address: u64) -> u64 {
        let next = self.extents.partition_point(|extent| extent.end() <= address);
        match self.extents.get(next).map(|extent| (extent, extent.from(address))) {
            Some((whole, rest)) if whole.address <= address => {
                self.source.zeros(rest.offset).min(rest.bytes)
            }
            Some((whole, _)) => whole.address - address,
            None => u64::MAX - address,
        }
    }

    /// What extents have of the bytes from an address, and zeros elsewhere.
    fn read_extents(&self, address: u64, into: &mut [u8]) -> Result<()> {
        let end = address + into.len() as u64;
        let first = self.extents.partition_point(|extent| extent.end() <= address);
        let mut done = 0;
        for extent in &self.extents[first..] {
            if extent.address >= end {
                break;
            }
            let from = (extent.address.max(address) - address) as usize;
            let to = (extent.end().min(end) - address) as usize;
            into[done..from].fill(0);
            let extent = extent.from(address);
            let have = read_some(&*self.source, &mut into[from..to], extent.offset);
            let have = have.map_err(|error| error.in_file(self.path.as_deref()))?;
            into[from + have..to].fill(0);
            done = to;
        }
        into[done..].fill(0);
        Ok(())
    }
}

/// The pages in which ranges of addresses lie.
fn pages_of(mut ranges: Vec<(u64, u64)>) -> Vec<Region> {
    ranges.retain(|(start, end)| start < end);
    ranges.sort_unstable();
    let mut regions: Vec<Region> = Vec::new();
    let mut page_in_file = 0;
    for (start, end) in ranges {
        let (start, end) = (start / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
        let pages = match regions.last_mut() {
            Some(last) if start <= last.first_page + last.pages => {
                let more = end.saturating_sub(last.first_page + last.pages);
                last.pages += more;
                more
            }
            _ => {
                regions.push(Region { first_page: start, page_in_file, pages: end - start });
                end - start
            }
        };
        page_in_file += pages;
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Vec<u8> {
        (0..5 * 4096u32 - 100).map(|n| (n / 4096) as u8 + 1).collect()
    }

    fn memory(regions: &[[u64; 3]]) -> Result<GuestMemory> {
        let regions = regions.iter().map(|&[first_page, page_in_file, pages]| Region {
            first_page,
            page_in_file,
            pages,
        });
        GuestMemory::new(Arc::new(contents()), 0, regions.collect())
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
        assert_eq!((memory.bytes(), memory.bytes_missing()), (5 * 4096, 100));
    }

    #[test]
    fn regions_that_overlap_or_end_nowhere_are_refused() {
        for regions in [
            &[[0, 0, 2], [1, 2, 1]][..],
            &[[u64::MAX, 0, 2]],
            &[[0, u64::MAX, 2]],
            &[[1, 0, 1 << 32]],
            &[[0, 0, 0]],
        ] {
            assert!(memory(regions).is_err(), "{regions:?}");
        }
    }

    #[test]
    fn extents_lie_anywhere_and_may_share_bytes() {
        let extent = |address, offset, bytes| Extent { address, offset, bytes };
        let extents = vec![
            extent(0x5800, 4090, 0x10),
            extent(0x1100, 5, 0x900),
            extent(0x1200, 0x4000, 0x1000),
        ];
        let memory = GuestMemory::of_extents(
            Arc::new(contents()),
            extents,
            &[0x9000..0xa001, 0x9000..0x9001],
        )
        .unwrap();
        let region = |first_page, page_in_file, pages| Region { first_page, page_in_file, pages };
        assert_eq!(memory.regions(), [region(1, 0, 2), region(5, 2, 1), region(9, 3, 2)]);
        let byte = |at| {
            let mut byte = [0xff];
            memory.read(at, &mut byte).map(|()| byte[0]).ok()
        };
        let expected = [
            (0x0fff, None),
            (0x1000, Some(0)),
            (0x10ff, Some(0)),
            (0x1100, Some(1)),
            (0x19ff, Some(1)),
            (0x1a00, Some(5)),
            (0x21ff, Some(0)),
            (0x5800, Some(1)),
            (0x5806, Some(2)),
            (0x5810, Some(0)),
            (0xaffe, Some(0)),
            (0xb000, None),
        ];
        for (at, value) in expected {
            assert_eq!(byte(at), value, "{at:#x}");
        }
        assert_eq!([0x1000, 0x1100, 0x2000].map(|at| memory.zeros(at)), [0x100, 0, 0]);
        assert_eq!(memory.zeros(0x5900), u64::MAX - 0x5900);
        let mut page = [0xff; 0x2000];
        memory.read(0x1000, &mut page).unwrap();
        let counts = [0, 1, 5].map(|value| page.iter().filter(|&&byte| byte == value).count());
        assert_eq!(counts, [0x2000 - 0x900 - 0x800 + 100, 0x900, 0x800 - 100]);
        assert!(
            GuestMemory::of_extents(Arc::new(vec![]), vec![extent(u64::MAX, 0, 2)], &[]).is_err()
        );
        assert!(GuestMemory::of_extents(Arc::new(vec![]), vec![], &[]).is_err());
    }
}
