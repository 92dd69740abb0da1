//! VMware's disk image in one sparse file (Virtual Disk Format 5.0, "monolithicSparse"). The library that reads the other formats
//! knows only flat ones of these.
//!
//! ```text
//! 0   KDMV      4   version        8   flags          12  capacity          20  grain size
//! 28  offset and 36 size of the descriptor            44  entries of a grain table
//! 48  offset of the redundant grain directory         56  of the grain directory
//! 77  compression
//! ```
//!
//! All in sectors of 512 bytes. An entry of the directory is the sector of a grain table, an entry of that the sector of a grain; 0 is
//! a grain that is zero, and so is 1 where a flag says so.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const SECTOR: u64 = 512;
const MAGIC: &[u8; 4] = b"KDMV";
/// The grain table entry 1 is a grain of zeros.
const ZERO_GRAINS: u32 = 1 << 2;
/// Grains are compressed; there are markers.
const COMPRESSED: u32 = 1 << 16 | 1 << 17;
/// Sectors of a disk at most: 8 TiB, of a grain: 1 MiB.
const CAPACITY_MAX: u64 = 1 << 34;
const GRAIN_MAX: u64 = 1 << 11;
/// Bytes of a descriptor at most.
const DESCRIPTOR_MAX: u64 = 1 << 20;

/// An image.
pub struct Vmdk {
    file: File,
    bytes: u64,
    grain_bytes: u64,
    /// The sector of each grain; 0 and, where the flag says so, 1: zeros.
    grains: Vec<u32>,
    zero_grains: bool,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Vmdk {
    /// Opens an image.
    pub fn open(file: File) -> io::Result<Vmdk> {
        let mut header = [0; 512];
        file.read_exact_at(&mut header, 0)?;
        let u32_at = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("inside"));
        let u64_at = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("inside"));
        if !header.starts_with(MAGIC) {
            return Err(invalid(
                "it is no VMDK in one sparse file; make one with qemu-img convert -O vmdk",
            ));
        }
        let (flags, capacity, grain) = (u32_at(8), u64_at(12), u64_at(20));
        let compressed = flags & COMPRESSED != 0 || header[77..79] != [0, 0];
        if compressed {
            return Err(invalid("it is a compressed VMDK, made to be sent: convert it"));
        }
        if !grain.is_power_of_two()
            || grain > GRAIN_MAX
            || capacity > CAPACITY_MAX
            || u32_at(44) == 0
        {
            return Err(invalid("its header makes no sense"));
        }
        refuse_parent(&file, u64_at(28), u64_at(36))?;
        let grains = capacity.div_ceil(grain);
        let per_table = u64::from(u32_at(44));
        let directory = read_entries(&file, u64_at(56), grains.div_ceil(per_table))?;
        let mut sectors = Vec::new();
        for (number, table) in (0u64..).zip(directory) {
            let entries = per_table.min(grains - number * per_table);
            match table {
                0 => sectors.resize(sectors.len() + entries as usize, 0),
                table => sectors.extend(read_entries(&file, table.into(), entries)?),
            }
        }
        Ok(Vmdk {
            file,
            bytes: capacity * SECTOR,
            grain_bytes: grain * SECTOR,
            grains: sectors,
            zero_grains: flags & ZERO_GRAINS != 0,
        })
    }

    /// Bytes of the disk in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what lies within the disk.
    pub fn read(&self, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !into.is_empty() {
            let (grain, skipped) = (offset / self.grain_bytes, offset % self.grain_bytes);
            let bytes = (self.grain_bytes - skipped).min(into.len() as u64) as usize;
            let (piece, rest) = into.split_at_mut(bytes);
            match self.grains.get(grain as usize).copied().unwrap_or(0) {
                0 => piece.fill(0),
                1 if self.zero_grains => piece.fill(0),
                sector => self.file.read_exact_at(piece, u64::from(sector) * SECTOR + skipped)?,
            }
            into = rest;
            offset += bytes as u64;
        }
        Ok(())
    }
}

fn read_entries(file: &File, sector: u64, count: u64) -> io::Result<Vec<u32>> {
    let offset = sector.checked_mul(SECTOR).ok_or_else(|| invalid("a table lies nowhere"))?;
    if offset.saturating_add(4 * count) > file.metadata()?.len() {
        return Err(invalid("a table lies behind its end"));
    }
    let mut bytes = vec![0; 4 * count as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry)).collect())
}

/// A snapshot holds only what differs from its parent.
fn refuse_parent(file: &File, sector: u64, sectors: u64) -> io::Result<()> {
    let bytes = sectors.saturating_mul(SECTOR).min(DESCRIPTOR_MAX);
    if sector == 0 || bytes == 0 {
        return Ok(());
    }
    let mut text = vec![0; bytes as usize];
    let offset =
        sector.checked_mul(SECTOR).ok_or_else(|| invalid("its descriptor lies nowhere"))?;
    file.read_exact_at(&mut text, offset)?;
    let text = String::from_utf8_lossy(&text).to_lowercase();
    let parent = text.lines().find_map(|line| line.trim().strip_prefix("parentcid="));
    match parent {
        None | Some("ffffffff") => Ok(()),
        Some(_) => Err(invalid(
            "it is a snapshot, based on another file; make it whole with qemu-img convert",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// 130 sectors in grains of 64: zeros, data, and a last one of two sectors with data.
    fn image(parent: &str) -> Vec<u8> {
        let mut bytes = vec![0; 512 * 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"KDMV");
        put(4, &1u32.to_le_bytes());
        put(8, &3u32.to_le_bytes());
        put(12, &130u64.to_le_bytes());
        put(20, &64u64.to_le_bytes());
        put(28, &1u64.to_le_bytes());
        put(36, &1u64.to_le_bytes());
        put(44, &2u32.to_le_bytes());
        put(56, &4u64.to_le_bytes());
        put(512, format!("# Disk DescriptorFile\nparentCID={parent}\n").as_bytes());
        // Two tables of two grains.
        put(4 * 512, &[8, 0, 0, 0, 9, 0, 0, 0]);
        put(8 * 512, &[0, 0, 0, 0, 128, 0, 0, 0]);
        put(9 * 512, &[192, 0, 0, 0]);
        put(128 * 512, &[0xaa; 64 * 512]);
        put(192 * 512, &[0xbb; 64 * 512]);
        bytes
    }

    fn opened(bytes: &[u8]) -> io::Result<Vmdk> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Vmdk::open(file)
    }

    #[test]
    fn grains_are_found_and_those_that_are_missing_are_zero() {
        let vmdk = opened(&image("ffffffff")).unwrap();
        assert_eq!(vmdk.bytes(), 130 * 512);
        let mut all = vec![1; 130 * 512];
        vmdk.read(&mut all, 0).unwrap();
        let grain = 64 * 512;
        assert!(all[..grain].iter().all(|byte| *byte == 0));
        assert!(all[grain..2 * grain].iter().all(|byte| *byte == 0xaa));
        assert!(all[2 * grain..].iter().all(|byte| *byte == 0xbb));
        let mut two = [1; 2];
        vmdk.read(&mut two, grain as u64 - 1).unwrap();
        assert_eq!(two, [0, 0xaa]);
    }

    #[test]
    fn what_cannot_be_read_whole_is_refused() {
        let refused =
            |bytes: &[u8]| opened(bytes).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused(&image("12345678")).contains("it is a snapshot"));
        assert!(refused(&[7; 4096]).contains("it is no VMDK in one sparse file"));
        let mut far = image("ffffffff");
        far[4 * 512 + 3] = 0xff;
        assert_eq!(refused(&far), "a table lies behind its end");
        let mut huge = image("ffffffff");
        huge[12..20].fill(0xff);
        assert_eq!(refused(&huge), "its header makes no sense");
        let mut packed = image("ffffffff");
        packed[77] = 1;
        assert!(refused(&packed).contains("compressed"));
    }
}
