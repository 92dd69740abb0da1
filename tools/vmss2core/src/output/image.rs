//! Copying guest memory into a file: in threads, for places are known before; zeros become holes.

use crate::error::Error;
use crate::guest::Guest;
use crate::output::{Output, Progress};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use vmss::contents;

/// Bytes copied at a time: few system calls, and small enough for the second-level cache.
const CHUNK_BYTES: u64 = 256 << 10;

/// Guest memory, and where in a file it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest-physical address.
    pub physical: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where in the file.
    pub offset: u64,
}

/// Copies pieces of guest memory into a file that is large enough already; what is zero is left alone.
///
/// # Errors
/// The first that a thread met.
pub fn copy(
    guest: &Guest,
    pieces: &[Piece],
    output: &Output,
    threads: NonZero<usize>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let chunks = Chunks::of(pieces);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let work = || {
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        while !failed.load(Ordering::Relaxed) {
            let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let copied = match progress.is_interrupted() {
                true => Err(Error::Interrupted),
                false => copy_chunk(guest, chunk, output, &mut buffer),
            };
            if let Err(error) = copied {
                failed.store(true, Ordering::Relaxed);
                failure.lock().expect("nobody panics with it").get_or_insert(error);
                return;
            }
            progress.advance(chunk.bytes);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(work);
        }
        work();
    });
    failure.into_inner().expect("nobody panics with it").map_or(Ok(()), Err)
}

/// Pieces cut into chunks, without a list of them: terabytes have millions.
struct Chunks<'a> {
    pieces: &'a [Piece],
    /// Chunks up to the end of each piece.
    ends: Vec<u64>,
}

impl Chunks<'_> {
    fn of(pieces: &[Piece]) -> Chunks<'_> {
        let ends = pieces.iter().scan(0, |end, piece| {
            *end += piece.bytes.div_ceil(CHUNK_BYTES);
            Some(*end)
        });
        Chunks { pieces, ends: ends.collect() }
    }

    fn get(&self, index: u64) -> Option<Piece> {
        let n = self.ends.partition_point(|&end| end <= index);
        let piece = self.pieces.get(n)?;
        let first = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        let from = (index - first) * CHUNK_BYTES;
        Some(Piece {
            physical: piece.physical + from,
            bytes: (piece.bytes - from).min(CHUNK_BYTES),
            offset: piece.offset + from,
        })
    }
}

fn copy_chunk(
    guest: &Guest,
    chunk: Piece,
    output: &Output,
    buffer: &mut [u8],
) -> Result<(), Error> {
    if guest.memory.zeros(chunk.physical) >= chunk.bytes {
        return Ok(());
    }
    let buffer = &mut buffer[..chunk.bytes as usize];
    guest.read(chunk.physical, buffer)?;
    for (from, contents) in contents(buffer) {
        let written = output.file().write_all_at(contents, chunk.offset + from as u64);
        output.checked(written)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_all_of_all_pieces() {
        let piece = |physical, bytes, offset| Piece { physical, bytes, offset };
        let pieces = [piece(0, CHUNK_BYTES + 1, 5), piece(9, 0, 9), piece(1 << 32, CHUNK_BYTES, 7)];
        let chunks = Chunks::of(&pieces);
        let all: Vec<Piece> = (0..).map_while(|index| chunks.get(index)).collect();
        let expected = [
            piece(0, CHUNK_BYTES, 5),
            piece(CHUNK_BYTES, 1, 5 + CHUNK_BYTES),
            piece(1 << 32, CHUNK_BYTES, 7),
        ];
        assert_eq!(all, expected);
    }
}
