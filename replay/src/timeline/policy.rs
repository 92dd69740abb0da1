//! Where checkpoints are left, and which are forgotten.

use super::{Rewind, Timeline};
use dejavm_units::Position;
use std::collections::BTreeSet;
use std::io::{Read, Seek};

/// Checkpoints before the place where somebody wants to stand: this many instructions before it, twice
/// as many, four times as many, ...
const NEAR: u64 = 1024;
/// What a page in a checkpoint costs, in instructions: some 2 microseconds.
const PAGE_COST: u64 = 2200;
/// Checkpoints where nobody stands may take one part in so many of the time.
const SHARE: u64 = 20;
/// Spacing where nobody stands at most, in multiples of what was asked for.
const SPACING_GROWS: u64 = 4;
/// Checkpoints at most: to choose one to forget takes looking at all.
const COUNT_MAX: usize = 2048;

/// Where checkpoints are wanted.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Before the place where somebody wants to stand.
    wanted: BTreeSet<Position>,
    /// That place.
    focus: Position,
    /// Where the last checkpoint was taken on this way, kept or not, and its pages.
    taken: Position,
    pages: u64,
}

impl Plan {
    /// Somebody runs to who knows where.
    pub(super) fn depart(&mut self) {
        self.taken = Position(0);
        self.wanted.clear();
    }

    /// Somebody stands at `here`.
    pub(super) fn focus_on(&mut self, here: Position) {
        self.focus = here;
    }

    /// Somebody goes from `here` to stand at `target`.
    pub(super) fn approach(&mut self, here: Position, target: Position) {
        self.focus = target;
        self.taken = Position(0);
        self.wanted.clear();
        let mut distance = NEAR;
        while let Some(wanted) = target.0.checked_sub(distance).filter(|&wanted| wanted > here.0) {
            self.wanted.insert(Position(wanted));
            distance = distance.saturating_mul(2);
        }
    }

    /// A checkpoint of so many pages was taken.
    pub(super) fn taken(&mut self, at: Position, pages: usize) {
        self.taken = at;
        self.pages = pages as u64;
    }

    /// When the next checkpoint is due after one `before`, if nobody stands around there.
    fn due(&self, before: Position, spacing: u64) -> Position {
        let affordable = self.pages * PAGE_COST * SHARE;
        let spacing = affordable.clamp(spacing, spacing.saturating_mul(SPACING_GROWS));
        Position(before.max(self.taken).0.saturating_add(spacing))
    }

    /// The next position behind `here` that wants a checkpoint, the last one being `before`.
    pub(super) fn next(&self, here: Position, before: Position, spacing: u64) -> Position {
        let next = Position(here.0.saturating_add(1));
        let due = self.due(before, spacing).max(next);
        self.wanted.range(next..).next().map_or(due, |&wanted| due.min(wanted))
    }

    /// Whether a checkpoint is wanted here, the last one being `before`.
    pub(super) fn wants(&self, here: Position, before: Position, spacing: u64) -> bool {
        self.wanted.contains(&here) || self.due(before, spacing) <= here
    }
}

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// Forgets checkpoints until the rest fit: again and again the one whose neighbours lie closest
    /// together, measured by how far away all this is from where somebody wants to stand. What is left
    /// is dense there and ever wider apart further away.
    pub(super) fn thin(&mut self) {
        while self.checkpoints.bytes() > self.options.memory_bytes
            || self.checkpoints.len() > COUNT_MAX
        {
            // Those of the file cost little, and are lost for good.
            let least = self.least_useful(false).or_else(|| self.least_useful(true));
            let Some(least) = least else { return };
            self.forget(least);
        }
    }

    fn least_useful(&self, of_file: bool) -> Option<Position> {
        let focus = self.plan.focus;
        let all: Vec<(Position, bool)> = self.checkpoints.positions().collect();
        let end = (self.end(), true);
        let nexts = all.iter().skip(2).chain(std::iter::once(&end));
        let mut least: Option<(u128, Position)> = None;
        for ((before, here), next) in all.iter().zip(all.iter().skip(1)).zip(nexts) {
            let (at, in_file) = *here;
            if in_file != of_file {
                continue;
            }
            let gap = next.0.0.saturating_sub(before.0.0);
            let distance = at.0.abs_diff(focus.0).saturating_add(NEAR);
            let worth = (u128::from(gap) << 32) / u128::from(distance);
            if least.is_none_or(|(least, _)| worth < least) {
                least = Some((worth, at));
            }
        }
        least.map(|(_, at)| at)
    }
}
