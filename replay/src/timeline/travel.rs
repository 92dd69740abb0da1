//! Moving the machine: forward by executing, backward by putting it back.

use super::checkpoints::Checkpoint;
use super::log::What;
use super::pages::PAGE;
use super::{Content, Rewind, Timeline, Watcher};
use crate::digest::{Digest, Hash128};
use crate::divergence::Divergence;
use crate::file::{FileError, Moment, from_bytes, to_bytes};
use crate::page_set::PageSet;
use crate::pages::FilePage;
use crate::replayer::ReplayError;
use dejavm_machine::{Idle, Input, Stop, Stops};
use dejavm_units::{Pfn, Position};
use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::sync::Arc;

/// Instructions between two calls of the watcher: some 50 ms.
const SLICE: u64 = 16 << 20;

/// What [`Timeline::advance`] came to.
pub(super) enum Moved {
    /// The position asked for. At rest.
    Arrived,
    /// A breakpoint or watchpoint on the way.
    Stopped(Stop),
    /// The watcher said so, while the machine was halted: not at rest.
    Interrupted,
}

/// Wake-ups of a halted machine between two calls of the watcher: some 10 ms.
const WAKE_UPS: u32 = 1 << 14;

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// Arrives at a position that is not behind the end; `false`: interrupted on the way.
    pub(super) fn go(
        &mut self,
        target: Position,
        watcher: &mut Watcher<'_>,
    ) -> Result<bool, ReplayError> {
        let here = self.guest.position();
        let nearest = self.checkpoints.last_until(target);
        if here > target || here == target && !self.at_rest || here < nearest {
            self.put_back(nearest)?;
        }
        self.guest.set_stops(&Stops::default());
        self.plan.approach(self.guest.position(), target);
        let arrived = self.forward_to(target, watcher);
        self.recover(arrived)
    }

    /// Runs to a position; `false`: interrupted on the way.
    pub(super) fn forward_to(
        &mut self,
        target: Position,
        watcher: &mut Watcher<'_>,
    ) -> Result<bool, ReplayError> {
        while self.guest.position() < target {
            match self.advance_towards(target, watcher)? {
                Moved::Arrived => self.arrived(watcher)?,
                Moved::Stopped(_) => unreachable!("no stops are set"),
                Moved::Interrupted => return Ok(false),
            }
            if self.guest.position() < target && !watcher(self.now()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// After an error the machine is nowhere in particular: puts it where it was still right.
    pub(super) fn recover<T>(&mut self, result: Result<T, ReplayError>) -> Result<T, ReplayError> {
        if result.is_err() {
            let sound = self.checkpoints.last_until(self.since.position);
            self.put_back(sound)?;
        }
        result
    }

    /// Runs until there is something to do on the way to `goal`, which lies ahead. Interrupted, it comes to
    /// rest.
    pub(super) fn advance_towards(
        &mut self,
        goal: Position,
        watcher: &mut Watcher<'_>,
    ) -> Result<Moved, ReplayError> {
        let moved = self.advance(self.next_pause(goal), watcher)?;
        if let Moved::Interrupted = moved {
            self.come_to_rest()?;
        }
        Ok(moved)
    }

    /// After an interruption: the nearest checkpoint.
    pub(super) fn come_to_rest(&mut self) -> Result<(), ReplayError> {
        self.put_back(self.guest.position())
    }

    /// The first position behind this one, up to `goal`, at which there is something to do, or the watcher
    /// is to be asked.
    fn next_pause(&self, goal: Position) -> Position {
        let here = self.guest.position();
        let mut pause = Position(here.0.saturating_add(SLICE)).min(goal);
        if let Some(checkpoint) = self.checkpoints.first_after(here) {
            pause = pause.min(checkpoint);
        }
        let before = self.checkpoints.last_until(here);
        pause.min(self.plan.next(here, before, self.options.spacing))
    }

    /// At rest at a position at which there may be something to do.
    pub(super) fn arrived(&mut self, watcher: &mut Watcher<'_>) -> Result<(), ReplayError> {
        let here = self.guest.position();
        let before = self.checkpoints.last_until(here);
        if before == here || self.plan.wants(here, before, self.options.spacing) {
            self.take_checkpoint();
        }
        if here == self.end() && !self.end_checked {
            self.check_end(watcher)?;
        }
        self.thin();
        Ok(())
    }

    /// Replays what the log holds at the last position, and undoes it.
    fn check_end(&mut self, watcher: &mut Watcher<'_>) -> Result<(), ReplayError> {
        self.take_checkpoint();
        self.guest.set_stops(&Stops::default());
        let here = self.guest.position();
        let mut interrupted = false;
        while let Some(event) = self.log.peek(self.cursor)?
            && !interrupted
        {
            let at = event.at;
            match self.wait_for(at, watcher)? {
                Moved::Arrived => self.consume()?,
                Moved::Stopped(_) => unreachable!("no stops are set"),
                Moved::Interrupted => interrupted = true,
            }
        }
        self.end_checked = !interrupted;
        self.put_back(here)?;
        match self.guest.position() == here {
            true => Ok(()),
            // The checkpoint built on one in the file that cannot be used.
            false => self.forward_to(here, watcher).map(|_| ()),
        }
    }

    /// Runs until the machine arrives at `target`, which lies ahead and not behind the end, or stops on
    /// the way.
    pub(super) fn advance(
        &mut self,
        target: Position,
        watcher: &mut Watcher<'_>,
    ) -> Result<Moved, ReplayError> {
        let mut idled = None;
        let mut wake_ups: u32 = 0;
        loop {
            let here = self.guest.position();
            let next = self.log.peek(self.cursor)?.map(|event| event.at);
            if here >= target {
                assert!(here == target, "the machine stops where it is asked to");
                self.at_rest = true;
                return Ok(Moved::Arrived);
            }
            self.at_rest = false;
            let limit = match next {
                Some(at) if at.position == here => {
                    match self.wait_for(at, watcher)? {
                        Moved::Arrived => {
                            if let Some(stop) = self.deliver()? {
                                return Ok(Moved::Stopped(stop));
                            }
                            self.consume()?;
                        }
                        other @ (Moved::Stopped(_) | Moved::Interrupted) => return Ok(other),
                    }
                    continue;
                }
                Some(at) => target.min(at.position),
                None => target,
            };
            let stop = self.guest.run(limit);
            self.take_output();
            let now = self.now();
            match stop {
                Stop::Limit => {}
                Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                    // What was delivered may have come on arrival or later: `step` finds out.
                    self.at_rest = now.position > here && self.guest.deliveries() == 0;
                    return Ok(Moved::Stopped(stop));
                }
                Stop::Idle { .. } | Stop::End(_) if now.position == limit => {}
                Stop::Idle { wake: Some(wake) } if idled.replace(now) != Some(now) => {
                    let (Idle::Runnable | Idle::Waiting) = self.guest.idle_until(wake);
                    wake_ups += 1;
                    if wake_ups.is_multiple_of(WAKE_UPS) && !watcher(now) {
                        return Ok(Moved::Interrupted);
                    }
                }
                Stop::Idle { .. } | Stop::End(_) => return Err(self.astray(next.unwrap_or(now))),
            }
        }
    }

    /// At the position of an event: waits until its time.
    fn wait_for(&mut self, at: Moment, watcher: &mut Watcher<'_>) -> Result<Moved, ReplayError> {
        let mut idled = None;
        let mut wake_ups: u32 = 0;
        loop {
            let stop = self.guest.run(at.position);
            self.take_output();
            let now = self.now();
            match stop {
                Stop::Breakpoint { .. } | Stop::Watchpoint { .. } => {
                    return Ok(Moved::Stopped(stop));
                }
                Stop::Idle { .. } | Stop::Limit | Stop::End(_) if now == at => {
                    return Ok(Moved::Arrived);
                }
                Stop::Idle { .. } if now < at && idled.replace(now) != Some(now) => {
                    let (Idle::Runnable | Idle::Waiting) = self.guest.idle_until(at.guest_ns);
                    wake_ups += 1;
                    if wake_ups.is_multiple_of(WAKE_UPS) && !watcher(now) {
                        return Ok(Moved::Interrupted);
                    }
                }
                Stop::Idle { .. } | Stop::Limit | Stop::End(_) => return Err(self.astray(at)),
            }
        }
    }

    /// If the next event of the log says how many exceptions came before the one after it, takes them. A stop
    /// on the way leaves the event where it is: it goes on when it is met again.
    fn deliver(&mut self) -> Result<Option<Stop>, ReplayError> {
        let event = self.log.peek(self.cursor)?.expect("the caller looked at it");
        let What::Input(Input::Deliveries { count }) = event.what else { return Ok(None) };
        self.at_rest = false;
        Ok(self.guest.take_deliveries(count))
    }

    /// Lets the next event of the log happen: its moment is now.
    fn consume(&mut self) -> Result<(), ReplayError> {
        let cursor = self.cursor;
        self.at_rest = false;
        self.cursor = self.log.after(cursor)?;
        let digest = {
            let event = self.log.peek(cursor)?.expect("the caller looked at it");
            match &event.what {
                What::Input(input) => {
                    self.guest.apply(input);
                    None
                }
                What::Progress => None,
                What::Digest(digest) => Some(digest.clone()),
                What::End(end) => {
                    let expected = (end.console, end.console_bytes);
                    if let Some(got) = self.console.as_ref().map(|console| console.total())
                        && got != expected
                    {
                        let show = |(hash, n): (Hash128, u64)| format!("{hash} over {n} bytes");
                        return Err(self.diverged("the console output", show(expected), show(got)));
                    }
                    None
                }
            }
        };
        if let Some(expected) = digest {
            self.collect_dirty();
            let pages = self.since_digest.replace(PageSet::default());
            if !self.log.verified(cursor) {
                self.compare(&expected, pages.as_ref())?;
                if pages.is_some() {
                    self.log.set_verified(cursor);
                }
            }
            self.since = expected.at;
        }
        Ok(())
    }

    /// Compares the machine with a digest; without the pages written since the digest before, only
    /// its state.
    fn compare(&self, expected: &Digest, pages: Option<&PageSet>) -> Result<(), ReplayError> {
        let mut got = expected.again(&self.guest, pages.map_or(&[], PageSet::pages));
        if pages.is_none() {
            got.memory = expected.memory;
            got.pages = expected.pages;
            got.buckets = expected.buckets.clone();
        }
        match Divergence::between::<G>(expected, &got, self.since, self.guest.ram()) {
            Some(divergence) => Err(divergence.into()),
            None => Ok(()),
        }
    }

    fn diverged(&self, what: &str, expected: String, got: String) -> ReplayError {
        Divergence::at(self.guest.position(), self.since, what, expected, got).into()
    }

    /// The machine cannot come to where the log says that something happened.
    pub(super) fn astray(&self, expected: Moment) -> ReplayError {
        if let Some(failure) = self.guest.engine_failure() {
            return ReplayError::Host(failure.to_owned());
        }
        self.diverged("the moment of the next event", expected.to_string(), self.now().to_string())
    }

    pub(super) fn take_output(&mut self) {
        let output = self.guest.take_output();
        if let Some(console) = &mut self.console {
            console.add(&output);
        }
    }

    /// Asks RAM what was written. All who need to know are told here: RAM tells once.
    fn collect_dirty(&mut self) {
        let written = self.guest.ram_mut().take_dirty();
        self.dirty.add(&written);
        if let Some(since) = &mut self.since_digest {
            since.add(&written);
        }
    }

    /// Makes sure that there is a checkpoint here. The machine is at rest.
    pub(super) fn take_checkpoint(&mut self) {
        self.collect_dirty();
        let pages = std::mem::take(&mut self.dirty);
        self.anchor = self.guest.position();
        if self.checkpoints.get(self.anchor).is_some() {
            return;
        }
        let checkpoint = self.checkpoint_here(pages);
        self.checkpoints.take(self.anchor, checkpoint, self.guest.ram());
    }

    /// The first checkpoint, of a machine that was loaded from the file: only what was written since then is copied.
    pub(super) fn take_checkpoint_of_file(&mut self, loaded: &[(Pfn, FilePage)]) {
        self.collect_dirty();
        let mut contents: BTreeMap<Pfn, Content> =
            loaded.iter().map(|&(pfn, place)| (pfn, Content::File(place))).collect();
        for &pfn in std::mem::take(&mut self.dirty).pages() {
            contents.insert(pfn, self.checkpoints.keep(pfn, self.guest.ram()));
        }
        self.anchor = self.guest.position();
        let (pages, contents) = contents.into_iter().unzip();
        let checkpoint = self.checkpoint_here(PageSet::from_sorted(pages));
        self.checkpoints.put(self.anchor, checkpoint, contents);
    }

    fn checkpoint_here(&mut self, pages: PageSet) -> Checkpoint {
        assert!(self.at_rest, "checkpoints hold the one state of a position");
        let here = self.guest.position();
        let since_digest = match self.log.awaits_digest(self.cursor) {
            true => self.since_digest.clone().map(Arc::new),
            false => None,
        };
        self.plan.taken(here, pages.pages().len());
        Checkpoint {
            guest_ns: self.guest.guest_ns(),
            state: to_bytes(&self.guest.save()).into(),
            pages,
            since_digest,
            console: self.console.clone(),
            in_file: false,
        }
    }

    /// Forgets a checkpoint.
    pub(super) fn forget(&mut self, at: Position) {
        let pages = self.checkpoints.remove(at);
        if self.anchor == at {
            self.anchor = self.checkpoints.last_until(at);
            self.dirty.add(pages.pages());
        }
    }

    /// Makes the machine what it was at a checkpoint, or at an earlier one if that is of no use.
    pub(super) fn put_back(&mut self, to: Position) -> Result<(), ReplayError> {
        loop {
            let nearest = self.checkpoints.last_until(to);
            match self.put_back_at(nearest) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if !self.distrust(nearest, &error) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn put_back_at(&mut self, to: Position) -> Result<(), ReplayError> {
        self.collect_dirty();
        let changed = self.difference(to);
        let contents = self.load_contents(&changed)?;
        let checkpoint = self.checkpoints.get(to).expect("a checkpoint is there");
        let state = from_bytes::<G::State>(&checkpoint.state).map_err(ReplayError::Machine)?;
        let guest_ns = checkpoint.guest_ns;
        self.console = checkpoint.console.clone();
        self.since_digest = checkpoint.since_digest.as_deref().cloned();
        let ram = self.guest.ram_mut();
        for (pfn, content) in &changed {
            let bytes: &[u8] = match content {
                Content::Zero => &[0; PAGE],
                Content::Held(stored) => &stored.bytes,
                Content::File(page) => &contents[page],
            };
            ram.write_page(*pfn, bytes).expect("checkpoints hold pages that exist");
        }
        ram.take_dirty();
        self.dirty = PageSet::default();
        self.anchor = to;
        self.guest.restore(&state).map_err(ReplayError::Machine)?;
        let now = Moment { position: to, guest_ns };
        self.check_restored(now)?;
        self.cursor = self.log.find(to)?;
        self.at_rest = true;
        self.since = self.since.min(now);
        Ok(())
    }

    /// What has to be written to make RAM what it was at a checkpoint.
    fn difference(&self, to: Position) -> Vec<(Pfn, Content)> {
        let mut changed = Vec::new();
        for &pfn in self.dirty.pages() {
            changed.push((pfn, self.checkpoints.content(pfn, to)));
        }
        for &pfn in self.checkpoints.changed_between(self.anchor, to).pages() {
            if self.dirty.pages().binary_search(&pfn).is_ok() {
                continue;
            }
            let content = self.checkpoints.content(pfn, to);
            if !content.same(&self.checkpoints.content(pfn, self.anchor)) {
                changed.push((pfn, content));
            }
        }
        changed
    }

    /// Reads the contents that are in the file.
    fn load_contents(
        &mut self,
        changed: &[(Pfn, Content)],
    ) -> Result<BTreeMap<FilePage, Vec<u8>>, ReplayError> {
        let mut wanted = BTreeMap::new();
        for (_, content) in changed {
            if let Content::File(page) = content {
                wanted.insert(*page, Vec::new());
            }
        }
        let mut chunk = None;
        for (page, bytes) in &mut wanted {
            if chunk.as_ref().is_none_or(|(offset, _)| *offset != page.chunk) {
                chunk = Some((page.chunk, self.log.page_contents(page.chunk)?));
            }
            let (offset, contents) = chunk.as_ref().expect("it was just read");
            let from = page.index as usize * PAGE;
            let reason = "it has fewer pages than checkpoints refer to";
            let missing = FileError::OutOfPlace { offset: *offset, reason };
            *bytes = contents.get(from..from + PAGE).ok_or(missing)?.to_vec();
        }
        Ok(wanted)
    }
}
