//! Checkpoints: what the machine was at some positions, and which pages changed between them.

use super::pages::{Content, PageHistory};
use crate::digest::Hash128;
use crate::page_set::PageSet;
use crate::record::hash_output;
use dejavm_machine::Output;
use dejavm_memory::GuestRam;
use dejavm_units::{GuestNs, Pfn, Position};
use std::collections::BTreeMap;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

/// The console's output so far.
#[derive(Clone)]
pub(super) struct Console {
    hash: Xxh3,
    bytes: u64,
}

impl Console {
    pub(super) fn new() -> Console {
        Console { hash: Xxh3::new(), bytes: 0 }
    }

    pub(super) fn add(&mut self, output: &[Output]) {
        self.bytes += hash_output(&mut self.hash, output);
    }

    pub(super) fn total(&self) -> (Hash128, u64) {
        (Hash128(self.hash.digest128().to_le_bytes()), self.bytes)
    }
}

/// The machine at rest at a position.
pub(super) struct Checkpoint {
    pub(super) guest_ns: GuestNs,
    /// Its state in bincode, RAM left out.
    pub(super) state: Arc<[u8]>,
    /// Pages that may differ from those at the checkpoint before. At least those that do.
    pub(super) pages: PageSet,
    /// Pages written since the digest before; `None`: unknown, or nobody will ask.
    pub(super) since_digest: Option<Arc<PageSet>>,
    /// `None`: unknown.
    pub(super) console: Option<Console>,
    /// It stands in the recording: forgetting it frees little and costs much.
    pub(super) in_file: bool,
}

impl Checkpoint {
    /// Memory that this takes beside its pages' contents and versions, estimated from counts.
    fn bytes(&self) -> u64 {
        let pages = self.pages.pages().len();
        let since = self.since_digest.as_ref().map_or(0, |set| set.pages().len());
        let lists = (pages + since) * size_of::<Pfn>();
        (size_of::<Checkpoint>() + self.state.len() + lists + 128) as u64
    }
}

/// All checkpoints of a timeline. The one at the start is always there.
#[derive(Default)]
pub(super) struct Checkpoints {
    list: BTreeMap<Position, Checkpoint>,
    history: PageHistory,
    /// Sum of [`Checkpoint::bytes`].
    list_bytes: u64,
}

impl Checkpoints {
    /// Memory in use, estimated from counts.
    pub(super) fn bytes(&self) -> u64 {
        self.list_bytes + self.history.bytes()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, at: Position) -> Option<&Checkpoint> {
        self.list.get(&at)
    }

    /// The last one that is not behind a position.
    pub(super) fn last_until(&self, at: Position) -> Position {
        let found = self.list.range(..=at).next_back();
        *found.expect("the start has a checkpoint").0
    }

    /// The first one behind a position.
    pub(super) fn first_after(&self, at: Position) -> Option<Position> {
        self.list.range(Position(at.0.saturating_add(1))..).next().map(|(at, _)| *at)
    }

    /// Adds a checkpoint of a machine that stands at it. Its pages must be at least those written since
    /// the checkpoint before.
    pub(super) fn take(&mut self, at: Position, checkpoint: Checkpoint, ram: &GuestRam) {
        for &pfn in checkpoint.pages.pages() {
            let content = self.history.keep(ram, pfn);
            self.history.set(pfn, at, content);
        }
        self.add(at, checkpoint);
    }

    /// The stored form of what a page holds now.
    pub(super) fn keep(&mut self, pfn: Pfn, ram: &GuestRam) -> Content {
        self.history.keep(ram, pfn)
    }

    /// Adds a checkpoint whose contents are known, in the order of its pages.
    pub(super) fn put(&mut self, at: Position, checkpoint: Checkpoint, contents: Vec<Content>) {
        assert_eq!(checkpoint.pages.pages().len(), contents.len(), "a content for each page");
        for (&pfn, content) in checkpoint.pages.pages().iter().zip(contents) {
            self.history.set(pfn, at, content);
        }
        self.add(at, checkpoint);
    }

    fn add(&mut self, at: Position, checkpoint: Checkpoint) {
        self.list_bytes += checkpoint.bytes();
        let before = self.list.insert(at, checkpoint);
        assert!(before.is_none(), "a position has one checkpoint");
    }

    /// Pages that may differ between two checkpoints.
    pub(super) fn changed_between(&self, a: Position, b: Position) -> PageSet {
        let mut changed = PageSet::default();
        let (low, high) = (a.min(b), a.max(b));
        if low < high {
            for (_, checkpoint) in self.list.range(Position(low.0 + 1)..=high) {
                changed.add(checkpoint.pages.pages());
            }
        }
        changed
    }

    /// What a page held at a checkpoint.
    pub(super) fn content(&self, pfn: Pfn, at: Position) -> Content {
        self.history.at(pfn, at)
    }

    /// Forgets a checkpoint; the one after it takes over its pages. Returns them.
    pub(super) fn remove(&mut self, at: Position) -> PageSet {
        assert!(self.list.keys().next() != Some(&at), "the start stays");
        let removed = self.list.remove(&at).expect("it is there");
        self.list_bytes -= removed.bytes();
        match self.list.range_mut(at..).next() {
            Some((&next, successor)) => {
                for &pfn in removed.pages.pages() {
                    self.history.hand_on(pfn, at, next);
                }
                self.list_bytes -= successor.bytes();
                successor.pages.add(removed.pages.pages());
                self.list_bytes += successor.bytes();
            }
            None => {
                for &pfn in removed.pages.pages() {
                    self.history.forget(pfn, at);
                }
            }
        }
        removed.pages
    }

    /// Positions, and whether the file holds the checkpoint.
    pub(super) fn positions(&self) -> impl Iterator<Item = (Position, bool)> {
        self.list.iter().map(|(at, checkpoint)| (*at, checkpoint.in_file))
    }
}
