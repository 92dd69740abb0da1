//! Blocks of disk images in a recording: what a run read of them, so that it replays without them.
//!
//! They stand behind the end, where older readers pass them by.

use crate::file::{Chunk, FileError, ImageBlocks, Kind, ReadError, Reader, encode_chunk};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// Bytes of a block.
pub const IMAGE_BLOCK: usize = 4096;
/// Blocks of a chunk: one is unpacked to read any of them.
const CHUNK_BLOCKS: usize = 64;

/// The blocks of images in a recording.
pub struct PackedImages {
    reader: Reader<File>,
    /// Drive and number of each block; its chunk, and its place there.
    blocks: BTreeMap<(u16, u64), (u64, u32)>,
    /// The chunk that was read last.
    last: Option<(u64, Vec<u8>)>,
}

impl PackedImages {
    /// Finds the blocks in a recording; `None`: it has none.
    pub fn open(file: File) -> Result<Option<PackedImages>, ReadError> {
        let mut reader = Reader::new(file)?;
        let mut blocks = BTreeMap::new();
        // What is damaged ends the file, as it does for marks.
        while let Ok(Some(place)) = reader.next_place() {
            if place.kind != Kind::Image as u16 {
                continue;
            }
            reader.go_to(place);
            let Ok(Some(located)) = reader.next_chunk() else { break };
            if let Chunk::Image(image) = located.chunk {
                for (index, block) in (0u32..).zip(image.blocks) {
                    blocks.insert((image.drive, block), (place.offset, index));
                }
            }
        }
        Ok((!blocks.is_empty()).then_some(PackedImages { reader, blocks, last: None }))
    }

    /// Whether it has a block of a drive's.
    pub fn has_drive(&self, drive: u16) -> bool {
        self.blocks.range((drive, 0)..=(drive, u64::MAX)).next().is_some()
    }

    /// Which blocks of which drives it has: drives by their numbers.
    pub fn drives(&self) -> BTreeMap<u16, BTreeSet<u64>> {
        let mut drives: BTreeMap<u16, BTreeSet<u64>> = BTreeMap::new();
        for &(drive, block) in self.blocks.keys() {
            drives.entry(drive).or_default().insert(block);
        }
        drives
    }

    /// Reads a block; whether it is there.
    pub fn read(
        &mut self,
        drive: u16,
        block: u64,
        into: &mut [u8; IMAGE_BLOCK],
    ) -> Result<bool, ReadError> {
        let Some(&(chunk, index)) = self.blocks.get(&(drive, block)) else { return Ok(false) };
        if self.last.as_ref().is_none_or(|(offset, _)| *offset != chunk) {
            self.reader.seek(chunk);
            let Some(located) = self.reader.next_chunk()? else { return Ok(false) };
            let Chunk::Image(image) = located.chunk else { return Ok(false) };
            self.last = Some((chunk, image.contents.0));
        }
        let contents =
            self.last.as_ref().map(|(_, contents)| contents.as_chunks::<IMAGE_BLOCK>().0);
        let Some(contents) = contents.and_then(|contents| contents.get(index as usize)) else {
            return Ok(false);
        };
        into.copy_from_slice(contents);
        Ok(true)
    }
}

/// Why blocks were not added.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The recording cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It has no end: its recorder was killed.
    #[error("the recording is cut short: only whole ones are packed")]
    CutShort,
    /// A block of the image cannot be read.
    #[error("the disk image cannot be read: {0}")]
    Image(io::Error),
    /// The host refused.
    #[error("the blocks could not be written: {0}")]
    Write(io::Error),
}

/// Appends blocks of a drive's image to a recording that nobody is writing, opened for reading and writing.
pub fn append_image(
    mut file: &File,
    drive: u16,
    blocks: &BTreeSet<u64>,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> Result<(), PackError> {
    let mut reader = Reader::new(file)?;
    let mut ended = false;
    loop {
        match reader.next_place() {
            Ok(Some(place)) => ended |= place.kind == Kind::End as u16,
            Ok(None) => break,
            Err(ReadError::File(FileError::Truncated { .. })) if ended => break,
            Err(error) => return Err(error.into()),
        }
    }
    if !ended {
        return Err(PackError::CutShort);
    }
    let at = reader.offset();
    file.set_len(at).map_err(PackError::Write)?;
    file.seek(SeekFrom::Start(at)).map_err(PackError::Write)?;
    let numbers: Vec<u64> = blocks.iter().copied().collect();
    for numbers in numbers.chunks(CHUNK_BLOCKS) {
        let mut contents = vec![0; numbers.len() * IMAGE_BLOCK];
        for (number, into) in numbers.iter().zip(contents.chunks_mut(IMAGE_BLOCK)) {
            read(*number, into).map_err(PackError::Image)?;
        }
        let image = ImageBlocks { drive, blocks: numbers.to_vec(), contents: contents.into() };
        let bytes = encode_chunk(&Chunk::Image(image)).map_err(PackError::Write)?;
        file.write_all(&bytes).map_err(PackError::Write)?;
    }
    file.sync_all().map_err(PackError::Write)
}
