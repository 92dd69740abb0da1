//! The page store: RAM as page numbers and unique contents. Zero pages cost nothing, equal ones once.

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
    pub contents: Vec<u8>,
}

/// Page batches that do not make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageStoreError {
    /// Contents that are no whole pages.
    #[error("{0} bytes are no whole number of pages")]
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
    for pfn in ram.pages() {
        ram.read(pfn.gpa(), &mut page).expect("`pages` lists RAM");
        if page == [0; PAGE] {
            continue;
        }
        let fresh = known.len() as u32;
        let number = *known.entry(blake3::hash(&page).into()).or_insert(fresh);
        if number == fresh {
            batch.contents.extend_from_slice(&page);
        }
        batch.pages.push((pfn.0, number));
        if batch.contents.len() >= BATCH_CONTENTS * PAGE || batch.pages.len() >= BATCH_PAGES {
            each(std::mem::take(&mut batch))?;
        }
    }
    if !batch.pages.is_empty() {
        each(batch)?;
    }
    Ok(())
}

/// Puts batches back into RAM, in the order of the file.
#[derive(Default)]
pub(crate) struct PageLoader {
    contents: Vec<Box<[u8; PAGE]>>,
}

impl PageLoader {
    pub(crate) fn load(
        &mut self,
        batch: &PageBatch,
        ram: &mut GuestRam,
    ) -> Result<(), PageStoreError> {
        let (pages, rest) = batch.contents.as_chunks::<PAGE>();
        if !rest.is_empty() {
            return Err(PageStoreError::Ragged(batch.contents.len()));
        }
        self.contents.extend(pages.iter().map(|page| Box::new(*page)));
        for &(pfn, number) in &batch.pages {
            let page = self.contents.get(number as usize).ok_or(PageStoreError::Dangling(pfn))?;
            let in_range = pfn < 1 << 52;
            let written = in_range && ram.write(Pfn(pfn).gpa(), &page[..]).is_ok();
            if !written {
                return Err(PageStoreError::OutsideRam(pfn));
            }
        }
        Ok(())
    }
}
