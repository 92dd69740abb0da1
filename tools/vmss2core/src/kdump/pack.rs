//! Packing a page, with what one thread needs for that and keeps.

use crate::arguments::Compression;
use crate::kdump::header;
use flate2::{Compress, FlushCompress, Status};
use vmss::PAGE_BYTES;

/// As makedumpfile packs with zlib. Of the libraries without C, miniz_oxide finds matches of three bytes, of which kernels are
/// full, and zlib-rs does not: at this level its pages are 22 % larger, at the next they take longer and are still larger.
const ZLIB_LEVEL: u32 = 1;
/// The least that is nowhere larger than zlib's level 1; it takes half the time. Level 3 takes a third, and some kernels' pages
/// are larger by a percent.
const ZSTD_LEVEL: i32 = 4;

/// Packs pages.
pub struct Packer {
    method: Method,
    packed: Vec<u8>,
}

enum Method {
    None,
    Zlib(Box<Compress>),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// A page as it goes into the file.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// What to write.
    pub bytes: &'a [u8],
    /// `page_desc.flags`
    pub flags: u16,
}

impl Packer {
    /// Of one thread.
    pub fn new(compression: Compression) -> Packer {
        let method = match compression {
            Compression::None => Method::None,
            Compression::Zlib => {
                let level = flate2::Compression::new(ZLIB_LEVEL);
                Method::Zlib(Box::new(Compress::new(level, true)))
            }
            Compression::Zstd => {
                let compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL);
                Method::Zstd(Box::new(compressor.expect("the level is one that zstd has")))
            }
        };
        // What is no smaller than a page is written as the page.
        Packer { method, packed: vec![0; PAGE_BYTES as usize - 1] }
    }

    /// Packs a page; what does not get smaller stays as it is.
    pub fn pack<'a>(&'a mut self, page: &'a [u8]) -> Packed<'a> {
        let (flags, bytes) = match &mut self.method {
            Method::None => (0, None),
            Method::Zlib(compress) => {
                compress.reset();
                let ended = compress.compress(page, &mut self.packed, FlushCompress::Finish);
                let bytes = compress.total_out() as usize;
                let whole = matches!(ended, Ok(Status::StreamEnd));
                (header::flag(Compression::Zlib), whole.then_some(bytes))
            }
            Method::Zstd(compressor) => {
                let packed = compressor.compress_to_buffer(page, &mut self.packed[..]);
                (header::flag(Compression::Zstd), packed.ok())
            }
        };
        match bytes {
            Some(bytes) => Packed { bytes: &self.packed[..bytes], flags },
            None => Packed { bytes: page, flags: 0 },
        }
    }
}
