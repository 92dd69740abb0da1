//! zstd with a seek table: frames that are decompressed apart, and at the end of the file how large each is.
//!
//! The table is a skippable frame (magic `0x184d2a5e`, its length), whose contents are for each frame the bytes in the
//! file, the bytes that they stand for, and perhaps a checksum, 32 bits each; then the number of frames (32 bits), a
//! byte with bit 7 for checksums, and the magic `0x8f92eab1`. See zstd's
//! `contrib/seekable_format/zstd_seekable_compression_format.md`.

use crate::source::ReadAt;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use zstd::bulk::Decompressor;

/// Before the table.
pub(crate) const TABLE_MAGIC: u32 = 0x184d_2a5e;
/// The last four bytes of the file.
pub(crate) const END_MAGIC: u32 = 0x8f92_eab1;
/// Magic and length.
pub(crate) const TABLE_HEADER_BYTES: u64 = 8;
/// Number of frames, flags, magic.
pub(crate) const FOOTER_BYTES: u64 = 9;
const HAS_CHECKSUMS: u8 = 1 << 7;
const RESERVED: u8 = 0x7c;
/// Larger ones are slow to go about in.
const FRAME_BYTES_MAX: u32 = 8 << 20;
/// 4 TiB in frames of ours.
const FRAMES_MAX: u64 = 1 << 22;
/// Decompressed frames that are kept, in bytes and, whatever their size, at least as many.
const KEPT_BYTES: usize = 32 << 20;
const KEPT_MIN: usize = 4;
/// Frames that are so much smaller in the file are taken to be zeros: those take no room.
const ZEROS_RATIO: u64 = 4096;

/// Where frames are.
pub struct Seekable {
    /// Where each begins in the file and in what it stands for; and where all end.
    starts: Vec<(u64, u64)>,
    /// Bytes of the largest.
    largest: usize,
}

impl Seekable {
    /// The table of a file, if there is one that can be gone by.
    pub fn of(file: &File, size: u64) -> io::Result<Option<Seekable>> {
        let Some(footer_at) = size.checked_sub(FOOTER_BYTES) else { return Ok(None) };
        let mut footer = [0; FOOTER_BYTES as usize];
        file.read_exact_at(&mut footer, footer_at)?;
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let (count, flags) = (u64::from(word(&footer[..4])), footer[4]);
        if word(&footer[5..]) != END_MAGIC || flags & RESERVED != 0 || count > FRAMES_MAX {
            return Ok(None);
        }
        let entry_bytes = if flags & HAS_CHECKSUMS != 0 { 12 } else { 8 };
        let table_bytes = TABLE_HEADER_BYTES + count * entry_bytes;
        let Some(table_at) = footer_at.checked_sub(table_bytes) else { return Ok(None) };
        let mut table = vec![0; table_bytes as usize];
        file.read_exact_at(&mut table, table_at)?;
        let (header, entries) = table.split_at(TABLE_HEADER_BYTES as usize);
        let length = count * entry_bytes + FOOTER_BYTES;
        if word(&header[..4]) != TABLE_MAGIC || u64::from(word(&header[4..])) != length {
            return Ok(None);
        }
        let mut starts = Vec::with_capacity(count as usize + 1);
        let (mut at, mut largest) = ((0, 0), 0);
        for entry in entries.chunks_exact(entry_bytes as usize) {
            let (stored, bytes) = (word(&entry[..4]), word(&entry[4..8]));
            starts.push(at);
            at = (at.0 + u64::from(stored), at.1 + u64::from(bytes));
            largest = largest.max(stored).max(bytes);
        }
        starts.push(at);
        let fits = at.0 == table_at && largest <= FRAME_BYTES_MAX;
        Ok(fits.then_some(Seekable { starts, largest: largest as usize }))
    }

    /// What the frames of a file stand for.
    pub fn over(self, file: File) -> Frames {
        let kept = (KEPT_BYTES / self.largest.max(1)).clamp(KEPT_MIN, 256);
        Frames { file, table: self, kept, recent: Mutex::new(VecDeque::new()) }
    }
}

/// A frame's bytes, once somebody has decompressed them.
type Slot = Arc<Mutex<Option<Vec<u8>>>>;

/// A file that is decompressed where it is read.
pub struct Frames {
    file: File,
    table: Seekable,
    kept: usize,
    /// The last used in front.
    recent: Mutex<VecDeque<(usize, Slot)>>,
}

impl Frames {
    /// The place for a frame's bytes, which are the last to be forgotten from now on.
    fn slot(&self, frame: usize) -> Slot {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let found = recent.iter().position(|(kept, _)| *kept == frame);
        let entry = match found.and_then(|index| recent.remove(index)) {
            Some(entry) => entry,
            None => (frame, Slot::default()),
        };
        recent.push_front(entry.clone());
        recent.truncate(self.kept);
        entry.1
    }

    fn decompress(&self, frame: usize) -> io::Result<Vec<u8>> {
        let ((from, first), (to, end)) = (self.table.starts[frame], self.table.starts[frame + 1]);
        let damaged = |what: String| {
            let sentence = format!("frame {frame} of zstd, at byte {from:#x}, is damaged: {what}");
            io::Error::new(io::ErrorKind::InvalidData, sentence)
        };
        let mut stored = vec![0; (to - from) as usize];
        self.file.read_exact_at(&mut stored, from)?;
        let mut bytes = Vec::with_capacity((end - first) as usize);
        let count = Decompressor::new()?.decompress_to_buffer(&stored, &mut bytes);
        let count = count.map_err(|error| damaged(error.to_string()))?;
        match count as u64 == end - first {
            true => Ok(bytes),
            false => Err(damaged(format!("{count} bytes instead of {}", end - first))),
        }
    }
}

impl ReadAt for Frames {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        // The last of those that begin there or before: frames may be empty.
        let after = self.table.starts.partition_point(|&(_, start)| start <= at);
        let Some(frame) = after.checked_sub(1).filter(|_| after < self.table.starts.len()) else {
            return Ok(0);
        };
        let slot = self.slot(frame);
        let mut bytes = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_none() {
            *bytes = Some(self.decompress(frame)?);
        }
        let bytes = bytes.as_deref().unwrap_or_default();
        let rest = bytes.get((at - self.table.starts[frame].1) as usize..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.table.starts.last().map_or(0, |&(_, end)| end))
    }

    fn stored(&self) -> Option<u64> {
        let frames =
            self.table.starts.windows(2).map(|pair| (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1));
        Some(
            frames
                .filter(|(stored, bytes)| stored * ZEROS_RATIO > *bytes)
                .map(|(_, bytes)| bytes)
                .sum(),
        )
    }
}
