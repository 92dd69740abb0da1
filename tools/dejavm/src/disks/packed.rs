//! Images whose blocks are in the recording, and how they get there.

use crate::exit::{Exit, Failure};
use dejavm_machine::Storage;
use dejavm_replay::{IMAGE_BLOCK, PackedImages, append_image};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

const BLOCK: u64 = IMAGE_BLOCK as u64;

/// An image, and which of its blocks were read.
pub struct Tracked {
    storage: Arc<dyn Storage>,
    touched: Mutex<BTreeSet<u64>>,
}

impl Tracked {
    /// Of which nothing was read yet.
    pub fn new(storage: Arc<dyn Storage>) -> Tracked {
        Tracked { storage, touched: Mutex::new(BTreeSet::new()) }
    }

    /// The blocks that were read.
    pub fn touched(&self) -> BTreeSet<u64> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Storage for Tracked {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if !into.is_empty() {
            let last = offset + (into.len() as u64 - 1);
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            touched.extend(offset / BLOCK..=last / BLOCK);
        }
        self.storage.read(offset, into)
    }
}

/// Adds the blocks that were read to a recording.
pub fn pack_into(file: &File, tracked: &[Arc<Tracked>]) -> Result<(), Failure> {
    for (drive, storage) in (0u16..).zip(tracked) {
        let read = |block: u64, into: &mut [u8]| storage.storage.read(block * BLOCK, into);
        append_image(file, drive, &storage.touched(), read)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    }
    Ok(())
}

/// Adds what a recording holds of images to another, which is of the same run.
pub fn hand_on(mut packed: PackedImages, to: &File) -> Result<(), Failure> {
    for (drive, blocks) in packed.drives() {
        let read = |block: u64, into: &mut [u8]| {
            let into = into.as_mut_array().expect("blocks have one length");
            match packed.read(drive, block, into).map_err(io::Error::other)? {
                true => Ok(()),
                false => {
                    Err(io::Error::other(format!("block {block} in the recording is damaged")))
                }
            }
        };
        append_image(to, drive, &blocks, read)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    }
    Ok(())
}

/// What a recording holds of an image.
pub struct Packed {
    images: Arc<Mutex<PackedImages>>,
    drive: u16,
}

impl Packed {
    /// Of a drive.
    pub fn new(images: Arc<Mutex<PackedImages>>, drive: u16) -> Packed {
        Packed { images, drive }
    }
}

impl Storage for Packed {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let (block, skipped) = (at / BLOCK, (at % BLOCK) as usize);
            let bytes = (IMAGE_BLOCK - skipped).min(into.len() - done);
            let mut contents = [0; IMAGE_BLOCK];
            let there = images
                .read(self.drive, block, &mut contents)
                .map_err(|error| io::Error::other(error.to_string()))?;
            if !there {
                return Err(io::Error::other(format!(
                    "block {block} is not among those in the recording, and the image itself is not there"
                )));
            }
            into[done..done + bytes].copy_from_slice(&contents[skipped..skipped + bytes]);
            done += bytes;
        }
        Ok(())
    }
}
