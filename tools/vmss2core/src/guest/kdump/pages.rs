//! The pages of a dump, each packed by itself: which are there by a bitmap, where by descriptors, one for each that is,
//! in the same order.

use super::super::recognise::read;
use super::{LZO, SNAPPY};
use flate2::{Decompress, FlushDecompress, Status};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use vmss::{PAGE_BYTES, ReadAt};
use zstd::bulk::Decompressor;

/// Where, how many bytes, how packed, flags of the kernel (64, 32, 32 and 64 bits).
const DESCRIPTOR_BYTES: u64 = 24;
/// Pages of a block of the bitmap.
const WINDOW_PAGES: u64 = 8 * PAGE_BYTES;
/// How a page is packed.
const PLAIN: u32 = 0;
const ZLIB: u32 = 1;
const ZSTD: u32 = 0x20;
/// Pages unpacked for one read at most.
const BATCH_PAGES: u64 = 64;

/// Physical memory, unpacked where it is read. Pages that are not there are zero.
pub struct Pages {
    source: Arc<dyn ReadAt>,
    bitmap_at: u64,
    pages: u64,
    descriptors_at: u64,
    /// Pages that are there before each block of the bitmap, and in all.
    before: Vec<u64>,
    may_lack: bool,
    /// Idle ones: they are larger than what they unpack.
    unpackers: Mutex<Vec<Unpacker>>,
}

/// What unpacks a page, one after another.
struct Unpacker {
    zlib: Decompress,
    zstd: Decompressor<'static>,
}

impl Pages {
    /// Counts the pages that are there. With `may_lack`, descriptors without a place are of pages that are lost.
    pub fn new(
        source: Arc<dyn ReadAt>,
        bitmap_at: u64,
        pages: u64,
        descriptors_at: u64,
        may_lack: bool,
    ) -> io::Result<Pages> {
        let mut before = vec![0];
        let mut count = 0;
        let mut all = Pages {
            source,
            bitmap_at,
            pages,
            descriptors_at,
            before: vec![],
            may_lack,
            unpackers: Mutex::default(),
        };
        let mut block = vec![0; PAGE_BYTES as usize];
        for first in (0..pages).step_by(WINDOW_PAGES as usize) {
            all.bits(first, pages - first, &mut block)?;
            count += block.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            before.push(count);
        }
        all.before = before;
        Ok(all)
    }

    /// Bits from a page on, whose number is a multiple of 8; none behind the last page.
    fn bits(&self, first: u64, pages: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        let bytes = pages.div_ceil(8).min(into.len() as u64);
        read(&*self.source, &mut into[..bytes as usize], self.bitmap_at + first / 8)?;
        if bytes * 8 > pages {
            into[bytes as usize - 1] &= 0xff >> (bytes * 8 - pages);
        }
        Ok(())
    }

    /// How many pages are there before this one, and which of it and those behind it are.
    fn place(&self, page: u64) -> io::Result<(u64, Vec<bool>)> {
        let window = page / WINDOW_PAGES;
        let first = window * WINDOW_PAGES;
        let mut block = [0; PAGE_BYTES as usize];
        let needed = ((page - first + BATCH_PAGES).div_ceil(8)).min(PAGE_BYTES) as usize;
        self.bits(first, self.pages - first, &mut block[..needed])?;
        let is_here = |page: u64| block[(page / 8) as usize] >> (page % 8) & 1 != 0;
        let at = page - first;
        let whole: u64 =
            block[..(at / 8) as usize].iter().map(|byte| u64::from(byte.count_ones())).sum();
        let rest = (at / 8 * 8..at).filter(|&page| is_here(page)).count() as u64;
        let end = (at + BATCH_PAGES).min(WINDOW_PAGES);
        Ok((self.before[window as usize] + whole + rest, (at..end).map(is_here).collect()))
    }

    fn unpack(
        &self,
        descriptor: &[u8],
        n: u64,
        into: &mut [u8; PAGE_BYTES as usize],
        unpacker: &mut Unpacker,
    ) -> io::Result<()> {
        let word =
            |at: usize| u32::from_le_bytes(descriptor[at..at + 4].try_into().expect("four bytes"));
        let offset = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (bytes, flags) = (u64::from(word(8)), word(12));
        let damaged = |what: String| {
            let sentence = format!("page {n} of the dump is damaged: {what}");
            io::Error::new(io::ErrorKind::InvalidData, sentence)
        };
        if offset == 0 && self.may_lack {
            into.fill(0);
            return Ok(());
        }
        if bytes > PAGE_BYTES || flags == PLAIN && bytes != PAGE_BYTES {
            return Err(damaged(format!("{bytes} bytes")));
        }
        let mut packed = [0; PAGE_BYTES as usize];
        let packed = &mut packed[..bytes as usize];
        if read(&*self.source, packed, offset)? < packed.len() {
            return Err(damaged(format!("it would be at {offset:#x}, where the file ends before")));
        }
        let unpacked = match flags {
            PLAIN => {
                into.copy_from_slice(packed);
                return Ok(());
            }
            ZLIB => {
                let zlib = &mut unpacker.zlib;
                zlib.reset(true);
                let status = zlib.decompress(packed, into, FlushDecompress::Finish);
                matches!(status, Ok(Status::StreamEnd)).then_some(zlib.total_out())
            }
            ZSTD => {
                let count = unpacker.zstd.decompress_to_buffer(packed, &mut into[..]);
                count.ok().map(|count| count as u64)
            }
            LZO => return Err(damaged("it is compressed by LZO, which is not supported".into())),
            SNAPPY => {
                return Err(damaged("it is compressed by snappy, which is not supported".into()));
            }
            other => return Err(damaged(format!("its flags are {other:#x}"))),
        };
        match unpacked {
            Some(PAGE_BYTES) => Ok(()),
            _ => Err(damaged("its compressed data make no page".into())),
        }
    }
}

impl ReadAt for Pages {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let page = at / PAGE_BYTES;
        if page >= self.pages || into.is_empty() {
            return Ok(0);
        }
        let (before, here) = self.place(page)?;
        let skip = (at % PAGE_BYTES) as usize;
        let wanted = (skip as u64 + into.len() as u64).div_ceil(PAGE_BYTES);
        let here = &here[..here.len().min(wanted as usize).min((self.pages - page) as usize)];
        let count = here.iter().filter(|&&is_here| is_here).count();
        let mut descriptors = vec![0; count * DESCRIPTOR_BYTES as usize];
        let place = self.descriptors_at + before * DESCRIPTOR_BYTES;
        if read(&*self.source, &mut descriptors, place)? < descriptors.len() {
            let sentence =
                format!("the dump ends before the descriptors of its pages, at {place:#x}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, sentence));
        }
        let idle = self.unpackers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut unpacker = match idle {
            Some(unpacker) => unpacker,
            None => Unpacker { zlib: Decompress::new(true), zstd: Decompressor::new()? },
        };
        let mut descriptors = descriptors.chunks_exact(DESCRIPTOR_BYTES as usize);
        let mut unpacked = [0; PAGE_BYTES as usize];
        let mut done = 0;
        for (n, &is_here) in (page..).zip(here) {
            match is_here.then(|| descriptors.next()).flatten() {
                Some(descriptor) => self.unpack(descriptor, n, &mut unpacked, &mut unpacker)?,
                None => unpacked.fill(0),
            }
            let from = if done == 0 { skip } else { 0 };
            let now = (PAGE_BYTES as usize - from).min(into.len() - done);
            into[done..done + now].copy_from_slice(&unpacked[from..from + now]);
            done += now;
        }
        self.unpackers.lock().unwrap_or_else(PoisonError::into_inner).push(unpacker);
        Ok(done)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.pages * PAGE_BYTES)
    }

    fn stored(&self) -> Option<u64> {
        self.before.last().map(|pages| pages * PAGE_BYTES)
    }
}
