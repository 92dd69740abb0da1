//! The header and the sub-header: `struct disk_dump_header` and `struct kdump_sub_header` of makedumpfile, as a kernel of 64
//! or of 32 bits has them. See `docs/formats/cores.md`.

use crate::arguments::Compression;
use vmss::PAGE_BYTES;

/// Before `struct timeval`: signature, version, names.
const NAMES_AT: usize = 12;
const VERSION: u32 = 6;
/// Of `dump_level`: zero pages take no room; free pages are left out.
const LEVEL_ZERO: u32 = 1;
const LEVEL_FREE: u32 = 16;

/// How pages are packed: `page_desc.flags`, and what the header's `status` says of them.
pub fn flag(compression: Compression) -> u16 {
    match compression {
        Compression::None => 0,
        Compression::Zlib => 1,
        Compression::Zstd => 0x20,
    }
}

/// What the headers say.
pub struct Header<'a> {
    /// Pointers of the kernel have 64 bits.
    pub is_64: bool,
    /// Six names of 65 bytes.
    pub names: &'a [u8],
    /// How pages are packed.
    pub compression: Compression,
    /// Processors.
    pub vcpus: usize,
    /// Pages are numbered up to here.
    pub pages_end: u64,
    /// `phys_base` of the kernel.
    pub phys_base: u64,
    /// Free pages are left out.
    pub without_free: bool,
    /// ELF notes.
    pub notes: &'a [u8],
    /// Where in them the text of VMCOREINFO begins, and its bytes.
    pub vmcoreinfo: (usize, usize),
}

impl Header<'_> {
    /// Blocks of one bitmap.
    pub fn bitmap_blocks(&self) -> u64 {
        self.pages_end.div_ceil(8 * PAGE_BYTES)
    }

    /// Header, sub-header and notes: whole blocks, with the bitmaps behind them.
    pub fn bytes(&self) -> Vec<u8> {
        let sub = self.sub_header();
        let sub_blocks = ((sub.len() + self.notes.len()) as u64).div_ceil(PAGE_BYTES);
        let mut out = Vec::with_capacity(((1 + sub_blocks) * PAGE_BYTES) as usize);
        out.extend_from_slice(b"KDUMP   ");
        word(&mut out, VERSION);
        assert_eq!(out.len(), NAMES_AT, "then come the names");
        out.extend_from_slice(self.names);
        // The time: a checkpoint knows none. It is aligned as a long is.
        let (alignment, time_bytes) = if self.is_64 { (8, 16) } else { (4, 8) };
        out.resize(out.len().next_multiple_of(alignment) + time_bytes, 0);
        word(&mut out, flag(self.compression).into());
        word(&mut out, PAGE_BYTES as u32);
        word(&mut out, sub_blocks as u32);
        word(&mut out, u32::try_from(2 * self.bitmap_blocks()).unwrap_or(u32::MAX));
        // The sub-header has all of its bits.
        word(&mut out, u32::try_from(self.pages_end).unwrap_or(u32::MAX));
        // total_ram_blocks, device_blocks, written_blocks, current_cpu: of diskdump.
        (0..4).for_each(|_| word(&mut out, 0));
        word(&mut out, self.vcpus as u32);
        out.resize(PAGE_BYTES as usize, 0);
        out.extend_from_slice(&sub);
        out.extend_from_slice(self.notes);
        out.resize(((1 + sub_blocks) * PAGE_BYTES) as usize, 0);
        out
    }

    fn sub_header(&self) -> Vec<u8> {
        let bytes = if self.is_64 { 104 } else { 80 };
        let notes_at = PAGE_BYTES + bytes;
        let level = LEVEL_ZERO | if self.without_free { LEVEL_FREE } else { 0 };
        let mut out = Vec::with_capacity(bytes as usize);
        self.long(&mut out, self.phys_base);
        word(&mut out, level);
        // Not split in several files: no first page and no last.
        word(&mut out, 0);
        self.long(&mut out, 0);
        self.long(&mut out, 0);
        let (text_at, text_bytes) = self.vmcoreinfo;
        let parts = [(notes_at + text_at as u64, text_bytes), (notes_at, self.notes.len()), (0, 0)];
        for (offset, size) in parts {
            // off_t has 64 bits everywhere.
            out.extend_from_slice(&offset.to_le_bytes());
            self.long(&mut out, size as u64);
        }
        for value in [0, 0, self.pages_end] {
            out.extend_from_slice(&u64::to_le_bytes(value));
        }
        assert_eq!(out.len() as u64, bytes, "the notes come at once");
        out
    }

    fn long(&self, out: &mut Vec<u8>, value: u64) {
        match self.is_64 {
            true => out.extend_from_slice(&value.to_le_bytes()),
            false => word(out, value as u32),
        }
    }
}

fn word(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}
