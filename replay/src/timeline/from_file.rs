//! Checkpoints that stand in the recording. Nothing needs them: what is wrong with one costs time, and a note.

use super::checkpoints::Checkpoint;
use super::pages::Content;
use super::{Rewind, Timeline};
use crate::file::{CheckpointChunk, FileError, Moment, from_bytes};
use crate::page_set::PageSet;
use crate::pages::FilePage;
use crate::replayer::ReplayError;
use dejavm_units::{Pfn, Position};
use std::io::{Read, Seek};

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    /// Takes in the checkpoints of the file, up to the first with something wrong. Contents of pages stay
    /// in the file.
    pub(super) fn load_checkpoints(&mut self) -> Result<(), ReplayError> {
        for n in 0.. {
            let read = self.log.checkpoint(n);
            let added = match read {
                Ok(None) => return Ok(()),
                Ok(Some((offset, chunk))) => self.add_checkpoint(offset, chunk),
                Err(ReplayError::Read(crate::file::ReadError::File(error))) => Err(error),
                Err(error) => return Err(error),
            };
            match added {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => {
                    self.note(format!(
                        "{error}; this checkpoint and those after it are not used, so that going there \
                         takes longer"
                    ));
                    return Ok(());
                }
            }
            self.thin();
        }
        Ok(())
    }

    /// Takes in one; whether it lies before the log's end.
    fn add_checkpoint(&mut self, offset: u64, chunk: CheckpointChunk) -> Result<bool, FileError> {
        let CheckpointChunk { at, state, sources, pages } = chunk;
        let wrong = |reason| FileError::OutOfPlace { offset, reason };
        if at > self.log.end() {
            return Ok(false);
        }
        let last = self.checkpoints.last_until(Position(u64::MAX));
        let before = self.checkpoints.get(last).map(|before| before.guest_ns);
        if at.position <= last || before.is_some_and(|before| at.guest_ns < before) {
            return Err(wrong("its checkpoint does not lie behind the one before it"));
        }
        from_bytes::<G::State>(&state)
            .map_err(|reason| FileError::Undecodable { offset, reason })?;
        let mut numbers = Vec::with_capacity(pages.len());
        let mut contents = Vec::with_capacity(pages.len());
        let ram = self.guest.ram();
        for (number, source, index) in pages {
            let pfn = Pfn(number);
            if !ram.has_page(pfn) {
                return Err(wrong("its checkpoint holds a page outside the machine's RAM"));
            }
            if numbers.last().is_some_and(|&last| last >= pfn) {
                return Err(wrong("the pages of its checkpoint are in no order"));
            }
            numbers.push(pfn);
            contents.push(match source.checked_sub(1) {
                None => Content::Zero,
                Some(nth) => match sources.get(nth as usize) {
                    Some(&chunk) if chunk < offset => Content::File(FilePage { chunk, index }),
                    _ => {
                        return Err(wrong(
                            "its checkpoint refers to contents that are not before it",
                        ));
                    }
                },
            });
        }
        let checkpoint = Checkpoint {
            guest_ns: at.guest_ns,
            state: state.into(),
            pages: PageSet::from_sorted(numbers),
            since_digest: None,
            console: None,
            in_file: true,
        };
        self.checkpoints.put(at.position, checkpoint, contents);
        Ok(true)
    }

    /// Forgets the first checkpoint of the file that could have led to one that cannot be used, and all
    /// after it, as they build on it; `false`: none did, so that something else is wrong.
    pub(super) fn distrust(&mut self, bad: Position, error: &ReplayError) -> bool {
        let first = self.checkpoints.positions().find(|(_, in_file)| *in_file);
        let Some((first, _)) = first.filter(|(first, _)| *first <= bad) else { return false };
        self.note(format!(
            "{error}; checkpoints in the file are not used from position {first} on"
        ));
        loop {
            let last = self.checkpoints.last_until(Position(u64::MAX));
            if last < first {
                return true;
            }
            self.forget(last);
        }
    }

    /// Whether the machine is where a checkpoint says it is.
    pub(super) fn check_restored(&self, at: Moment) -> Result<(), ReplayError> {
        if self.now() == at {
            return Ok(());
        }
        Err(ReplayError::Machine(format!(
            "a checkpoint's state is that of {}, not {at}",
            self.now()
        )))
    }

    fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What the user should know of the recording, besides errors: sentences without full stop.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}
