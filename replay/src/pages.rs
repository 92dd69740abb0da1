//! The page store: RAM as page numbers and unique contents. Zero pages cost nothing, equal ones once.

use crate::file::Bytes;
use dejavm_memory::GuestRam;
use dejavm_units::{PAGE_SIZE, Pfn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const PAGE: usize = PAGE_SIZE as usize;
/// Unique contents in one batch at most: 4 MiB.
const BATCH_CONTENTS: usize = 1024;
/// Page numbers in one batch at most.
const BATCH_PAGES: usize = 1 << 16;

/// Some pages of RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageBatch {
    /// Page number, and which unique content it has, counted over the whole file.
    pub pages: Vec<(u64, u32)>,
    /// The contents that appear first here, 4096 bytes each.
    pub contents: Bytes,
}

/// Page batches that do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageStoreError {
    /// Contents that are no whole pages, or that no page refers to.
    #[error("{0} bytes of contents belong to no page")]
    Ragged(usize),
    /// A page outside the machine's RAM.
    #[error("page {0:#x} is outside the machine's RAM")]
    OutsideRam(u64),
    /// A reference to contents that no batch holds.
    #[error("page {0:#x} refers to contents that the file does not hold")]
    Dangling(u64),
}

/// Cuts all of RAM that is not zero into batches.
pub(crate) fn batches(
    ram: &GuestRam,
    mut each: impl FnMut(PageBatch) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut known: BTreeMap<[u8; 32], u32> = BTreeMap::new();
    let mut batch = PageBatch::default();
    let mut page = [0u8; PAGE];
    for pfn in ram.all_pages() {
        ram.read_page(pfn, &mut page).expect("`all_pages` lists them");
        if page == [0; PAGE] {
            continue;
        }
        let fresh = known.len() as u32;
        let number = *known.entry(blake3::hash(&page).into()).or_insert(fresh);
        if number == fresh {
            batch.contents.0.extend_from_slice(&page);
        }
        batch.pages.push((pfn.0, number));
        if batch.contents.0.len() >= BATCH_CONTENTS * PAGE || batch.pages.len() >= BATCH_PAGES {
            each(std::mem::take(&mut batch))?;
        }
    }
    if !batch.pages.is_empty() {
        each(batch)?;
    }
    Ok(())
}

/// A page's content in the recording file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FilePage {
    /// Offset of the chunk.
    pub(crate) chunk: u64,
    /// Which of its contents.
    pub(crate) index: u32,
}

/// Puts batches back into RAM, in the order of the file.
#[derive(Default)]
pub(crate) struct PageLoader {
    /// Where each unique content is, and the page that it was written to first. RAM is its copy: another would
    /// cost as much memory again.
    first: Vec<(FilePage, Pfn)>,
    /// The pages that were written, and where their contents are.
    loaded: Vec<(Pfn, FilePage)>,
}

impl PageLoader {
    pub(crate) fn load(
        &mut self,
        batch: &PageBatch,
        chunk: u64,
        ram: &mut GuestRam,
    ) -> Result<(), PageStoreError> {
        let (all, ragged) = batch.contents.0.as_chunks::<PAGE>();
        let mut fresh = all.iter();
        for &(number, content) in &batch.pages {
            let dangling = PageStoreError::Dangling(number);
            let pfn = Pfn(number);
            let (place, page) = match self.first.get(content as usize) {
                Some(&(place, first)) => {
                    let mut page = [0; PAGE];
                    ram.read_page(first, &mut page).expect("it was written before");
                    (place, page)
                }
                None if content as usize == self.first.len() => {
                    let index = (all.len() - fresh.len()) as u32;
                    (FilePage { chunk, index }, *fresh.next().ok_or(dangling)?)
                }
                None => return Err(dangling),
            };
            if ram.write_page(pfn, &page).is_err() {
                return Err(PageStoreError::OutsideRam(number));
            }
            if content as usize == self.first.len() {
                self.first.push((place, pfn));
            }
            self.loaded.push((pfn, place));
        }
        match fresh.len() * PAGE + ragged.len() {
            0 => Ok(()),
            left => Err(PageStoreError::Ragged(left)),
        }
    }

    /// The pages that were written, ascending, each with where its content is: the last one written counts.
    pub(crate) fn into_loaded(self) -> Vec<(Pfn, FilePage)> {
        let mut loaded = self.loaded;
        loaded.reverse();
        loaded.sort_by_key(|(pfn, _)| *pfn);
        loaded.dedup_by_key(|(pfn, _)| *pfn);
        loaded
    }
}
