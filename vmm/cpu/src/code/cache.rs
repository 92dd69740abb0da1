//! Decoded blocks: where they are kept, found, and dropped when their bytes change.

use super::op::{Handler, Op, OpRef, Reference};
use dejavm_memory::{GuestRam, PageFlags};
use dejavm_units::{Gpa, Pfn};

/// Operations per arena chunk (32 bytes each).
const CHUNK_OPS: usize = 1 << 15;
/// Chunks before everything is dropped and decoding starts anew: 64 MiB.
const CHUNKS_MAX: usize = 64;
/// References per chunk.
const CHUNK_REFERENCES: usize = 1 << 12;
/// log2 of the granule in which a page remembers where code was decoded from.
const GRANULE_SHIFT: u32 = 6;

/// What distinguishes two decodings of the same bytes: address and mode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BlockKey(u64);

impl BlockKey {
    pub(crate) fn new(start: Gpa, mode: u8) -> BlockKey {
        BlockKey(start.0 << 8 | u64::from(mode))
    }

    /// Guest physical address of the first byte.
    pub(crate) fn start(self) -> Gpa {
        Gpa(self.0 >> 8)
    }

    /// The mode that it was decoded in.
    pub(crate) fn mode(self) -> u8 {
        self.0 as u8
    }
}

struct Block {
    key: BlockKey,
    /// First byte and the one after the last, as offsets in the page.
    start: u16,
    end: u16,
    header: OpRef,
}

impl Block {
    fn granules(&self) -> u64 {
        granules(self.start.into(), u64::from(self.end - self.start))
    }
}

#[derive(Default)]
struct CodePage {
    /// Bit n: bytes 64n to 64n+63 belong to some block.
    granules: u64,
    blocks: Vec<Block>,
}

impl CodePage {
    /// Drops some blocks: see [`CodeCache::forget`].
    fn forget(
        &mut self,
        table: &mut BlockTable,
        retired: &mut Vec<BlockKey>,
        dead: Handler,
        which: impl Fn(&Block) -> bool,
    ) {
        let mut left = 0;
        self.blocks.retain(|block| {
            if !which(block) {
                left |= block.granules();
                return true;
            }
            block.header.retire(dead);
            table.remove(block.key);
            retired.push(block.key);
            false
        });
        self.granules = left;
    }
}

/// The blocks of one CPU.
#[derive(Default)]
pub(crate) struct CodeCache {
    chunks: Vec<Vec<Op>>,
    references: Vec<Vec<Reference>>,
    table: BlockTable,
    /// Blocks dropped since [`CodeCache::take_retired`].
    retired: Vec<BlockKey>,
    /// RAM page index to index in `pages` plus one.
    page_index: Vec<u32>,
    pages: Vec<CodePage>,
}

impl CodeCache {
    /// Whether a new block still fits; if not, [`CodeCache::clear`] must be called.
    pub(crate) fn is_full(&self) -> bool {
        self.chunks.len() >= CHUNKS_MAX
    }

    /// The block decoded at an address, if there is one.
    pub(crate) fn get(&self, key: BlockKey) -> Option<OpRef> {
        self.table.get(key)
    }

    /// Keeps an instruction whole and returns its address for [`Op::imm`].
    pub(crate) fn keep(&mut self, reference: Reference) -> u64 {
        if self.references.last().is_none_or(|chunk| chunk.len() == CHUNK_REFERENCES) {
            self.references.push(Vec::with_capacity(CHUNK_REFERENCES));
        }
        let chunk = self.references.last_mut().expect("a chunk was just made sure of");
        chunk.push(reference);
        std::ptr::from_ref(&chunk[chunk.len() - 1]) as u64
    }

    /// Moves a block's operations into the arena; the last one is followed by link slots if
    /// `links`. Enters it under `key` as decoded from `bytes` bytes at `start`.
    pub(crate) fn insert(
        &mut self,
        ram: &mut GuestRam,
        key: BlockKey,
        start: Gpa,
        bytes: u16,
        ops: &mut Vec<Op>,
        links: bool,
    ) -> OpRef {
        let header = self.place(ops, links);
        self.table.insert(key, header);
        let pages = (ram.layout().total_bytes() >> 12) as usize;
        if self.page_index.len() != pages {
            self.page_index.resize(pages, 0);
        }
        let slot = &mut self.page_index[ram_index(ram, start.pfn())];
        if *slot == 0 {
            self.pages.push(CodePage::default());
            *slot = self.pages.len() as u32;
        }
        let page = &mut self.pages[*slot as usize - 1];
        let offset = start.page_offset() as u16;
        page.granules |= granules(offset.into(), bytes.into());
        page.blocks.push(Block { key, start: offset, end: offset + bytes, header });
        ram.set_flags(start.pfn(), PageFlags::CODE);
        header
    }

    /// Moves operations into the arena without entering them anywhere.
    pub(crate) fn place(&mut self, ops: &mut Vec<Op>, links: bool) -> OpRef {
        let need = ops.len() + usize::from(links);
        if self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < need) {
            self.chunks.push(Vec::with_capacity(CHUNK_OPS));
        }
        let chunk = self.chunks.last_mut().expect("a chunk was just made sure of");
        let at = chunk.len();
        chunk.append(ops);
        if links {
            // The slot is an `Op` only to the vector; see `OpRef::write_links`.
            let handler = chunk[chunk.len() - 1].handler;
            chunk.push(Op::new(handler));
            let slot = chunk.len() - 1;
            OpRef::new(chunk, slot).write_links();
        }
        OpRef::new(chunk, at)
    }

    /// Whether any block was decoded from bytes in this range of one page.
    pub(crate) fn overlaps(&self, ram: &GuestRam, gpa: Gpa, bytes: usize) -> bool {
        let slot = self.page_index.get(ram_index(ram, gpa.pfn())).copied().unwrap_or(0);
        slot != 0
            && self.pages[slot as usize - 1].granules & granules(gpa.page_offset(), bytes as u64)
                != 0
    }

    /// Drops the blocks that were decoded from bytes in this range of one page. Their headers now
    /// lead to `dead`, for those who still link to them; the memory is reclaimed by `clear`.
    pub(crate) fn forget(&mut self, ram: &mut GuestRam, gpa: Gpa, bytes: usize, dead: Handler) {
        let slot = self.page_index.get(ram_index(ram, gpa.pfn())).copied().unwrap_or(0);
        if slot == 0 {
            return;
        }
        let page = &mut self.pages[slot as usize - 1];
        let hit = granules(gpa.page_offset(), bytes as u64);
        if page.granules & hit == 0 {
            return;
        }
        page.forget(&mut self.table, &mut self.retired, dead, |block| block.granules() & hit != 0);
        if page.granules == 0 {
            ram.clear_flags(gpa.pfn(), PageFlags::CODE);
        }
    }

    /// Drops the blocks that were decoded from bytes at these page offsets, in any page.
    pub(crate) fn forget_at(
        &mut self,
        ram: &mut GuestRam,
        offsets: impl Fn(u64) -> bool,
        dead: Handler,
    ) {
        for (index, &slot) in self.page_index.iter().enumerate() {
            let Some(page) = (slot as usize).checked_sub(1) else { continue };
            let page = &mut self.pages[page];
            if page.granules == 0 {
                continue;
            }
            page.forget(&mut self.table, &mut self.retired, dead, |block| {
                (block.start.into()..block.end.into()).any(&offsets)
            });
            if page.granules == 0 {
                let gpa = ram.layout().gpa((index as u64) << 12);
                ram.clear_flags(gpa.pfn(), PageFlags::CODE);
            }
        }
    }

    /// The blocks that were dropped since the last call.
    pub(crate) fn take_retired(&mut self) -> Vec<BlockKey> {
        std::mem::take(&mut self.retired)
    }

    /// Drops everything. Only between blocks, and only together with the jump cache.
    pub(crate) fn clear(&mut self, ram: &mut GuestRam) {
        *self = CodeCache::default();
        ram.clear_flags_everywhere(PageFlags::CODE);
    }
}

fn ram_index(ram: &GuestRam, pfn: Pfn) -> usize {
    (ram.layout().offset(pfn.gpa()).expect("code lies in RAM") >> 12) as usize
}

/// The granules that `bytes` bytes from `offset` touch; clipped at the page's end.
fn granules(offset: u64, bytes: u64) -> u64 {
    let first = offset >> GRANULE_SHIFT;
    let last = (offset + bytes.max(1) - 1).min(4095) >> GRANULE_SHIFT;
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

/// An open-addressing hash table from keys to block headers, with linear probing and tombstones.
#[derive(Default)]
struct BlockTable {
    slots: Vec<Slot>,
    /// Slots that are not `Slot::Never`.
    used: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Never,
    Removed,
    Full(BlockKey, OpRef),
}

impl BlockTable {
    fn first(&self, key: BlockKey) -> usize {
        (key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize & (self.slots.len() - 1)
    }

    fn get(&self, key: BlockKey) -> Option<OpRef> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.first(key);
        loop {
            match self.slots[at] {
                Slot::Never => return None,
                Slot::Full(found, header) if found == key => return Some(header),
                Slot::Full(..) | Slot::Removed => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    fn insert(&mut self, key: BlockKey, header: OpRef) {
        if self.used * 2 >= self.slots.len() {
            self.grow();
        }
        let mut at = self.first(key);
        while self.slots[at] != Slot::Never {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = Slot::Full(key, header);
        self.used += 1;
    }

    fn remove(&mut self, key: BlockKey) {
        let mut at = self.first(key);
        loop {
            match self.slots[at] {
                Slot::Never => return,
                Slot::Full(found, _) if found == key => {
                    self.slots[at] = Slot::Removed;
                    return;
                }
                Slot::Full(..) | Slot::Removed => at = (at + 1) & (self.slots.len() - 1),
            }
        }
    }

    fn grow(&mut self) {
        let live = self.slots.iter().filter(|slot| matches!(slot, Slot::Full(..))).count();
        let size = (live * 4).next_power_of_two().max(1 << 12);
        let old = std::mem::replace(&mut self.slots, vec![Slot::Never; size]);
        self.used = 0;
        for slot in old {
            if let Slot::Full(key, header) = slot {
                self.insert(key, header);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granules_cover_the_bytes_and_stop_at_the_page() {
        assert_eq!(granules(0, 1), 1);
        assert_eq!(granules(63, 2), 3);
        assert_eq!(granules(64, 64), 2);
        assert_eq!(granules(0, 4096), u64::MAX);
        assert_eq!(granules(4095, 1), 1 << 63);
        assert_eq!(granules(4032, 4096), 1 << 63);
    }
}
