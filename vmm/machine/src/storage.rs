//! Drives: what they held when the machine was started, and what the guest has written since.
//!
//! What a drive held is behind a [`Storage`], which the caller brings: a disk image, opened read-only. It never changes, so what
//! is read of it follows from which image it is. What the guest writes goes into pages of the machine's own, a volume of
//! [`GuestRam`] for each drive, and so into digests, checkpoints and branches as RAM does:
//!
//! ```text
//! page n                    contents of block n, 4096 bytes
//! page blocks + n           one bit for each of blocks 32768 n to 32768 n + 32767, lowest bit first: it was written
//! ```

use dejavm_devices::card::HostFailed;
use dejavm_memory::{GuestRam, storage_page};
use dejavm_units::PAGE_SIZE;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::sync::Arc;

/// Blocks of which a page of bits tells.
const BLOCKS_PER_PAGE: u64 = 8 * PAGE_SIZE;

/// What a drive held when the machine was started.
pub trait Storage: Send + Sync {
    /// Reads from `offset` on. The same offset always gives the same bytes. What lies behind the image's end is zero.
    ///
    /// # Errors
    /// What the host says. The machine ends then: no guest sees it.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// A drive that was empty.
impl Storage for () {
    fn read(&self, _offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        Ok(())
    }
}

/// Contents in memory.
impl Storage for Vec<u8> {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let there = into.len().min(self.len() - start);
        into[..there].copy_from_slice(&self[start..start + there]);
        into[there..].fill(0);
        Ok(())
    }
}

/// A drive, as its recording keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its size: not 0, a multiple of 512.
    pub bytes: u64,
    /// The guest cannot write.
    pub read_only: bool,
}

impl Drive {
    /// Bytes at most: those of a volume, its bits left room for.
    pub const BYTES_MAX: u64 = 1 << 50;

    fn blocks(&self) -> u64 {
        self.bytes.div_ceil(PAGE_SIZE)
    }

    /// Pages of the drive's volume.
    pub(crate) fn pages(&self) -> u64 {
        self.blocks() + self.blocks().div_ceil(BLOCKS_PER_PAGE)
    }
}

/// What the drives of a machine held when it was started, in order. Machines may share it.
pub type Storages = Vec<Arc<dyn Storage>>;

/// The drives of a machine.
#[derive(Default)]
pub(crate) struct Drives {
    drives: Vec<Drive>,
    pub(crate) storages: Storages,
    /// Why the machine cannot go on.
    pub(crate) failure: Option<String>,
}

impl fmt::Debug for Drives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.drives.fmt(f)
    }
}

/// The bits of one page of them.
struct Written {
    /// Its place among the pages of bits.
    page: u64,
    bits: [u8; PAGE_SIZE as usize],
}

impl Drives {
    pub(crate) fn new(drives: &[Drive]) -> Drives {
        Drives { drives: drives.to_vec(), storages: Vec::new(), failure: None }
    }

    pub(crate) fn bytes(&self, drive: usize) -> Option<u64> {
        self.drives.get(drive).map(|drive| drive.bytes)
    }

    /// Reads for a card; what goes wrong ends the machine.
    pub(crate) fn read(
        &mut self,
        drive: usize,
        offset: u64,
        into: &mut [u8],
        ram: &GuestRam,
    ) -> Result<(), HostFailed> {
        self.look(drive, offset, into, ram).map_err(|failure| {
            self.failure = Some(failure);
            HostFailed
        })
    }

    /// Reads; what goes wrong is a sentence.
    pub(crate) fn look(
        &self,
        drive: usize,
        offset: u64,
        into: &mut [u8],
        ram: &GuestRam,
    ) -> Result<(), String> {
        let mut written = None;
        let mut done = 0;
        // Runs of blocks that were not written are read at once.
        let mut unread = 0..0;
        while done < into.len() {
            let at = offset + done as u64;
            let (block, skipped) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let bytes = (PAGE_SIZE as usize - skipped).min(into.len() - done);
            if self.is_written(drive, block, &mut written, ram) {
                self.read_base(drive, offset, &mut into[..unread.end], unread.start)?;
                let mut page = [0; PAGE_SIZE as usize];
                read_page(ram, drive, block, &mut page);
                into[done..done + bytes].copy_from_slice(&page[skipped..skipped + bytes]);
                unread.start = done + bytes;
            }
            done += bytes;
            unread.end = done;
        }
        self.read_base(drive, offset, into, unread.start)
    }

    /// Reads the image into what lies behind `from` of a request's bytes.
    fn read_base(
        &self,
        drive: usize,
        offset: u64,
        into: &mut [u8],
        from: usize,
    ) -> Result<(), String> {
        let into = &mut into[from..];
        if into.is_empty() {
            return Ok(());
        }
        let at = offset + from as u64;
        let Some(storage) = self.storages.get(drive) else {
            return Err(format!("drive {drive} has no image"));
        };
        storage.read(at, into).map_err(|error| {
            format!("the image of drive {drive} cannot be read at offset {at:#x}: {error}")
        })
    }

    pub(crate) fn write(
        &mut self,
        drive: usize,
        offset: u64,
        from: &[u8],
        ram: &mut GuestRam,
    ) -> Result<(), HostFailed> {
        let mut written = None;
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let (block, skipped) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let bytes = (PAGE_SIZE as usize - skipped).min(from.len() - done);
            let mut page = [0; PAGE_SIZE as usize];
            if bytes < page.len() {
                self.read(drive, block * PAGE_SIZE, &mut page, ram)?;
            }
            page[skipped..skipped + bytes].copy_from_slice(&from[done..done + bytes]);
            write_page(ram, drive, block, &page);
            if !self.is_written(drive, block, &mut written, ram) {
                let Some(Written { page, bits }) = &mut written else {
                    unreachable!("they were just looked at")
                };
                let bit = block % BLOCKS_PER_PAGE;
                bits[(bit / 8) as usize] |= 1 << (bit % 8);
                write_page(ram, drive, self.drives[drive].blocks() + *page, bits);
            }
            done += bytes;
        }
        Ok(())
    }

    /// Whether the guest has written a block; `known` keeps the bits that were looked at last.
    fn is_written(
        &self,
        drive: usize,
        block: u64,
        known: &mut Option<Written>,
        ram: &GuestRam,
    ) -> bool {
        let page = block / BLOCKS_PER_PAGE;
        let written = match known {
            Some(written) if written.page == page => written,
            _ => {
                let mut bits = [0; PAGE_SIZE as usize];
                read_page(ram, drive, self.drives[drive].blocks() + page, &mut bits);
                known.insert(Written { page, bits })
            }
        };
        let bit = block % BLOCKS_PER_PAGE;
        written.bits[(bit / 8) as usize] & 1 << (bit % 8) != 0
    }

    /// The blocks that the guest has written, ascending.
    pub(crate) fn written(&self, drive: usize, ram: &GuestRam) -> Vec<u64> {
        let mut blocks = Vec::new();
        let count = self.drives[drive].blocks();
        for page in 0..count.div_ceil(BLOCKS_PER_PAGE) {
            let mut bits = [0; PAGE_SIZE as usize];
            read_page(ram, drive, count + page, &mut bits);
            for (index, byte) in (0u64..).zip(bits) {
                for bit in (0..8).filter(|bit| byte & 1 << bit != 0) {
                    blocks.push(page * BLOCKS_PER_PAGE + 8 * index + bit);
                }
            }
        }
        blocks
    }
}

fn read_page(ram: &GuestRam, volume: usize, index: u64, into: &mut [u8; PAGE_SIZE as usize]) {
    ram.read_page(storage_page(volume, index), into).expect("each drive has a volume");
}

fn write_page(ram: &mut GuestRam, volume: usize, index: u64, from: &[u8; PAGE_SIZE as usize]) {
    ram.write_page(storage_page(volume, index), from).expect("each drive has a volume");
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_memory::RamLayout;

    const BYTES: u64 = 40_000 * 4096 + 512;

    fn drives() -> (Drives, GuestRam) {
        let drive = Drive { bytes: BYTES, read_only: false };
        let mut ram = GuestRam::new(RamLayout::new(2 << 20).unwrap()).unwrap();
        ram.set_volumes(&[drive.pages()]);
        let mut drives = Drives::new(&[drive]);
        let base: Vec<u8> = (0..BYTES).map(|at| (at >> 9) as u8 | 1).collect();
        drives.storages = vec![Arc::new(base)];
        (drives, ram)
    }

    /// Against a plain copy of the image.
    #[test]
    fn what_was_written_is_read_and_the_rest_is_the_image() {
        let (mut drives, mut ram) = drives();
        let mut model: Vec<u8> = (0..BYTES).map(|at| (at >> 9) as u8 | 1).collect();
        let mut seed = 1u64;
        let mut random = |bound: u64| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (seed >> 33) % bound
        };
        for step in 0..400u64 {
            let sectors = 1 + random(40);
            // Near the place where the bits change pages, at the end, anywhere.
            let first = match step % 3 {
                0 => 32768 * 8 - 20 + random(40),
                1 => BYTES / 512 - sectors,
                _ => random(BYTES / 512 - sectors),
            };
            let range = first as usize * 512..(first + sectors) as usize * 512;
            if step % 2 == 0 {
                let bytes = vec![(step / 2 % 3) as u8; range.len()];
                drives.write(0, range.start as u64, &bytes, &mut ram).unwrap();
                model[range].copy_from_slice(&bytes);
            } else {
                let mut bytes = vec![0xee; range.len()];
                drives.read(0, range.start as u64, &mut bytes, &ram).unwrap();
                assert_eq!(bytes, model[range.clone()], "step {step}: {range:?}");
            }
        }
        let written = drives.written(0, &ram);
        assert!(written.len() > 100 && written.is_sorted());
        let mut all = vec![0; BYTES as usize];
        drives.read(0, 0, &mut all, &ram).unwrap();
        assert!(all == model);
    }

    #[test]
    fn a_block_of_zeros_hides_the_image() {
        let (mut drives, mut ram) = drives();
        drives.write(0, 8192, &[0; 4096], &mut ram).unwrap();
        assert_eq!(ram.take_dirty().len(), 2, "the block and its bit");
        drives.write(0, 8192, &[0; 512], &mut ram).unwrap();
        assert_eq!(ram.take_dirty().len(), 1, "the bit was set");
        let mut bytes = [1; 4096];
        drives.read(0, 8192, &mut bytes, &ram).unwrap();
        assert_eq!(bytes, [0; 4096]);
        assert_eq!(drives.written(0, &ram), [2]);
    }

    #[test]
    fn a_host_that_cannot_read_is_no_guest_data() {
        struct Broken;
        impl Storage for Broken {
            fn read(&self, _offset: u64, _into: &mut [u8]) -> io::Result<()> {
                Err(io::Error::other("the cable is out"))
            }
        }
        let (mut drives, mut ram) = drives();
        drives.storages = vec![Arc::new(Broken)];
        drives.write(0, 0, &[7; 4096], &mut ram).unwrap();
        assert_eq!(drives.read(0, 0, &mut [0; 4096], &ram), Ok(()), "the guest's own");
        assert_eq!(drives.read(0, 0, &mut [0; 4608], &ram), Err(HostFailed));
        let failure = drives.failure.take().unwrap();
        assert_eq!(
            failure,
            "the image of drive 0 cannot be read at offset 0x1000: the cable is out"
        );
        assert_eq!(drives.write(0, 512, &[7; 512], &mut ram), Ok(()));
        drives.storages.clear();
        assert_eq!(drives.write(0, 8192, &[7; 512], &mut ram), Err(HostFailed));
        assert_eq!(drives.failure.as_deref(), Some("drive 0 has no image"));
    }
}
