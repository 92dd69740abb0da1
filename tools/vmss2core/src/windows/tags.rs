//! Searching physical memory for plain debugger data blocks.

use crate::error::Error;
use crate::guest::Guest;
use std::ops::Range;

/// KDDEBUGGER_DATA64.OwnerTag, and where it is in the block.
pub const TAG: [u8; 4] = *b"KDBG";
pub const TAG_AT: u64 = 0x10;
/// The product searched there. Kernels lie low.
pub const SEARCH_USUAL: u64 = 256 << 20;
/// Places that may be a block: a bound for memory full of tags.
const PLACES_MAX: usize = 1 << 16;

/// Gives `look` each physical address where a block may begin, those in the usual range first, until it has found something.
pub fn search<T>(
    guest: &Guest,
    search_all: bool,
    mut look: impl FnMut(u64) -> Option<T>,
) -> Result<Option<T>, Error> {
    // The product wants to be told to search all memory. Finding nothing helps nobody.
    let split = if search_all { u64::MAX } else { SEARCH_USUAL };
    let mut left = PLACES_MAX;
    for range in [0..split, split..u64::MAX] {
        if let Some(found) = within(guest, range, &mut left, &mut look)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn within<T>(
    guest: &Guest,
    range: Range<u64>,
    left: &mut usize,
    look: &mut impl FnMut(u64) -> Option<T>,
) -> Result<Option<T>, Error> {
    const CHUNK: u64 = 1 << 20;
    let finder = memchr::memmem::Finder::new(&TAG);
    let mut buffer = vec![0; CHUNK as usize];
    for region in guest.memory.regions() {
        let mut at = region.start().max(range.start);
        while at < region.end().min(range.end) {
            let bytes = CHUNK.min(region.end() - at);
            let chunk = &mut buffer[..bytes as usize];
            guest.read(at, chunk)?;
            // Blocks are aligned, so a tag does not go from one chunk into the next.
            for found in finder.find_iter(chunk) {
                let Some(next) = left.checked_sub(1) else { return Ok(None) };
                *left = next;
                let begin = (at + found as u64).checked_sub(TAG_AT);
                if let Some(found) = begin.and_then(&mut *look) {
                    return Ok(Some(found));
                }
            }
            at += bytes;
        }
    }
    Ok(None)
}
