//! A checkpoint on its way into the file: its pages are copied at once, packed elsewhere, and what comes of
//! them is written while the machine goes on. When is a matter of positions alone, so the file does not hang on
//! how fast they are packed.

use crate::file::{CheckpointChunk, Chunk, Kind, Moment, Writer, to_bytes};
use crate::guest::Guest;
use crate::packing::{BATCH_PAGES, PackInPlace, Packed, Packer, PageCopies, Place};
use crate::record::RecordError;
use dejavm_units::Pfn;
use std::collections::BTreeMap;
use std::io::Write;

/// Batches that are packed at a time at most: 128 MiB of copies. Beyond, the machine waits.
const BATCHES_MAX: usize = 32;
/// Room for batches that is kept from one checkpoint to the next at most: 32 MiB.
const SPARE_MAX: usize = 8;
/// Instructions after which a batch should have been packed: some 10 milliseconds, in which a guest in
/// host code executes so many. If it was not, the machine waits.
const BATCH_TIME: u64 = 16 << 20;

/// A checkpoint whose pages are copied.
struct Taken {
    at: Moment,
    state: Vec<u8>,
    /// Each page, and which of the copies it is; `None`: zeros.
    pages: Vec<(Pfn, Option<u32>)>,
}

/// The checkpoint under way, if there is one, and what those before it left.
pub(crate) struct UnderWay {
    packer: Box<dyn Packer>,
    taken: Option<Taken>,
    /// Batches handed in and not taken back, and the position at which the next should be there.
    batches: usize,
    next_batch: u64,
    /// Empty batches handed in before those: room for the next checkpoint.
    rooms: usize,
    /// Where the copies are, as far as that is known.
    places: Vec<Place>,
    /// Room for copies.
    spare: Vec<PageCopies>,
    /// Where in the file the chunks with contents are.
    offsets: Vec<u64>,
    /// Contents written so far.
    contents: u64,
    /// Bytes of the file that were written here.
    bytes: u64,
}

impl UnderWay {
    pub(crate) fn new() -> UnderWay {
        UnderWay {
            packer: Box::new(PackInPlace::default()),
            taken: None,
            batches: 0,
            rooms: 0,
            next_batch: u64::MAX,
            places: Vec::new(),
            spare: Vec::new(),
            offsets: Vec::new(),
            contents: 0,
            bytes: 0,
        }
    }

    /// Has pages packed by another packer. None was handed in yet.
    pub(crate) fn set_packer(&mut self, packer: Box<dyn Packer>) {
        assert!(self.taken.is_none() && self.contents == 0, "one packer knows all contents");
        self.packer = packer;
    }

    /// Whether packing leaves the machine running.
    pub(crate) fn beside(&self) -> bool {
        self.packer.beside()
    }

    /// Whether a checkpoint is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.taken.is_some()
    }

    /// Contents and bytes written so far.
    pub(crate) fn written(&self) -> (u64, u64) {
        (self.contents, self.bytes)
    }

    /// A checkpoint with at least so many pages is to come: has room for it touched while the machine runs.
    /// The host takes longer to give memory than the machine's thread to copy pages into it.
    pub(crate) fn expect(&mut self, pages: u64) -> Result<(), RecordError> {
        if !self.beside() || self.is_busy() {
            return Ok(());
        }
        let wanted = pages.div_ceil(BATCH_PAGES as u64).min(BATCHES_MAX as u64);
        while ((self.spare.len() + self.rooms) as u64) < wanted {
            let room = PageCopies::new().map_err(RecordError::Packing)?;
            self.packer.hand_in(room).map_err(RecordError::Packing)?;
            self.rooms += 1;
        }
        Ok(())
    }

    /// Takes a checkpoint with these pages, ascending.
    pub(crate) fn take<G: Guest, S: Write>(
        &mut self,
        guest: &G,
        written: &[Pfn],
        writer: &mut Writer<S>,
    ) -> Result<(), RecordError> {
        assert!(self.taken.is_none(), "one checkpoint is under way at a time");
        while self.rooms > 0 {
            let Packed { copies, .. } = self.packer.take_back().map_err(RecordError::Packing)?;
            self.spare.push(copies);
            self.rooms -= 1;
        }
        let ram = guest.ram();
        let mut pages = Vec::with_capacity(written.len());
        let mut copied = 0;
        let mut copies = self.room()?;
        for &pfn in written {
            let not_zero = copies.add(|page| ram.read_page(pfn, page).expect("dirty pages exist"));
            pages.push((pfn, not_zero.then_some(copied)));
            copied += u32::from(not_zero);
            if copies.is_full() {
                self.hand_in(copies, writer)?;
                copies = self.room()?;
            }
        }
        match copies.is_empty() {
            true => self.spare.push(copies),
            false => self.hand_in(copies, writer)?,
        }
        let at = Moment { position: guest.position(), guest_ns: guest.guest_ns() };
        self.taken = Some(Taken { at, state: to_bytes(&guest.save()), pages });
        self.next_batch = at.position.0.saturating_add(BATCH_TIME);
        Ok(())
    }

    fn room(&mut self) -> Result<PageCopies, RecordError> {
        let Some(mut copies) = self.spare.pop() else {
            return PageCopies::new().map_err(RecordError::Packing);
        };
        copies.clear();
        Ok(copies)
    }

    fn hand_in<S: Write>(
        &mut self,
        copies: PageCopies,
        writer: &mut Writer<S>,
    ) -> Result<(), RecordError> {
        if self.batches == BATCHES_MAX {
            self.take_back(writer)?;
        }
        self.packer.hand_in(copies).map_err(RecordError::Packing)?;
        self.batches += 1;
        Ok(())
    }

    fn take_back<S: Write>(&mut self, writer: &mut Writer<S>) -> Result<(), RecordError> {
        let Packed { copies, places, chunk, fresh } =
            self.packer.take_back().map_err(RecordError::Packing)?;
        self.batches -= 1;
        if self.spare.len() < SPARE_MAX {
            self.spare.push(copies);
        }
        self.places.extend(places);
        let Some(chunk) = chunk else { return Ok(()) };
        let offset = writer.bytes();
        writer
            .append_encoded(Kind::Contents, &chunk)
            .map_err(|source| RecordError::Write { offset, source })?;
        self.offsets.push(offset);
        self.contents += fresh;
        self.bytes += writer.bytes() - offset;
        Ok(())
    }

    /// Writes what should be packed when the machine is here; whether that completed the checkpoint.
    pub(crate) fn write_until<S: Write>(
        &mut self,
        here: u64,
        writer: &mut Writer<S>,
    ) -> Result<bool, RecordError> {
        while self.batches > 0 && here >= self.next_batch {
            self.take_back(writer)?;
            self.next_batch = self.next_batch.saturating_add(BATCH_TIME);
        }
        match self.taken.take_if(|_| self.batches == 0) {
            None => Ok(false),
            Some(taken) => self.write(taken, writer).map(|()| true),
        }
    }

    fn write<S: Write>(&mut self, taken: Taken, writer: &mut Writer<S>) -> Result<(), RecordError> {
        let places = std::mem::take(&mut self.places);
        let offset_of = |(chunk, _): Place| self.offsets[chunk as usize];
        let mut sources: BTreeMap<u64, u32> =
            places.iter().map(|&place| (offset_of(place), 0)).collect();
        for (nth, number) in sources.values_mut().enumerate() {
            *number = nth as u32 + 1;
        }
        let pages = taken.pages.iter().map(|(pfn, copy)| match copy {
            None => (pfn.0, 0, 0),
            Some(copy) => {
                let place = places[*copy as usize];
                (pfn.0, sources[&offset_of(place)], place.1)
            }
        });
        let checkpoint = CheckpointChunk {
            at: taken.at,
            state: taken.state,
            pages: pages.collect(),
            sources: sources.keys().copied().collect(),
        };
        let offset = writer.bytes();
        writer
            .append(&Chunk::Checkpoint(Box::new(checkpoint)))
            .map_err(|source| RecordError::Write { offset, source })?;
        self.bytes += writer.bytes() - offset;
        Ok(())
    }
}
