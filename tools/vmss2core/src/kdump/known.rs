//! Pages that are in the file already, by their contents: another with the same is a descriptor only.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Of a page's contents: the first half of BLAKE3. A guest can do nothing to give two pages the same.
pub type Digest = u128;

/// Of more pages nothing is remembered: 35 MiB of memory, for 3.5 GiB of guest memory of which no page is like another.
const PAGES_MAX: usize = 7 << 17;

/// The digest of a page.
pub fn digest(page: &[u8]) -> Digest {
    let hash = blake3::hash(page);
    let (half, _) = hash.as_bytes().split_at(16);
    u128::from_le_bytes(half.try_into().expect("half of 32 bytes"))
}

/// Where a page is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first byte.
    pub at: u64,
    /// How many: 4096 at most.
    pub bytes: u16,
    /// `page_desc.flags`
    pub flags: u16,
}

/// The pages.
#[derive(Default)]
pub struct Known(HashMap<Digest, Place, BuildHasherDefault<Part>>);

impl Known {
    /// Where a page with these contents is, if one is.
    pub fn place(&self, digest: Digest) -> Option<Place> {
        self.0.get(&digest).copied()
    }

    /// Remembers one, as long as there is room: nothing is ever forgotten, so that what is found does not depend on when.
    pub fn add(&mut self, digest: Digest, place: Place) {
        if self.0.len() < PAGES_MAX {
            self.0.insert(digest, place);
        }
    }
}

/// A digest is its own hash.
#[derive(Default)]
struct Part(u64);

impl Hasher for Part {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("digests are numbers");
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_first_stays() {
        let mut known = Known::default();
        let place = |at| Place { at, bytes: 7, flags: 1 };
        let (one, other) = (digest(&[1; 4096]), digest(&[2; 4096]));
        assert_ne!(one, other);
        assert_eq!(known.place(one), None);
        known.add(one, place(5));
        assert_eq!((known.place(one), known.place(other)), (Some(place(5)), None));
        (0..PAGES_MAX as u128 + 5).for_each(|n| known.add(n, place(n as u64)));
        assert_eq!(known.place(one), Some(place(5)));
        assert_eq!(known.place(PAGES_MAX as u128), None);
    }
}
