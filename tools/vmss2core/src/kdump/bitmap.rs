//! The two bitmaps: pages that are memory, and pages that are in the file. A bit for each page, lowest first.

use crate::error::Error;
use crate::guest::Guest;
use crate::kdump::free::FreePages;
use crate::output::Output;
use std::os::unix::fs::FileExt;
use vmss::PAGE_BYTES;

/// Pages of a block of bitmap.
pub const WINDOW_PAGES: u64 = 8 * PAGE_BYTES;

/// A block of bitmap.
pub struct Bits(Vec<u8>);

impl Bits {
    /// All clear.
    fn new() -> Bits {
        Bits(vec![0; PAGE_BYTES as usize])
    }

    /// Sets those from one page on, before another.
    fn set(&mut self, from: u64, to: u64) {
        self.change(from, to, |byte, mask| *byte |= mask);
    }

    /// Clears those from one page on, before another.
    pub fn clear(&mut self, from: u64, to: u64) {
        self.change(from, to, |byte, mask| *byte &= !mask);
    }

    fn change(&mut self, from: u64, to: u64, change: impl Fn(&mut u8, u8)) {
        let mut page = from;
        while page < to {
            let end = to.min((page / 8 + 1) * 8);
            let mask = ((1u16 << (end - page)) - 1) << (page % 8);
            change(&mut self.0[(page / 8) as usize], mask as u8);
            page = end;
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }
}

/// Where the bitmaps are in the file.
#[derive(Clone, Copy)]
pub struct Bitmaps {
    /// The first.
    pub at: u64,
    /// Blocks of each.
    pub blocks: u64,
}

impl Bitmaps {
    /// Where they end.
    pub fn end(&self) -> u64 {
        self.at + 2 * self.blocks * PAGE_BYTES
    }

    fn second(&self) -> u64 {
        self.at + self.blocks * PAGE_BYTES
    }

    /// Writes both; how many pages are in the second.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(
        &self,
        guest: &Guest,
        free: Option<&FreePages<'_>>,
        output: &Output,
    ) -> Result<u64, Error> {
        let mut count = 0;
        let mut window = 0;
        for region in guest.memory.regions() {
            // Windows without memory are holes of the file: clear bits.
            let mut next = window.max(region.first_page / WINDOW_PAGES);
            let end = (region.first_page + region.pages).div_ceil(WINDOW_PAGES);
            while next < end {
                count += self.write_window(next, guest, free, output)?;
                next += 1;
            }
            window = next;
        }
        Ok(count)
    }

    fn write_window(
        &self,
        window: u64,
        guest: &Guest,
        free: Option<&FreePages<'_>>,
        output: &Output,
    ) -> Result<u64, Error> {
        let first = window * WINDOW_PAGES;
        let mut bits = Bits::new();
        let regions = guest.memory.regions();
        let begin = regions.partition_point(|region| region.first_page + region.pages <= first);
        for region in &regions[begin..] {
            if region.first_page >= first + WINDOW_PAGES {
                break;
            }
            let from = region.first_page.max(first);
            let to = (region.first_page + region.pages).min(first + WINDOW_PAGES);
            bits.set(from - first, to - first);
        }
        let at = window * PAGE_BYTES;
        output.checked(output.file().write_all_at(&bits.0, self.at + at))?;
        if let Some(free) = free {
            free.exclude(window, &mut bits);
        }
        output.checked(output.file().write_all_at(&bits.0, self.second() + at))?;
        Ok(bits.count())
    }

    /// Reads bits of the second, of pages from a multiple of 8 on.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, page: u64, into: &mut [u8], output: &Output) -> Result<(), Error> {
        output.checked(output.file().read_exact_at(into, self.second() + page / 8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_numbered_from_the_lowest() {
        let mut bits = Bits::new();
        bits.set(3, 21);
        assert_eq!((bits.count(), &bits.0[..4]), (18, &[0xf8, 0xff, 0x1f, 0][..]));
        bits.clear(4, 6);
        bits.clear(8, 16);
        assert_eq!((bits.count(), &bits.0[..4]), (8, &[0xc8, 0, 0x1f, 0][..]));
        bits.set(0, WINDOW_PAGES);
        assert_eq!(bits.count(), WINDOW_PAGES);
        bits.clear(WINDOW_PAGES - 1, WINDOW_PAGES);
        assert_eq!((bits.count(), bits.0[4095]), (WINDOW_PAGES - 1, 0x7f));
    }
}
