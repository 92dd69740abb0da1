//! What a dump has otherwise than the guest: the decoded debugger data block, and registers where debuggers look.

use crate::error::Error;
use crate::output::Output;
use crate::windows::space::Space;
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;

/// Bytes that replace those of the guest's memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patches {
    /// Physical address, and bytes that end in the same page.
    pieces: Vec<(u64, Vec<u8>)>,
}

impl Patches {
    /// Replaces what is at a linear address, where there is memory; whether there is for all of it.
    pub fn put(&mut self, space: &Space<'_>, linear: u64, bytes: &[u8]) -> bool {
        let mut is_whole = true;
        let (mut linear, mut bytes) = (linear, bytes);
        while !bytes.is_empty() {
            let count = ((PAGE - linear % PAGE) as usize).min(bytes.len());
            let (now, rest) = bytes.split_at(count);
            match space.physical(linear) {
                Some(physical) => self.pieces.push((physical, now.to_vec())),
                None => is_whole = false,
            }
            (linear, bytes) = (linear.wrapping_add(count as u64), rest);
        }
        is_whole
    }

    /// The pages that they are in.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.pieces.iter().map(|(physical, _)| physical / PAGE)
    }

    /// Writes them to where their pages are in a dump; those in pages that it has not are nothing.
    pub fn write(&self, output: &Output, place: impl Fn(u64) -> Option<u64>) -> Result<(), Error> {
        for (physical, bytes) in &self.pieces {
            if let Some(at) = place(physical / PAGE) {
                output.checked(output.file().write_all_at(bytes, at + physical % PAGE))?;
            }
        }
        Ok(())
    }
}
