//! The pages: packed in threads, in the file in order.
//!
//! A thread takes the next piece of memory and packs it without knowing where it will go: that depends on all pieces before.
//! Pieces wait, at most so many, until their turn comes; then they get their places, whoever finished them, and each thread
//! writes what is its. So the file is the same with any number of threads.

use crate::arguments::Compression;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::kdump::bitmap::Bitmaps;
use crate::kdump::known::{self, Digest, Known, Place};
use crate::kdump::pack::Packer;
use crate::output::{Output, is_zero};
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use vmss::PAGE_BYTES;

/// Pages of a piece: they fit into the second-level cache, and their bits are whole bytes.
const PIECE_PAGES: u64 = 128;
/// Bytes of `struct page_desc`: where, how many, how packed, flags of the kernel that nobody reads.
pub const DESCRIPTOR_BYTES: u64 = 24;
/// Pieces that may wait for their turn, for each thread: some are packed at once, some take long.
const WAITING_PER_THREAD: u64 = 8;
/// And at most: half a MiB each.
const WAITING_MAX: u64 = 64;
/// More would want too much memory.
const THREADS_MAX: usize = 32;

/// Where things are in the file.
#[derive(Clone, Copy)]
pub struct Places {
    /// The bitmaps, which are written already.
    pub bitmaps: Bitmaps,
    /// The descriptor of the first page.
    pub descriptors: u64,
    /// The one page of zeros, that all zero pages are; the others come behind it.
    pub zero: u64,
}

/// A piece of guest memory, packed.
struct Piece {
    pages: Vec<Page>,
    /// Packed pages, one after another.
    data: Vec<u8>,
}

/// A page of a piece.
enum Page {
    /// It is in the file, or is zero.
    Stored(Place),
    /// It is the next in the piece's data, unless one with the same contents gets into the file before.
    Packed { digest: Digest, bytes: u16, flags: u16 },
}

/// What of a piece is to be written, and where.
struct Placed {
    descriptors: Vec<u8>,
    descriptors_at: u64,
    data: Vec<u8>,
    data_at: u64,
}

/// What threads share.
struct State {
    /// The next piece that nobody has taken: in which region, from which page.
    region: usize,
    page: u64,
    taken: u64,
    /// The next piece whose turn it is.
    turn: u64,
    waiting: BTreeMap<u64, Piece>,
    /// Pages of pieces before it.
    known: Known,
    /// Where its first descriptor and its first page go.
    descriptor: u64,
    data: u64,
    failure: Option<Error>,
}

/// Packs all pages that are in the second bitmap, and writes them and their descriptors; where the file ends.
///
/// # Errors
/// The first that a thread met.
pub fn write(
    conversion: &Conversion<'_>,
    compression: Compression,
    places: Places,
    output: &Output,
) -> Result<u64, Error> {
    output.checked(output.file().write_all_at(&[0; PAGE_BYTES as usize], places.zero))?;
    let threads = conversion.threads.get().min(THREADS_MAX);
    let state = State {
        region: 0,
        page: conversion.guest.memory.regions().first().map_or(0, |region| region.first_page),
        taken: 0,
        turn: 0,
        waiting: BTreeMap::new(),
        known: Known::default(),
        descriptor: places.descriptors,
        data: places.zero + PAGE_BYTES,
        failure: None,
    };
    let work = Work {
        conversion,
        places,
        output,
        waiting_max: (threads as u64 * WAITING_PER_THREAD).min(WAITING_MAX),
        state: Mutex::new(state),
        turned: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| work.run(compression));
        }
        work.run(compression);
    });
    let state = work.state.into_inner().expect("nobody panics with it");
    state.failure.map_or(Ok(state.data), Err)
}

struct Work<'a> {
    conversion: &'a Conversion<'a>,
    places: Places,
    output: &'a Output,
    waiting_max: u64,
    state: Mutex<State>,
    /// There is room for one more that waits, or somebody failed.
    turned: Condvar,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// What a thread does.
    fn run(&self, compression: Compression) {
        let mut packer = Packer::new(compression);
        let mut memory = vec![0; (PIECE_PAGES * PAGE_BYTES) as usize];
        while let Some((number, first, end)) = self.take() {
            let packed = match self.conversion.progress.is_interrupted() {
                true => Err(Error::Interrupted),
                false => self.pack(first, end, &mut packer, &mut memory),
            };
            let done = packed.and_then(|piece| {
                self.conversion.progress.advance((end - first) * PAGE_BYTES);
                self.hand_in(number, piece)
            });
            if let Err(error) = done {
                self.lock().failure.get_or_insert(error);
                self.turned.notify_all();
                return;
            }
        }
    }

    /// The next piece: its number and its pages.
    fn take(&self) -> Option<(u64, u64, u64)> {
        let regions = self.conversion.guest.memory.regions();
        let too_many = |state: &mut State| {
            state.failure.is_none() && state.taken >= state.turn + self.waiting_max
        };
        let mut state = self.turned.wait_while(self.lock(), too_many).expect("nobody panics");
        let region = regions.get(state.region).filter(|_| state.failure.is_none())?;
        let first = state.page;
        let region_end = region.first_page + region.pages;
        let end = region_end.min((first / PIECE_PAGES + 1) * PIECE_PAGES);
        state.page = end;
        if end == region_end {
            state.region += 1;
            state.page = regions.get(state.region).map_or(0, |region| region.first_page);
        }
        state.taken += 1;
        Some((state.taken - 1, first, end))
    }

    fn pack(
        &self,
        first: u64,
        end: u64,
        packer: &mut Packer,
        memory: &mut [u8],
    ) -> Result<Piece, Error> {
        let memory = &mut memory[..((end - first) * PAGE_BYTES) as usize];
        let begin = first / 8 * 8;
        let mut bits = [0; PIECE_PAGES as usize / 8];
        let bits = &mut bits[..(end - begin).div_ceil(8) as usize];
        self.places.bitmaps.read(begin, bits, self.output)?;
        let mut piece = Piece { pages: Vec::new(), data: Vec::new() };
        if bits.iter().all(|&byte| byte == 0) {
            return Ok(piece);
        }
        let guest = self.conversion.guest;
        if guest.memory.zeros(first * PAGE_BYTES) >= memory.len() as u64 {
            memory.fill(0);
        } else {
            guest.read(first * PAGE_BYTES, memory)?;
        }
        let contents = memory.chunks_exact(PAGE_BYTES as usize);
        let is_wanted =
            |page: u64| bits[((page - begin) / 8) as usize] >> ((page - begin) % 8) & 1 != 0;
        let wanted = (first..).zip(contents).filter(|(page, _)| is_wanted(*page));
        let pages: Vec<(&[u8], Option<Digest>)> =
            wanted.map(|(_, page)| (page, (!is_zero(page)).then(|| known::digest(page)))).collect();
        // What is in the file by now needs no packing. Whether it is there already depends on the other threads, but
        // not what becomes of it: when the piece's turn comes, it is looked up again.
        let zero = Place { at: self.places.zero, bytes: PAGE_BYTES as u16, flags: 0 };
        let stored: Vec<Option<Place>> = {
            let state = self.lock();
            let place = |digest: &Option<Digest>| match digest {
                Some(digest) => state.known.place(*digest),
                None => Some(zero),
            };
            pages.iter().map(|(_, digest)| place(digest)).collect()
        };
        for ((page, digest), stored) in pages.into_iter().zip(stored) {
            piece.pages.push(match (stored, digest) {
                (Some(place), _) => Page::Stored(place),
                (None, Some(digest)) => {
                    let packed = packer.pack(page);
                    piece.data.extend_from_slice(packed.bytes);
                    Page::Packed { digest, bytes: packed.bytes.len() as u16, flags: packed.flags }
                }
                (None, None) => unreachable!("pages of zeros are stored"),
            });
        }
        Ok(piece)
    }

    /// Gives a piece to those that wait, and writes those whose turn it is.
    fn hand_in(&self, number: u64, piece: Piece) -> Result<(), Error> {
        let mut state = self.lock();
        state.waiting.insert(number, piece);
        loop {
            let turn = state.turn;
            let Some(piece) = state.waiting.remove(&turn) else { return Ok(()) };
            let placed = state.place(piece);
            drop(state);
            self.turned.notify_all();
            let file = self.output.file();
            self.output.checked(file.write_all_at(&placed.descriptors, placed.descriptors_at))?;
            self.output.checked(file.write_all_at(&placed.data, placed.data_at))?;
            state = self.lock();
        }
    }
}

impl State {
    /// Gives the piece whose turn it is its places.
    fn place(&mut self, piece: Piece) -> Placed {
        let Piece { pages, mut data } = piece;
        let mut descriptors = Vec::with_capacity(pages.len() * DESCRIPTOR_BYTES as usize);
        // Packed pages move to the front where others turn out to be stored.
        let (mut from, mut kept) = (0, 0);
        for page in pages {
            let place = match page {
                Page::Stored(place) => place,
                Page::Packed { digest, bytes, flags } => {
                    let packed = from..from + usize::from(bytes);
                    from = packed.end;
                    self.known.place(digest).unwrap_or_else(|| {
                        let place = Place { at: self.data + kept as u64, bytes, flags };
                        if kept != packed.start {
                            data.copy_within(packed, kept);
                        }
                        kept += usize::from(bytes);
                        self.known.add(digest, place);
                        place
                    })
                }
            };
            descriptors.extend_from_slice(&place.at.to_le_bytes());
            descriptors.extend_from_slice(&u32::from(place.bytes).to_le_bytes());
            descriptors.extend_from_slice(&u32::from(place.flags).to_le_bytes());
            descriptors.extend_from_slice(&[0; 8]);
        }
        data.truncate(kept);
        let (descriptors_at, data_at) = (self.descriptor, self.data);
        self.turn += 1;
        self.descriptor += descriptors.len() as u64;
        self.data += kept as u64;
        Placed { descriptors, descriptors_at, data, data_at }
    }
}
