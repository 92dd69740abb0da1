//! Which pages are in a dump, a bit for each.

use crate::error::Error;
use crate::guest::Guest;
use crate::output::{Piece, is_zero};
use crate::paging::{Visitor, visit};
use crate::windows::runs::PageRun;
use crate::windows::space::Space;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

const PAGE: u64 = 4096;
/// Words of the bitmap changed: a bound for page tables made to mislead.
const CHANGES_MAX: u64 = 1 << 30;

/// A bit for each page of guest memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// For the pages of runs, none of them in it.
    pub fn new(runs: &[PageRun]) -> Bitmap {
        let end = runs.iter().map(PageRun::end).max().unwrap_or(0);
        Bitmap { words: vec![0; end.div_ceil(64) as usize] }
    }

    /// All pages of runs that are not zero.
    pub fn of_contents(
        guest: &Guest,
        runs: &[PageRun],
        threads: NonZero<usize>,
    ) -> Result<Bitmap, Error> {
        let words: Vec<AtomicU64> =
            Bitmap::new(runs).words.into_iter().map(AtomicU64::new).collect();
        // 64 pages each, of which only the first and the last of a run may share a word with others.
        let pieces: Vec<PageRun> = runs.iter().flat_map(|run| pieces(*run)).collect();
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            let mut buffer = vec![0; 64 * PAGE as usize];
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let bytes = &mut buffer[..(piece.pages * PAGE) as usize];
                if let Err(error) = guest.read(piece.first * PAGE, bytes) {
                    failure.lock().expect("nobody panics with it").get_or_insert(error);
                    next.store(pieces.len(), Ordering::Relaxed);
                    return;
                }
                let mut bits = 0;
                for (page, contents) in (piece.first..).zip(bytes.chunks_exact(PAGE as usize)) {
                    bits |= u64::from(!is_zero(contents)) << (page % 64);
                }
                words[(piece.first / 64) as usize].fetch_or(bits, Ordering::Relaxed);
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads.get() {
                scope.spawn(work);
            }
            work();
        });
        match failure.into_inner().expect("nobody panics with it") {
            Some(error) => Err(error),
            None => Ok(Bitmap { words: words.into_iter().map(AtomicU64::into_inner).collect() }),
        }
    }

    /// All pages of runs that the kernel's half of an address space leads to, and the page tables.
    pub fn of_kernel(guest: &Guest, space: &Space<'_>, runs: &[PageRun]) -> Bitmap {
        let mut kernel = Kernel { space, pages: Bitmap::new(runs), changes: 0 };
        visit(space.tables, &guest.memory, &mut kernel);
        let mut bitmap = Bitmap::new(runs);
        for run in runs {
            for page in run.first..run.end() {
                if kernel.pages.has(page) {
                    bitmap.insert(page);
                }
            }
        }
        bitmap
    }

    /// Puts a page in, if there can be one.
    pub fn insert(&mut self, page: u64) {
        if let Some(word) = self.words.get_mut((page / 64) as usize) {
            *word |= 1 << (page % 64);
        }
    }

    /// Puts pages of one word in.
    fn insert_piece(&mut self, piece: PageRun) {
        if let Some(word) = self.words.get_mut((piece.first / 64) as usize) {
            *word |= u64::MAX >> (64 - piece.pages) << (piece.first % 64);
        }
    }

    /// Whether a page is in it.
    pub fn has(&self, page: u64) -> bool {
        let word = self.words.get((page / 64) as usize);
        word.is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// How many pages are in it.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many bits it has.
    pub fn bits(&self) -> u64 {
        self.words.len() as u64 * 64
    }

    /// How many pages that are in it come before a page.
    pub fn rank(&self, page: u64) -> u64 {
        let (whole, bit) = ((page / 64) as usize, page % 64);
        let before: u64 =
            self.words.iter().take(whole).map(|word| u64::from(word.count_ones())).sum();
        let last = self.words.get(whole).map_or(0, |word| word & ((1 << bit) - 1));
        before + u64::from(last.count_ones())
    }

    /// As dumps have it: 32-bit words, lowest bit first, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The pages that are in it, and where they are in a file that has them one after another from `offset`.
    pub fn pieces(&self, offset: u64) -> impl Iterator<Item = Piece> {
        let mut offset = offset;
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next(at, true)?;
            let end = self.next(first, false).unwrap_or(self.bits());
            let piece = Piece { physical: first * PAGE, bytes: (end - first) * PAGE, offset };
            (at, offset) = (end, offset + piece.bytes);
            Some(piece)
        })
    }

    /// The first page from `at` that is in it, or is not.
    fn next(&self, at: u64, present: bool) -> Option<u64> {
        let mut index = at / 64;
        let mut mask = u64::MAX << (at % 64);
        loop {
            let word = self.words.get(index as usize)?;
            let wanted = if present { *word } else { !word } & mask;
            if wanted != 0 {
                return Some(index * 64 + u64::from(wanted.trailing_zeros()));
            }
            (index, mask) = (index + 1, u64::MAX);
        }
    }
}

/// A run in pieces that do not cross from one word of the bitmap to the next.
fn pieces(run: PageRun) -> impl Iterator<Item = PageRun> {
    let mut at = run.first;
    std::iter::from_fn(move || {
        let pages = (64 - at % 64).min(run.end() - at);
        let piece = PageRun { first: at, pages };
        at += pages;
        (pages > 0).then_some(piece)
    })
}

/// The kernel's pages, as they are met.
struct Kernel<'a> {
    space: &'a Space<'a>,
    pages: Bitmap,
    changes: u64,
}

impl Visitor for Kernel<'_> {
    fn table(&mut self, physical: u64) {
        self.pages.insert(physical / PAGE);
    }

    fn page(&mut self, linear: u64, physical: u64, bytes: u64) -> bool {
        if self.space.is_kernel(linear) {
            for piece in pieces(PageRun { first: physical / PAGE, pages: bytes / PAGE }) {
                self.pages.insert_piece(piece);
                self.changes += 1;
            }
        }
        self.changes < CHANGES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_and_counted() {
        let runs = [PageRun { first: 1, pages: 63 }, PageRun { first: 100, pages: 200 }];
        let mut bitmap = Bitmap::new(&runs);
        assert_eq!(bitmap.bits(), 320);
        let present = [1, 2, 63, 64, 65, 127, 128, 299, 319];
        for page in present {
            bitmap.insert(page);
        }
        bitmap.insert(320);
        assert_eq!(bitmap.count(), present.len() as u64);
        for (rank, page) in present.into_iter().enumerate() {
            assert!(bitmap.has(page) && bitmap.rank(page) == rank as u64, "{page}");
        }
        let pieces: Vec<_> = bitmap
            .pieces(0x2000)
            .map(|piece| (piece.physical, piece.bytes, piece.offset))
            .collect();
        let expected = [
            (0x1000, 0x2000, 0x2000),
            (63 << 12, 0x3000, 0x4000),
            (127 << 12, 0x2000, 0x7000),
            (299 << 12, 0x1000, 0x9000),
            (319 << 12, 0x1000, 0xa000),
        ];
        assert_eq!(pieces, expected);
        let bytes = bitmap.encode();
        assert_eq!((bytes.len(), bytes[0], bytes[7], bytes[8]), (40, 0b110, 0x80, 0b11));
    }

    #[test]
    fn pieces_stay_in_words() {
        let run = PageRun { first: 60, pages: 70 };
        let pieces: Vec<_> = pieces(run).map(|piece| (piece.first, piece.pages)).collect();
        assert_eq!(pieces, [(60, 4), (64, 64), (128, 2)]);
    }
}
