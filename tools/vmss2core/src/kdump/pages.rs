//! The pages: packed in threads, in the file in order.
//!
//! A thread takes the next piece of memory and packs it without knowing where it will go: that depends on all pieces before.
//! Pieces wait, at most so many, until their turn comes; then they get their places, whoever finished them, and each thread
//! writes what is its. So the file is the same with any number of threads.

use crate::arguments::Compression;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::kdump::bitmap::Bitmaps;
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
const WAITING_MAX: u64 = 128;
/// More would want too much memory.
const THREADS_MAX: usize = 64;

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
    /// Of each page: where in `data`, how many bytes, flags. No bytes: it is zero.
    pages: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
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
            let done = self.pack(first, end, &mut packer, &mut memory).and_then(|piece| {
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
        self.conversion.guest.read(first * PAGE_BYTES, memory)?;
        for (page, contents) in (first..).zip(memory.chunks_exact(PAGE_BYTES as usize)) {
            let bit = page - begin;
            if bits[(bit / 8) as usize] >> (bit % 8) & 1 == 0 {
                continue;
            }
            if is_zero(contents) {
                piece.pages.push((0, 0, 0));
                continue;
            }
            let packed = packer.pack(contents);
            let (at, bytes) = (piece.data.len() as u32, packed.bytes.len() as u32);
            piece.pages.push((at, bytes, packed.flags));
            piece.data.extend_from_slice(packed.bytes);
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
            let (descriptor, data) = (state.descriptor, state.data);
            state.turn += 1;
            state.descriptor += piece.pages.len() as u64 * DESCRIPTOR_BYTES;
            state.data += piece.data.len() as u64;
            drop(state);
            self.turned.notify_all();
            self.write(&piece, descriptor, data)?;
            state = self.lock();
        }
    }

    fn write(&self, piece: &Piece, descriptor: u64, data: u64) -> Result<(), Error> {
        let mut descriptors = Vec::with_capacity(piece.pages.len() * DESCRIPTOR_BYTES as usize);
        for &(at, bytes, flags) in &piece.pages {
            let (place, bytes) = match bytes {
                0 => (self.places.zero, PAGE_BYTES as u32),
                _ => (data + u64::from(at), bytes),
            };
            descriptors.extend_from_slice(&place.to_le_bytes());
            descriptors.extend_from_slice(&bytes.to_le_bytes());
            descriptors.extend_from_slice(&flags.to_le_bytes());
            descriptors.extend_from_slice(&[0; 8]);
        }
        let file = self.output.file();
        self.output.checked(file.write_all_at(&descriptors, descriptor))?;
        self.output.checked(file.write_all_at(&piece.data, data))
    }
}
