//! What RAM held at checkpoints: contents stored once however often they occur, and for each page the
//! checkpoints at which it had changed.

use crate::pages::FilePage;
use dejavm_memory::GuestRam;
use dejavm_units::{PAGE_SIZE, Pfn, Position};
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes of a page.
pub(super) const PAGE: usize = PAGE_SIZE as usize;

/// A page's content, and its hash.
pub(super) struct Stored {
    hash: u128,
    pub(super) bytes: [u8; PAGE],
}

/// Where a page's content is.
#[derive(Clone)]
pub(super) enum Content {
    Zero,
    Held(Arc<Stored>),
    File(FilePage),
}

impl Content {
    /// Whether two are known to be equal without looking.
    pub(super) fn same(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Zero, Content::Zero) => true,
            (Content::Held(a), Content::Held(b)) => Arc::ptr_eq(a, b),
            (Content::File(a), Content::File(b)) => a == b,
            (Content::Zero | Content::Held(_) | Content::File(_), _) => false,
        }
    }
}

/// What a version costs beside its content: estimated, maps and allocations included.
const VERSION_BYTES: u64 = 64;
/// What a unique content costs.
const CONTENT_BYTES: u64 = size_of::<Stored>() as u64 + 64;

/// The contents of pages over time. A version of a page at a checkpoint holds until the page's next.
/// Pages without version are zero.
#[derive(Default)]
pub(super) struct PageHistory {
    contents: BTreeMap<u128, Arc<Stored>>,
    versions: BTreeMap<Pfn, Vec<(Position, Content)>>,
    /// Versions in `versions`.
    count: u64,
}

impl PageHistory {
    /// Memory that this takes, estimated from counts.
    pub(super) fn bytes(&self) -> u64 {
        self.count * VERSION_BYTES + self.contents.len() as u64 * CONTENT_BYTES
    }

    /// The stored form of what a page holds now.
    pub(super) fn keep(&mut self, ram: &GuestRam, pfn: Pfn) -> Content {
        let mut bytes = [0; PAGE];
        ram.read_page(pfn, &mut bytes).expect("pages that exist are noted only");
        if bytes == [0; PAGE] {
            return Content::Zero;
        }
        let hash = xxh3_128(&bytes);
        if let Some(known) = self.contents.get(&hash) {
            // A guest can make two pages of one hash: such a page is stored for itself.
            return Content::Held(match known.bytes == bytes {
                true => known.clone(),
                false => Arc::new(Stored { hash, bytes }),
            });
        }
        let stored = Arc::new(Stored { hash, bytes });
        self.contents.insert(hash, stored.clone());
        Content::Held(stored)
    }

    fn release(contents: &mut BTreeMap<u128, Arc<Stored>>, content: Content) {
        if let Content::Held(stored) = content {
            // This one and the store's.
            let last = Arc::strong_count(&stored) <= 2
                && contents.get(&stored.hash).is_some_and(|known| Arc::ptr_eq(known, &stored));
            if last {
                contents.remove(&stored.hash);
            }
        }
    }

    /// A page's content at a checkpoint is this from now on.
    pub(super) fn set(&mut self, pfn: Pfn, at: Position, content: Content) {
        let versions = self.versions.entry(pfn).or_default();
        match versions.binary_search_by_key(&at, |(at, _)| *at) {
            Ok(found) => {
                let old = std::mem::replace(&mut versions[found].1, content);
                PageHistory::release(&mut self.contents, old);
            }
            Err(place) => {
                versions.insert(place, (at, content));
                self.count += 1;
            }
        }
    }

    /// What a page held at a checkpoint.
    pub(super) fn at(&self, pfn: Pfn, at: Position) -> Content {
        let Some(versions) = self.versions.get(&pfn) else { return Content::Zero };
        let after = versions.partition_point(|(version, _)| *version <= at);
        match after.checked_sub(1) {
            Some(last) => versions[last].1.clone(),
            None => Content::Zero,
        }
    }

    /// The version at `from` belongs to the later checkpoint `to` now, or to none if `to` has its own.
    pub(super) fn hand_on(&mut self, pfn: Pfn, from: Position, to: Position) {
        let Some(versions) = self.versions.get_mut(&pfn) else { return };
        let Ok(found) = versions.binary_search_by_key(&from, |(at, _)| *at) else { return };
        let next = versions.get(found + 1).map(|(at, _)| *at);
        assert!(next.is_none_or(|next| to <= next), "no checkpoint lies between");
        if next == Some(to) {
            let (_, old) = versions.remove(found);
            self.count -= 1;
            PageHistory::release(&mut self.contents, old);
        } else {
            versions[found].0 = to;
        }
    }

    /// Forgets the version of a page at a checkpoint.
    pub(super) fn forget(&mut self, pfn: Pfn, at: Position) {
        let Some(versions) = self.versions.get_mut(&pfn) else { return };
        if let Ok(found) = versions.binary_search_by_key(&at, |(at, _)| *at) {
            let (_, old) = versions.remove(found);
            self.count -= 1;
            if versions.is_empty() {
                self.versions.remove(&pfn);
            }
            PageHistory::release(&mut self.contents, old);
        }
    }
}
