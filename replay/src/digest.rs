//! Digests: what a machine was at a moment, small enough to store often.

use crate::file::Moment;
use crate::guest::Guest;
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, PAGE_SHIFT, Pfn};
use serde::{Deserialize, Serialize};
use std::fmt;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128};

/// An XXH3-128 hash. Digests guard against our own mistakes, not against an adversary.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hash128(pub [u8; 16]);

impl fmt::Debug for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Hash128 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Hash128 {
    /// The hash of bytes.
    pub fn of(bytes: &[u8]) -> Hash128 {
        Hash128(xxh3_128(bytes).to_le_bytes())
    }
}

/// Groups of pages that a memory digest can tell apart.
pub const BUCKETS: usize = 64;

/// A machine at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// When.
    pub at: Moment,
    /// Hash of `state`.
    pub machine: Hash128,
    /// Hash of the pages written since the digest before, and which they were.
    pub memory: Hash128,
    /// How many pages those were.
    pub pages: u64,
    /// The same by group of pages: XXH3-64 over each group's pages, zero for a group without any.
    pub buckets: Vec<u64>,
    /// The machine's state in bincode, so that a divergence can name the field.
    pub state: Vec<u8>,
    /// The pages that it is over, as first page number and count, ascending, where the engine that recorded told of pages that the
    /// guest may have written: another engine tells of others. Empty where every engine tells of the same.
    #[serde(skip)]
    pub listed: Vec<(u64, u64)>,
}

/// The group that a page belongs to. Those of volumes are spread over all groups.
fn bucket_of(pfn: Pfn, ram: &GuestRam) -> usize {
    let Some(offset) = ram.layout().offset(pfn.gpa()) else { return pfn.0 as usize % BUCKETS };
    let page = offset >> PAGE_SHIFT;
    let pages = ram.layout().total_bytes() >> PAGE_SHIFT;
    (page * BUCKETS as u64 / pages) as usize
}

/// The addresses of the first and the last page of a group, for people.
pub(crate) fn bucket_pages(bucket: usize, layout: RamLayout) -> (Gpa, Gpa) {
    let pages = layout.total_bytes() >> PAGE_SHIFT;
    let first = |bucket: usize| (bucket as u64 * pages).div_ceil(BUCKETS as u64);
    let last = first(bucket + 1).saturating_sub(1).max(first(bucket));
    (layout.gpa(first(bucket) << PAGE_SHIFT), layout.gpa(last << PAGE_SHIFT))
}

impl Digest {
    /// The digest of a machine now; ends the epoch of written pages.
    pub fn take<G: Guest>(guest: &mut G) -> Digest {
        let dirty = guest.take_dirty();
        Digest::of(guest, &dirty)
    }

    /// The digest of a machine now, if these pages were written since the one before, ascending.
    pub(crate) fn of<G: Guest>(guest: &G, dirty: &[Pfn]) -> Digest {
        let at = Moment { position: guest.position(), guest_ns: guest.guest_ns() };
        let state = crate::file::to_bytes(&guest.save());
        let ram = guest.ram();
        let mut all = Xxh3::new();
        let mut buckets = vec![0u64; BUCKETS];
        let mut contents = [0u8; 4096];
        for &pfn in dirty {
            ram.read_page(pfn, &mut contents).expect("dirty pages exist");
            let page = xxh3_128(&contents);
            all.update(&pfn.0.to_le_bytes());
            all.update(&page.to_le_bytes());
            let bucket = &mut buckets[bucket_of(pfn, ram)];
            *bucket = xxh3_64_with_seed(&page.to_le_bytes(), *bucket ^ pfn.0);
        }
        Digest {
            at,
            machine: Hash128::of(&state),
            memory: Hash128(all.digest128().to_le_bytes()),
            pages: dirty.len() as u64,
            buckets,
            state,
            listed: Vec::new(),
        }
    }

    /// As [`Digest::of`], with the list of the pages.
    pub(crate) fn listing<G: Guest>(guest: &G, pages: &[Pfn]) -> Digest {
        let mut listed: Vec<(u64, u64)> = Vec::new();
        for &Pfn(pfn) in pages {
            match listed.last_mut() {
                Some((first, count)) if *first + *count == pfn => *count += 1,
                _ => listed.push((pfn, 1)),
            }
        }
        Digest { listed, ..Digest::of(guest, pages) }
    }

    /// The digest of a machine now, to be compared with this one; `written` are the pages that its own engine tells of.
    pub(crate) fn again<G: Guest>(&self, guest: &G, written: &[Pfn]) -> Digest {
        // Who also tells of pages that were not written is not asked: an empty list says that none were.
        if self.listed.is_empty() && guest.tells_exactly() {
            return Digest::of(guest, written);
        }
        Digest { listed: self.listed.clone(), ..Digest::of(guest, &self.listed_pages(guest.ram())) }
    }

    /// The listed pages; what a damaged list has beyond RAM, or twice, is left out.
    pub(crate) fn listed_pages(&self, ram: &GuestRam) -> Vec<Pfn> {
        let mut pages = Vec::new();
        let mut next = 0;
        for &(first, count) in &self.listed {
            // No page has such a number.
            let end = first.saturating_add(count).min(1 << 52);
            pages.extend((first.max(next)..end).map(Pfn).take_while(|pfn| ram.has_page(*pfn)));
            next = next.max(end);
        }
        pages
    }
}
