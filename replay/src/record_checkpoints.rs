//! Checkpoints taken while recording: when, and how they are written. `docs/formats/recording.md` says what they
//! are. No clock is asked: pages and instructions are the measure of cost.

use crate::digest::Digest;
use crate::file::{Bytes, CheckpointChunk, Chunk, Moment, Writer, to_bytes};
use crate::guest::Guest;
use crate::page_set::PageSet;
use dejavm_units::{PAGE_SIZE, Position};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Write};

const PAGE: usize = PAGE_SIZE as usize;
/// Contents in one chunk at most.
const CONTENTS_MAX: usize = 1024;
/// Pages of one checkpoint at most: the chunk that lists them has a bound.
const PAGES_MAX: u64 = 1 << 20;
/// What a page costs, in instructions: copying and hashing take some 2.5 microseconds, in which a guest
/// in host code executes some 3000.
const PAGE_COST: u64 = 3000;
/// What a page costs besides if its content is new: compressing and writing take some 8 microseconds.
const CONTENT_COST: u64 = 10_000;
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
    /// Bytes that checkpoints may take in the file, and have taken.
    allowance: u64,
    spent: u64,
    /// Contents written so far.
    contents: u64,
    /// Where the last one was taken, and where another one may be worth a look.
    last: u64,
    due: u64,
    /// Instructions' worth of checkpoints that was earned and not used, up to a position.
    credit: u64,
    credit_at: u64,
    since_digest: PageSet,
    since_checkpoint: PageSet,
    /// Where in the file each content is: offset of the chunk, which of its pages.
    known: BTreeMap<[u8; 32], (u64, u32)>,
}

impl Checkpointer {
    /// For a recording that starts here, with a start state of so many bytes before compression.
    pub(crate) fn new(policy: CheckpointPolicy, start: Position, start_bytes: u64) -> Checkpointer {
        let mut checkpointer = Checkpointer {
            interval: policy.interval,
            allowance: policy.file_bytes.unwrap_or(start_bytes / 10 * 3),
            spent: 0,
            contents: 0,
            last: start.0,
            due: 0,
            credit: 0,
            credit_at: start.0,
            since_digest: PageSet::default(),
            since_checkpoint: PageSet::default(),
            known: BTreeMap::new(),
        };
        checkpointer.due = checkpointer.earliest();
        checkpointer
    }

    /// Where the next one can be at the earliest. Spacing grows as the allowance is used up.
    fn earliest(&self) -> u64 {
        let spacing = match self.interval {
            CheckpointInterval::Never => return u64::MAX,
            CheckpointInterval::Every(instructions) => instructions.max(1),
            CheckpointInterval::Affordable => SPACING,
        };
        let left = self.allowance.saturating_sub(self.spent);
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
        self.spent
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
        Digest::of(guest, pages.pages())
    }

    /// Takes a checkpoint if one is due and worth it. The machine has just arrived where it is.
    pub(crate) fn arrived<G: Guest, S: Write>(
        &mut self,
        guest: &mut G,
        writer: &mut Writer<S>,
    ) -> io::Result<()> {
        let here = guest.position().0;
        if here < self.due {
            return Ok(());
        }
        self.collect(guest);
        let pages = self.since_checkpoint.pages().len() as u64;
        self.credit = (self.credit + (here - self.credit_at) / SHARE).min(CREDIT_MAX);
        self.credit_at = here;
        let cost = (pages * (PAGE_COST + CONTENT_COST)).min(CREDIT_MAX);
        if self.interval == CheckpointInterval::Affordable && cost > self.credit {
            // There will not be fewer pages.
            self.due = here + (cost - self.credit) * SHARE;
            return Ok(());
        }
        let page_bytes = match self.contents {
            0 => PAGE_BYTES_GUESS,
            contents => self.spent.div_ceil(contents),
        };
        if pages > PAGES_MAX || pages * page_bytes > self.allowance.saturating_sub(self.spent) {
            self.due = u64::MAX;
            return Ok(());
        }
        let (before, contents) = (writer.bytes(), self.contents);
        self.write(guest, writer)?;
        let cost = pages * PAGE_COST + (self.contents - contents) * CONTENT_COST;
        self.credit = self.credit.saturating_sub(cost);
        self.spent += writer.bytes() - before;
        self.last = here;
        self.due = self.earliest();
        Ok(())
    }

    fn write<G: Guest, S: Write>(&mut self, guest: &G, writer: &mut Writer<S>) -> io::Result<()> {
        let ram = guest.ram();
        let mut page = [0; PAGE];
        // Contents that are not written yet, and their hashes.
        let mut fresh = Vec::new();
        let mut hashes = Vec::new();
        let mut places = Vec::new();
        let written = std::mem::take(&mut self.since_checkpoint);
        for &pfn in written.pages() {
            ram.read(pfn.gpa(), &mut page).expect("dirty pages are RAM");
            if page == [0; PAGE] {
                places.push((pfn, None));
                continue;
            }
            let hash = *blake3::hash(&page).as_bytes();
            places.push((pfn, Some(hash)));
            if let Entry::Vacant(unknown) = self.known.entry(hash) {
                unknown.insert((writer.bytes(), hashes.len() as u32));
                hashes.push(hash);
                fresh.extend_from_slice(&page);
            }
            if hashes.len() == CONTENTS_MAX {
                self.write_contents(&mut fresh, &mut hashes, writer)?;
            }
        }
        self.write_contents(&mut fresh, &mut hashes, writer)?;
        let mut sources = BTreeMap::new();
        for (chunk, _) in places.iter().flat_map(|(_, hash)| hash).map(|hash| self.known[hash]) {
            sources.insert(chunk, 0);
        }
        for (nth, number) in sources.values_mut().enumerate() {
            *number = nth as u32 + 1;
        }
        let pages = places.iter().map(|(pfn, hash)| match hash.map(|hash| self.known[&hash]) {
            None => (pfn.0, 0, 0),
            Some((chunk, index)) => (pfn.0, sources[&chunk], index),
        });
        let checkpoint = CheckpointChunk {
            at: Moment { position: guest.position(), guest_ns: guest.guest_ns() },
            state: to_bytes(&guest.save()),
            pages: pages.collect(),
            sources: sources.keys().copied().collect(),
        };
        writer.append(&Chunk::Checkpoint(Box::new(checkpoint)))
    }

    fn write_contents<S: Write>(
        &mut self,
        fresh: &mut Vec<u8>,
        hashes: &mut Vec<[u8; 32]>,
        writer: &mut Writer<S>,
    ) -> io::Result<()> {
        if hashes.is_empty() {
            return Ok(());
        }
        self.contents += hashes.len() as u64;
        hashes.clear();
        writer.append(&Chunk::Contents(Bytes(std::mem::take(fresh))))
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
