//! What takes time about a checkpoint's pages: hashing them, finding those that the file holds already,
//! compressing the others. It needs no machine, only copies, and so may be done beside the recorder's thread.

use crate::file::{Bytes, Chunk, Encoder};
use dejavm_units::PAGE_SIZE;
use memmap2::{Advice, MmapMut};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages in one batch at most, as in one chunk of contents.
pub(crate) const BATCH_PAGES: usize = 1024;

/// Copies of at most 1024 pages, none of them zero: 4 MiB, to be used again.
pub struct PageCopies {
    bytes: MmapMut,
    pages: usize,
}

impl PageCopies {
    /// Room for copies. In huge pages: faults at every 4 KiB take several times as long as the copies.
    pub(crate) fn new() -> io::Result<PageCopies> {
        let bytes = MmapMut::map_anon(BATCH_PAGES * PAGE)?;
        // A refusal is harmless.
        let _ = bytes.advise(Advice::HugePage);
        Ok(PageCopies { bytes, pages: 0 })
    }

    /// Has the host back all of it with memory.
    fn touch(&mut self) {
        self.bytes.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0);
    }

    /// Forgets all copies.
    pub(crate) fn clear(&mut self) {
        self.pages = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pages == BATCH_PAGES
    }

    /// Adds what `copy` puts into the room for a page, unless that is zeros; whether it was added.
    pub(crate) fn add(&mut self, copy: impl FnOnce(&mut [u8])) -> bool {
        assert!(!self.is_full(), "a full batch is handed in");
        let page = &mut self.bytes[self.pages * PAGE..][..PAGE];
        copy(page);
        let zero = page == [0; PAGE];
        self.pages += usize::from(!zero);
        !zero
    }
}

/// A content: number of the chunk among all those with contents, which of its pages.
pub(crate) type Place = (u32, u32);

/// A batch of pages, packed.
pub struct Packed {
    /// The room of the copies.
    pub(crate) copies: PageCopies,
    /// Where each page is.
    pub(crate) places: Vec<Place>,
    /// The contents that are new, as a chunk stands in the file; `None`: there are none.
    pub(crate) chunk: Option<Vec<u8>>,
    /// How many those are.
    pub(crate) fresh: u64,
}

/// Packs pages, batch after batch, and knows which contents there were.
#[derive(Default)]
pub struct Packing {
    known: BTreeMap<[u8; 32], Place>,
    chunks: u32,
    /// Empty between batches.
    contents: Vec<u8>,
    encoder: Encoder,
}

impl Packing {
    /// Packs a batch. An empty one is room that will be wanted.
    ///
    /// # Errors
    /// Those of the compressor, which needs memory.
    pub fn pack(&mut self, mut copies: PageCopies) -> io::Result<Packed> {
        if copies.is_empty() {
            copies.touch();
            return Ok(Packed { copies, places: Vec::new(), chunk: None, fresh: 0 });
        }
        let mut contents = std::mem::take(&mut self.contents);
        contents.clear();
        let (mut fresh, mut places) = (0, Vec::with_capacity(copies.pages));
        for page in copies.bytes.chunks_exact(PAGE).take(copies.pages) {
            let place = match self.known.entry(*blake3::hash(page).as_bytes()) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    contents.extend_from_slice(page);
                    fresh += 1;
                    *unknown.insert((self.chunks, fresh - 1))
                }
            };
            places.push(place);
        }
        let contents = Chunk::Contents(Bytes(contents));
        let chunk = (fresh > 0).then(|| self.encoder.encode(&contents)).transpose()?;
        if let Chunk::Contents(Bytes(contents)) = contents {
            self.contents = contents;
        }
        self.chunks += u32::from(chunk.is_some());
        Ok(Packed { copies, places, chunk, fresh: u64::from(fresh) })
    }
}

/// Where a recorder has pages packed. The recording is the same wherever that is and however long it takes.
pub trait Packer: Send {
    /// Takes a batch. The recorder takes back one before it hands in more than 32, so this need not wait.
    ///
    /// # Errors
    /// If nobody is there to pack it.
    fn hand_in(&mut self, copies: PageCopies) -> io::Result<()>;
    /// The batch that was handed in first of those that were not taken back, packed by the one
    /// [`Packing`]. Waits for it. Called only if there is one.
    ///
    /// # Errors
    /// Those of [`Packing::pack`], or if nobody is there any more who packs it.
    fn take_back(&mut self) -> io::Result<Packed>;
    /// Whether the machine goes on meanwhile. What a checkpoint costs hangs on it, and so how many there are.
    fn beside(&self) -> bool;
}

/// Packs as soon as pages are handed in, while the machine waits.
#[derive(Default)]
pub(crate) struct PackInPlace {
    packing: Packing,
    packed: VecDeque<Packed>,
}

impl Packer for PackInPlace {
    fn hand_in(&mut self, copies: PageCopies) -> io::Result<()> {
        self.packed.push_back(self.packing.pack(copies)?);
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<Packed> {
        Ok(self.packed.pop_front().expect("a batch was handed in"))
    }

    fn beside(&self) -> bool {
        false
    }
}
