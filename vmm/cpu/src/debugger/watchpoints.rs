//! Watchpoints on memory.

use super::{Noted, WatchHit, WatchKind, Watchpoint};
use crate::cpu::Cpu;
use crate::exception::Abort;
use dejavm_units::Gva;

/// A watched range.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Watched {
    first: u64,
    last: u64,
    kind: WatchKind,
    space: Option<u64>,
    /// Index in [`super::Stops::watchpoints`].
    index: usize,
}

impl Watched {
    fn counts(&self, write: bool) -> bool {
        match self.kind {
            WatchKind::Write => write,
            WatchKind::Read => !write,
            WatchKind::Access => true,
        }
    }
}

/// The watched ranges, found by address.
#[derive(Default)]
pub(super) struct WatchList {
    /// Sorted by `first`.
    ranges: Vec<Watched>,
    /// For each range, the greatest `last` of it and those before it.
    reach: Vec<u64>,
}

impl WatchList {
    /// Takes up watchpoints. Returns the ranges (first and last byte) that are watched otherwise than
    /// before: what is cached for their pages must be forgotten.
    pub(super) fn set(&mut self, watchpoints: &[Watchpoint]) -> Vec<(u64, u64)> {
        let before = std::mem::take(self);
        for (index, watchpoint) in watchpoints.iter().enumerate() {
            let Watchpoint { start, bytes, kind, space } = *watchpoint;
            let Some(more) = bytes.checked_sub(1) else { continue };
            let (first, last) = (start.0, start.0.saturating_add(more));
            let space = space.map(|space| space.0);
            self.ranges.push(Watched { first, last, kind, space, index });
        }
        self.ranges.sort_by_key(|range| (range.first, range.index));
        let mut reach = 0;
        for range in &self.ranges {
            reach = range.last.max(reach);
            self.reach.push(reach);
        }
        let known = |range: &&Watched| {
            before
                .overlapping(range.first, range.first)
                .any(|old| (old.first, old.last, old.kind) == (range.first, range.last, range.kind))
        };
        let fresh = self.ranges.iter().filter(|range| !known(range));
        fresh.map(|range| (range.first, range.last)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges that overlap the bytes `first ..= last`.
    fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = &Watched> {
        let end = self.ranges.partition_point(|range| range.first <= last);
        let near = self.ranges[..end].iter().zip(&self.reach[..end]).rev();
        let near = near.take_while(move |&(_, &reach)| reach >= first);
        near.map(|(range, _)| range).filter(move |range| range.last >= first)
    }
}

/// First and last byte of each part of an access, which may go around the end of the address space.
fn parts(linear: u64, size: u64, wide: bool) -> [Option<(u64, u64)>; 2] {
    let top = if wide { u64::MAX } else { 0xffff_ffff };
    match linear.checked_add(size - 1).filter(|&last| last <= top) {
        Some(last) => [Some((linear, last)), None],
        None => [Some((linear, top)), Some((0, linear.wrapping_add(size - 1) & top))],
    }
}

impl Cpu {
    /// Whether accesses to the page of a linear address must take the slow path for the sake of
    /// watchpoints: stores (which may also load), or loads.
    #[inline]
    pub(crate) fn watches_page(&self, linear: u64, write: bool) -> bool {
        let list = &self.debugger.watched;
        !list.is_empty() && {
            let page = linear & !0xfff;
            list.overlapping(page, page + 0xfff).any(|range| write || range.counts(false))
        }
    }

    /// Whether there are watchpoints.
    #[inline(always)]
    pub(crate) fn is_watching(&self) -> bool {
        !self.debugger.watched.is_empty()
    }

    /// How many of `bytes` bytes within a page come before the first that a watchpoint waits for.
    #[inline]
    pub(crate) fn unwatched_bytes(&self, linear: u64, bytes: u32, write: bool) -> u32 {
        if !self.is_watching() || bytes == 0 {
            return bytes;
        }
        let ranges = self.debugger.watched.overlapping(linear, linear + u64::from(bytes - 1));
        let ranges = ranges.filter(|range| self.is_meant(range, write));
        ranges.map(|range| range.first.saturating_sub(linear) as u32).min().unwrap_or(bytes)
    }

    /// Before an access of the slow path: one that a watchpoint waits for runs alone.
    #[inline]
    pub(crate) fn prepare_watched(
        &mut self,
        linear: u64,
        size: u32,
        write: bool,
    ) -> Result<(), Abort> {
        if !self.alone && self.is_watching() && self.is_watched(linear, size, write) {
            return self.require_alone();
        }
        Ok(())
    }

    /// Whether a watchpoint waits for an access in this address space.
    pub(crate) fn is_watched(&self, linear: u64, size: u32, write: bool) -> bool {
        let wide = self.is_64bit();
        parts(linear, size.into(), wide).into_iter().flatten().any(|(first, last)| {
            self.debugger.watched.overlapping(first, last).any(|range| self.is_meant(range, write))
        })
    }

    fn is_meant(&self, range: &Watched, write: bool) -> bool {
        range.counts(write) && range.space.is_none_or(|space| self.is_in_space(space))
    }

    /// Notes an access that was done, for the run loop to stop after it.
    #[inline]
    pub(crate) fn note_watched(&mut self, linear: u64, size: u32, write: bool) {
        if self.is_watching() {
            self.note_hits(linear, size, write);
        }
    }

    #[cold]
    fn note_hits(&mut self, linear: u64, size: u32, write: bool) {
        let wide = self.is_64bit();
        for (first, last) in parts(linear, size.into(), wide).into_iter().flatten() {
            let mut seen: Vec<WatchHit> = Vec::new();
            let kind = if write { WatchKind::Write } else { WatchKind::Read };
            for range in self.debugger.watched.overlapping(first, last) {
                if self.is_meant(range, write) {
                    let address = Gva(first.max(range.first));
                    let processor = self.apic_id;
                    seen.push(WatchHit { index: range.index, address, kind, processor });
                }
            }
            seen.sort_by_key(|hit| hit.index);
            for hit in seen {
                self.note_hit(hit);
            }
        }
    }

    fn note_hit(&mut self, hit: WatchHit) {
        let write = hit.kind == WatchKind::Write;
        match self.debugger.hits.iter_mut().find(|known| known.hit.index == hit.index) {
            // A store says more than the load before it.
            Some(known) if write && known.hit.kind == WatchKind::Read => {
                *known = Noted { hit, settled: true };
            }
            Some(_) => {}
            // What was stored is stored, even if the instruction fails afterwards.
            None => self.debugger.hits.push(Noted { hit, settled: write }),
        }
    }

    /// What the instruction accessed so far stands even if it faults later: an element of a repeated
    /// one is done.
    #[inline]
    pub(crate) fn settle_watched(&mut self) {
        for noted in &mut self.debugger.hits {
            noted.settled = true;
        }
    }

    /// The instruction faulted: it will load again when it is restarted.
    #[inline]
    pub(crate) fn drop_unsettled_hits(&mut self) {
        self.debugger.hits.retain(|noted| noted.settled);
    }
}
