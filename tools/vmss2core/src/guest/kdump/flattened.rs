//! makedumpfile's flattened format: a dump in pieces that say where they go, as it is sent through pipes, and as QEMU
//! writes it before version 8.2. A header of a block; then where a piece goes and its bytes (64 bits each, big-endian),
//! and the piece; -1 and -1 at the end.

use super::super::recognise::read;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use vmss::ReadAt;

/// How a file begins.
pub const SIGNATURE: &[u8] = b"makedumpfile\0\0\0\0";
/// Before the first piece.
const HEADER_BYTES: u64 = 4096;
const PIECE_HEADER_BYTES: u64 = 16;
/// QEMU's have 16 KiB.
const PIECES_MAX: usize = 1 << 21;
/// Further than any dump reaches.
const END_MAX: u64 = 1 << 52;

/// The dump, put together.
pub struct Flattened {
    source: Arc<dyn ReadAt>,
    /// Where each piece goes, where it is and its bytes, by the first.
    pieces: Vec<(u64, u64, u64)>,
}

impl Flattened {
    /// Finds the pieces. Of pieces for the same place, the last counts.
    pub fn new(source: Arc<dyn ReadAt>) -> Result<Flattened, String> {
        let mut pieces: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut at = HEADER_BYTES;
        let bytes = source.size().map_err(|error| error.to_string())?;
        loop {
            let mut header = [0; PIECE_HEADER_BYTES as usize];
            let count = read(&*source, &mut header, at).map_err(|error| error.to_string())?;
            let (goes_to, size) = header.split_at(8);
            let [goes_to, size] =
                [goes_to, size].map(|field| u64::from_be_bytes(field.try_into().expect("eight")));
            if count == header.len() && (goes_to, size) == (u64::MAX, u64::MAX) {
                break;
            }
            at += PIECE_HEADER_BYTES;
            if count < header.len() || size > bytes.saturating_sub(at) {
                return Err(format!(
                    "the flattened dump has no end: at {at:#x} there should be more; was it copied whole?"
                ));
            }
            if goes_to > END_MAX || pieces.len() >= PIECES_MAX {
                return Err(format!(
                    "the flattened dump has a piece for {goes_to:#x}, or more than {PIECES_MAX} pieces; `makedumpfile -R` puts \
                     it together"
                ));
            }
            insert(&mut pieces, goes_to, at, size);
            at += size;
        }
        let pieces = pieces.into_iter().map(|(goes_to, (at, size))| (goes_to, at, size)).collect();
        Ok(Flattened { source, pieces })
    }
}

/// Adds a piece and takes from others what it covers.
fn insert(pieces: &mut BTreeMap<u64, (u64, u64)>, goes_to: u64, at: u64, size: u64) {
    if size == 0 {
        return;
    }
    let end = goes_to + size;
    let over: Vec<u64> = pieces.range(goes_to..end).map(|(&start, _)| start).collect();
    if let Some((&start, entry)) = pieces.range_mut(..goes_to).next_back()
        && start + entry.1 > goes_to
    {
        let (place, bytes) = *entry;
        entry.1 = goes_to - start;
        if start + bytes > end {
            pieces.insert(end, (place + (end - start), start + bytes - end));
        }
    }
    for start in over {
        if let Some((place, bytes)) = pieces.remove(&start)
            && start + bytes > end
        {
            pieces.insert(end, (place + (end - start), start + bytes - end));
        }
    }
    pieces.insert(goes_to, (at, size));
}

impl ReadAt for Flattened {
    /// Between pieces there are zeros.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let after = self.pieces.partition_point(|&(goes_to, ..)| goes_to <= at);
        let inside = after.checked_sub(1).map(|index| self.pieces[index]);
        if let Some((goes_to, place, size)) = inside.filter(|piece| at - piece.0 < piece.2) {
            let skip = at - goes_to;
            let count = into.len().min(usize::try_from(size - skip).unwrap_or(usize::MAX));
            return self.source.read_at(&mut into[..count], place + skip);
        }
        let Some(&(next, ..)) = self.pieces.get(after) else { return Ok(0) };
        let count = into.len().min(usize::try_from(next - at).unwrap_or(usize::MAX));
        into[..count].fill(0);
        Ok(count)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.pieces.last().map_or(0, |&(goes_to, _, size)| goes_to + size))
    }

    fn stored(&self) -> Option<u64> {
        self.source.stored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_for_a_place_counts() {
        let mut file = SIGNATURE.to_vec();
        file.resize(HEADER_BYTES as usize, 0);
        let mut piece = |goes_to: u64, contents: &[u8]| {
            file.extend(goes_to.to_be_bytes());
            file.extend((contents.len() as u64).to_be_bytes());
            file.extend(contents);
        };
        piece(10, b"bbbbbbbbbb");
        piece(0, b"aaaaa");
        piece(13, b"cccc");
        piece(18, b"dddd");
        piece(2, b"e");
        piece(3, b"");
        piece(12, b"ffffffff");
        let cut = file.clone();
        file.extend([0xff; 16]);
        let flattened = Flattened::new(Arc::new(file)).unwrap();
        let mut all = vec![9; 40];
        let count = read(&flattened, &mut all, 0).unwrap();
        assert_eq!(all[..count], *b"aaeaa\0\0\0\0\0bbffffffffdd");
        assert_eq!(flattened.size().unwrap(), 22);
        assert!(Flattened::new(Arc::new(cut)).is_err_and(|said| said.contains("has no end")));
    }
}
