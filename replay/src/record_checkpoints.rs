//! Checkpoints taken while recording: when. `docs/formats/recording.md` says what they are, `under_way.rs` writes
//! them. No clock is asked: pages and instructions are the measure of cost.

use crate::digest::Digest;
use crate::file::Writer;
use crate::guest::Guest;
use crate::packing::Packer;
use crate::page_set::PageSet;
use crate::record::RecordError;
use crate::under_way::UnderWay;
use dejavm_units::{Pfn, Position};
use std::io::Write;

/// Pages of one checkpoint at most: the chunk that lists them has a bound.
const PAGES_MAX: u64 = 1 << 20;
/// What a page costs, in instructions: copying takes half a microsecond, in which a guest in host code executes
/// some 600.
const PAGE_COST: u64 = 600;
/// What a page costs besides if its content is new: writing takes one microsecond.
const CONTENT_COST: u64 = 1200;
/// And packing: hashing and compressing take some 10 microseconds.
const PACK_COST: u64 = 12_000;
/// Packing beside the machine costs it this part of that: two threads of one core hinder each other. Measured:
/// at an eighth, checkpoints made recording a boot 11 % slower.
const BESIDE: u64 = 2;
/// Checkpoints may take one part in so many of the time.
const SHARE: u64 = 20;
/// Instructions' worth of checkpoints that can be saved up at most: a second.
const CREDIT_MAX: u64 = 1 << 30;
/// Instructions between checkpoints at least, unless told.
const SPACING: u64 = 64 << 20;
/// A page's part of the file until the first checkpoint has shown it, in bytes.
const PAGE_BYTES_GUESS: u64 = 2048;

/// When to take checkpoints while recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointInterval {
    /// Never.
    Never,
    /// After so many instructions, whatever it costs. Not 0.
    Every(u64),
    /// So seldom that it takes at most some 5 % of the time.
    Affordable,
}

/// Checkpoints in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointPolicy {
    /// When.
    pub interval: CheckpointInterval,
    /// Their part of the file in bytes at most. `None`: 30 % of what the start state holds uncompressed,
    /// the guest's memory and the state of CPU and chips.
    pub file_bytes: Option<u64>,
}

impl CheckpointPolicy {
    /// No checkpoints.
    pub const NONE: CheckpointPolicy =
        CheckpointPolicy { interval: CheckpointInterval::Never, file_bytes: Some(0) };
}

impl Default for CheckpointPolicy {
    fn default() -> CheckpointPolicy {
        CheckpointPolicy { interval: CheckpointInterval::Affordable, file_bytes: None }
    }
}

/// A recorder's checkpoints, and which pages were written since when: RAM tells once, and digests want
/// to know too.
pub(crate) struct Checkpointer {
    interval: CheckpointInterval,
    /// Bytes that checkpoints may take in the file.
    allowance: u64,
    /// Where the last one was taken, and where another one may be worth a look.
    last: u64,
    due: u64,
    /// Instructions' worth of checkpoints that was earned and not used, up to a position.
    credit: u64,
    credit_at: u64,
    /// How many pages the one under way may have with contents that are new, and how many contents there were
    /// before it.
    charged: (u64, u64),
    since_digest: PageSet,
    since_checkpoint: PageSet,
    under_way: UnderWay,
}

impl Checkpointer {
    /// For a recording that starts here, with a start state of so many bytes before compression.
    pub(crate) fn new(policy: CheckpointPolicy, start: Position, start_bytes: u64) -> Checkpointer {
        let mut checkpointer = Checkpointer {
            interval: policy.interval,
            allowance: policy.file_bytes.unwrap_or(start_bytes / 10 * 3),
            last: start.0,
            due: 0,
            credit: 0,
            credit_at: start.0,
            charged: (0, 0),
            since_digest: PageSet::default(),
            since_checkpoint: PageSet::default(),
            under_way: UnderWay::new(),
        };
        checkpointer.due = checkpointer.earliest();
        checkpointer
    }

    /// Has pages packed by another packer.
    pub(crate) fn set_packer(&mut self, packer: Box<dyn Packer>) {
        self.under_way.set_packer(packer);
    }

    /// Where the next one can be at the earliest. Spacing grows as the allowance is used up.
    fn earliest(&self) -> u64 {
        let spacing = match self.interval {
            CheckpointInterval::Never => return u64::MAX,
            CheckpointInterval::Every(instructions) => instructions.max(1),
            CheckpointInterval::Affordable => SPACING,
        };
        let left = self.allowance.saturating_sub(self.spent());
        if left == 0 {
            return u64::MAX;
        }
        let spacing = u128::from(spacing) * u128::from(self.allowance) / u128::from(left);
        self.last.saturating_add(u64::try_from(spacing).unwrap_or(u64::MAX))
    }

    /// Where the recorder should stop so that a checkpoint can be taken.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Bytes of the file that are checkpoints.
    pub(crate) fn spent(&self) -> u64 {
        self.under_way.written().1
    }

    fn collect<G: Guest>(&mut self, guest: &mut G) {
        let written = guest.ram_mut().take_dirty();
        self.since_digest.add(&written);
        if self.interval != CheckpointInterval::Never {
            self.since_checkpoint.add(&written);
        }
    }

    /// The digest of a machine now; ends the epoch of written pages.
    pub(crate) fn digest<G: Guest>(&mut self, guest: &mut G) -> Digest {
        self.collect(guest);
        let pages = std::mem::take(&mut self.since_digest);
        match guest.tells_exactly() {
            true => Digest::of(guest, pages.pages()),
            false => Digest::listing(guest, pages.pages()),
        }
    }

    /// As [`Checkpointer::digest`] at the end. Where engines tell of different pages as written, a page that one of them wrote
    /// wrongly may be in no list of the other's: this list is of all.
    pub(crate) fn last_digest<G: Guest>(&mut self, guest: &mut G) -> Digest {
        if guest.tells_exactly() {
            return self.digest(guest);
        }
        self.collect(guest);
        self.since_digest = PageSet::default();
        let all: Vec<Pfn> = guest.ram().pages().collect();
        Digest::listing(guest, &all)
    }

    /// What a page costs whose content is new, besides.
    fn content_cost(&self) -> u64 {
        match self.under_way.beside() {
            true => CONTENT_COST + PACK_COST / BESIDE,
            false => CONTENT_COST + PACK_COST,
        }
    }

    /// Takes a checkpoint if one is due and worth it. The machine has just arrived where it is.
    pub(crate) fn arrived<G: Guest, S: Write>(
        &mut self,
        guest: &mut G,
        writer: &mut Writer<S>,
    ) -> Result<(), RecordError> {
        let here = guest.position().0;
        self.write_until(here, writer)?;
        if here < self.due {
            return Ok(());
        }
        if self.under_way.is_busy() {
            self.complete(writer)?;
            if here < self.due {
                return Ok(());
            }
        }
        self.collect(guest);
        let pages = self.since_checkpoint.pages().len() as u64;
        self.credit = (self.credit + (here - self.credit_at) / SHARE).min(CREDIT_MAX);
        self.credit_at = here;
        let cost = (pages * (PAGE_COST + self.content_cost())).min(CREDIT_MAX);
        if self.interval == CheckpointInterval::Affordable && cost > self.credit {
            // There will not be fewer pages.
            self.due = here + (cost - self.credit) * SHARE;
            return self.under_way.expect(pages);
        }
        let (contents, spent) = self.under_way.written();
        let page_bytes = match contents {
            0 => PAGE_BYTES_GUESS,
            contents => spent.div_ceil(contents),
        };
        if pages > PAGES_MAX || pages * page_bytes > self.allowance.saturating_sub(spent) {
            self.due = u64::MAX;
            return Ok(());
        }
        let written = std::mem::take(&mut self.since_checkpoint);
        self.under_way.take(guest, written.pages(), writer)?;
        self.charged = (pages, contents);
        self.credit = self.credit.saturating_sub(cost);
        self.last = here;
        self.due = match self.interval {
            // Not before this one is complete.
            CheckpointInterval::Affordable => u64::MAX,
            CheckpointInterval::Never | CheckpointInterval::Every(_) => self.earliest(),
        };
        Ok(())
    }

    /// Writes what is packed of the checkpoint under way, or should be.
    fn write_until<S: Write>(
        &mut self,
        here: u64,
        writer: &mut Writer<S>,
    ) -> Result<(), RecordError> {
        if self.under_way.write_until(here, writer)? {
            let (pages, before) = self.charged;
            let fresh = self.under_way.written().0 - before;
            let refund = pages.saturating_sub(fresh) * self.content_cost();
            self.credit = (self.credit + refund).min(CREDIT_MAX);
            self.due = self.earliest();
        }
        Ok(())
    }

    /// Waits for what is packed and writes the checkpoint under way.
    pub(crate) fn complete<S: Write>(&mut self, writer: &mut Writer<S>) -> Result<(), RecordError> {
        self.write_until(u64::MAX, writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_state_sets_the_allowance_unless_the_user_does() {
        let start_bytes = (256 << 20) + 5000;
        let allowance = |file_bytes| {
            let policy = CheckpointPolicy { file_bytes, ..CheckpointPolicy::default() };
            Checkpointer::new(policy, Position(0), start_bytes).allowance
        };
        assert_eq!(allowance(CheckpointPolicy::default().file_bytes), 80_532_135);
        assert_eq!(allowance(Some(1 << 20)), 1 << 20);
        assert_eq!(allowance(Some(1 << 40)), 1 << 40);
    }
}
