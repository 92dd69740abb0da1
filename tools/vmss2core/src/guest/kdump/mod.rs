//! kdump's compressed format as input: what makedumpfile, QEMU's `dump-guest-memory -z`, `virsh dump --format kdump-zlib`
//! and `--kdump` here write. Headers of kernels of 64 bits and of 32 differ in places (makedumpfile's `diskdump_mod.h`).

mod flattened;
mod pages;

pub use flattened::{Flattened, SIGNATURE as FLATTENED_SIGNATURE};

use super::core_notes::Notes;
use super::recognise::{Parts, read};
use crate::error::Error;
use pages::Pages;
use std::path::Path;
use std::sync::Arc;
use vmss::{Extent, GuestMemory, PAGE_BYTES, ReadAt};

/// How a dump begins.
pub const SIGNATURE: &[u8] = b"KDUMP   ";
/// Of the header's `status`, and of a page's flags: how pages are packed.
const LZO: u32 = 2;
const SNAPPY: u32 = 4;
/// Of the header's `status`: there was no room for all pages.
const INCOMPLETE: u32 = 8;
/// As many as a checkpoint can have: 16 TiB.
const PAGES_MAX: u64 = 1 << 32;
/// Pieces of memory that follow one another.
const RANGES_MAX: usize = 1 << 20;
/// Notes of thousands of processors take less.
const NOTES_BYTES_MAX: u64 = 32 << 20;
/// A page in the kernel.
const VMCOREINFO_BYTES_MAX: u64 = 1 << 16;

/// What the headers say.
struct Header {
    status: u32,
    /// Blocks before the bitmaps.
    bitmaps_block: u64,
    bitmap_blocks: u64,
    pages_end: u64,
    vmcoreinfo: (u64, u64),
    notes: (u64, u64),
}

/// A dump being opened.
struct Dump<'a> {
    path: &'a Path,
    source: &'a dyn ReadAt,
}

/// The guest in a dump.
pub fn open(path: &Path, source: Arc<dyn ReadAt>) -> Result<Parts, Error> {
    let dump = Dump { path, source: &*source };
    let header = dump.header()?;
    for (flag, name) in [(LZO, "LZO"), (SNAPPY, "snappy")] {
        if header.status & flag != 0 {
            return Err(dump.unread(format!(
                "its pages are compressed by {name}, which is not supported; `makedumpfile -c` and `-z` make one with zlib or \
                 zstd of it"
            )));
        }
    }
    let bitmap_bytes = header.bitmap_blocks * PAGE_BYTES;
    let bitmaps_at = header.bitmaps_block * PAGE_BYTES;
    let bytes = source.size().map_err(|error| dump.failed(0, error))?;
    if bitmaps_at.checked_add(bitmap_bytes).is_none_or(|end| end > bytes) {
        return Err(dump.unread(format!(
            "it says that its bitmaps are {bitmap_bytes:#x} bytes at {bitmaps_at:#x}, and it ends at {bytes:#x}; was it copied \
             whole?"
        )));
    }
    // One for pages that are memory and one for pages that are here; or one for both.
    let half = header.bitmap_blocks / 2 * PAGE_BYTES;
    let has_two = header.pages_end.div_ceil(8) <= half;
    let here_at = bitmaps_at + if has_two { half } else { 0 };
    if !has_two && header.pages_end.div_ceil(8) > bitmap_bytes {
        return Err(dump.unread(format!(
            "it has {:#x} pages and bitmaps of {bitmap_bytes:#x} bytes only",
            header.pages_end
        )));
    }
    let mut extents: Vec<Extent> = Vec::new();
    dump.for_bits(bitmaps_at, header.pages_end, |page| {
        let address = page * PAGE_BYTES;
        let count = extents.len();
        match extents.last_mut() {
            Some(last) if last.address + last.bytes == address => last.bytes += PAGE_BYTES,
            _ if count < RANGES_MAX => {
                extents.push(Extent { address, offset: address, bytes: PAGE_BYTES });
            }
            _ => return false,
        }
        true
    })?;
    let mut notes = Notes::default();
    notes.read(&dump.part("notes", header.notes, NOTES_BYTES_MAX)?);
    let text = dump.part("VMCOREINFO", header.vmcoreinfo, VMCOREINFO_BYTES_MAX)?;
    let is_incomplete = header.status & INCOMPLETE != 0;
    let pages = Pages::new(
        Arc::clone(&source),
        here_at,
        header.pages_end,
        bitmaps_at + bitmap_bytes,
        is_incomplete,
    );
    let pages = pages.map_err(|error| dump.failed(here_at, error))?;
    let memory = GuestMemory::of_extents(Arc::new(pages), extents, &[]);
    let memory = memory.map_err(|source| Error::Input { path: path.into(), source })?;
    let mut parts = notes.with_vmcoreinfo(&text).parts(memory);
    if is_incomplete {
        let sentence = "the dump says of itself that it is incomplete: pages that did not get into it are taken to be zero";
        parts.remarks.push(sentence.into());
    }
    Ok(parts)
}

impl Dump<'_> {
    fn unread(&self, what: String) -> Error {
        Error::Unread { path: self.path.into(), what }
    }

    fn failed(&self, at: u64, source: std::io::Error) -> Error {
        Error::Input { path: self.path.into(), source: vmss::Error::Read { at, source } }
    }

    fn header(&self) -> Result<Header, Error> {
        let mut head = vec![0; 2 * PAGE_BYTES as usize];
        let count = read(self.source, &mut head, 0).map_err(|error| self.failed(0, error))?;
        if count < head.len() {
            return Err(self.unread(format!(
                "it is a kdump of {count} bytes, of which its headers alone have more"
            )));
        }
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        // The time before is aligned as a long is, and of two longs: nothing but the block's size tells which.
        let (at, is_64) = match (word(428), word(416)) {
            (4096, _) => (424, true),
            (_, 4096) => (412, false),
            (one, other) => {
                return Err(self.unread(format!(
                    "its blocks have {one} bytes, or {other}; those of x86 have 4096"
                )));
            }
        };
        let version = word(8);
        let [status, _, sub_blocks, bitmap_blocks, pages_end] =
            [0, 4, 8, 12, 16].map(|offset| word(at + offset));
        let sub = PAGE_BYTES as usize;
        let since = |least: u32, value: (u64, u64)| if version >= least { value } else { (0, 0) };
        let (is_split, info, notes, pages_end_64) = match is_64 {
            true => (
                word(sub + 12),
                (long(sub + 32), long(sub + 40)),
                (long(sub + 48), long(sub + 56)),
                long(sub + 96),
            ),
            false => (
                word(sub + 8),
                (long(sub + 20), word(sub + 28).into()),
                (long(sub + 32), word(sub + 40).into()),
                long(sub + 72),
            ),
        };
        if version >= 2 && is_split != 0 {
            let what = "it is one part of a dump that was split; `makedumpfile --reassemble` makes one of all";
            return Err(self.unread(what.into()));
        }
        let pages_end = match version >= 6 && pages_end_64 > 0 {
            true => pages_end_64,
            false => pages_end.into(),
        };
        if pages_end > PAGES_MAX {
            return Err(self.unread(format!(
                "it says that there are {pages_end:#x} pages, which is more than 16 TiB"
            )));
        }
        Ok(Header {
            status: if version >= 1 { status } else { 0 },
            bitmaps_block: 1 + u64::from(sub_blocks),
            bitmap_blocks: bitmap_blocks.into(),
            pages_end,
            vmcoreinfo: since(3, info),
            notes: since(4, notes),
        })
    }

    /// A part of the file that a header leads to.
    fn part(&self, name: &str, (at, bytes): (u64, u64), limit: u64) -> Result<Vec<u8>, Error> {
        if at == 0 || bytes == 0 {
            return Ok(Vec::new());
        }
        if bytes > limit {
            return Err(self.unread(format!("it says that its {name} have {bytes:#x} bytes")));
        }
        let mut part = vec![0; bytes as usize];
        let count = read(self.source, &mut part, at).map_err(|error| self.failed(at, error))?;
        match count == part.len() {
            true => Ok(part),
            false => Err(self.unread(format!(
                "it says that {bytes:#x} bytes of {name} are at {at:#x}, and it ends before; was it copied whole?"
            ))),
        }
    }

    /// Goes through the bits that are set, until `take` has had enough, which is an error.
    fn for_bits(
        &self,
        at: u64,
        count: u64,
        mut take: impl FnMut(u64) -> bool,
    ) -> Result<(), Error> {
        let mut block = vec![0; 64 << 10];
        let mut page = 0;
        while page < count {
            let bytes = (count - page).div_ceil(8).min(block.len() as u64) as usize;
            let block = &mut block[..bytes];
            let place = at + page / 8;
            read(self.source, block, place).map_err(|error| self.failed(place, error))?;
            for (n, &byte) in (0..).zip(&*block) {
                let first = page + 8 * n;
                for bit in (0..8).filter(|bit| byte >> bit & 1 != 0 && first + bit < count) {
                    if !take(first + bit) {
                        let what = format!("its memory is in more than {RANGES_MAX} pieces");
                        return Err(self.unread(what));
                    }
                }
            }
            page += 8 * bytes as u64;
        }
        Ok(())
    }
}
