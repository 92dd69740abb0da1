//! ELF core files: a header, notes, and memory that program headers lead to.
//!
//! Guest memory is written once, as it lies in the checkpoint, however many addresses lead to a page: segments may share
//! bytes of the file. So a core of an address space is no bigger than one of physical memory.

pub mod notes;
pub mod qemu;

use crate::conversion::Conversion;
use crate::error::Error;
use crate::guest::Guest;
use crate::output::{Output, Piece, copy};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// `e_machine` of i386 and x86-64.
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `e_phnum` when there are too many: then `sh_info` of section 0 has the number.
const PN_XNUM: u16 = 0xffff;
const PAGE: u64 = 4096;

/// Memory that a program header leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it is in the image of guest memory.
    pub offset: u64,
    /// `p_vaddr`
    pub virtual_address: u64,
    /// `p_paddr`
    pub physical_address: u64,
    /// `p_filesz` and `p_memsz`
    pub bytes: u64,
}

impl Segment {
    /// A segment for each region of a guest's memory.
    pub fn regions(guest: &Guest) -> Vec<Segment> {
        let mut offset = 0;
        let segments = guest.memory.regions().iter().map(|region| {
            let segment = Segment {
                offset,
                virtual_address: region.start(),
                physical_address: region.start(),
                bytes: region.bytes(),
            };
            offset += region.bytes();
            segment
        });
        segments.collect()
    }
}

/// Gives a core its name.
pub fn finish(conversion: &Conversion<'_>, output: Output) -> Result<PathBuf, Error> {
    let path = output.finish()?;
    conversion.progress.end(&path);
    Ok(path)
}

/// What a core says before memory begins.
pub struct Core<'a> {
    /// ELF64 for x86-64, or ELF32 for i386.
    pub is_64: bool,
    /// All notes, encoded.
    pub notes: &'a [u8],
    /// In the order of the file.
    pub segments: &'a [Segment],
    /// `p_align` of segments: 0 where crash must take a core for one of kdump's.
    pub alignment: u64,
}

impl Core<'_> {
    /// Writes a core whose image is all of the guest's memory, the regions back to back.
    ///
    /// # Errors
    /// If the guest's memory cannot be read, or the core not be written.
    pub fn write(&self, conversion: &Conversion<'_>, path: &Path) -> Result<PathBuf, Error> {
        let output = self.prepare(conversion, path)?;
        finish(conversion, output)
    }

    /// As [`Core::write`], but that it does not have its name yet.
    ///
    /// # Errors
    /// As [`Core::write`].
    pub fn prepare(&self, conversion: &Conversion<'_>, path: &Path) -> Result<Output, Error> {
        let regions = conversion.guest.memory.regions().iter();
        let image: Vec<_> = regions.map(|region| region.start()..region.end()).collect();
        self.prepare_image(conversion, path, &image)
    }

    /// Writes a core with these physical addresses back to back as its image.
    ///
    /// # Errors
    /// If the guest's memory cannot be read, or the core not be written.
    pub fn write_image(
        &self,
        conversion: &Conversion<'_>,
        path: &Path,
        image: &[Range<u64>],
    ) -> Result<PathBuf, Error> {
        let output = self.prepare_image(conversion, path, image)?;
        finish(conversion, output)
    }

    fn prepare_image(
        &self,
        conversion: &Conversion<'_>,
        path: &Path,
        image: &[Range<u64>],
    ) -> Result<Output, Error> {
        let guest = conversion.guest;
        let head = self.head();
        let mut end = head.len() as u64;
        let pieces = image.iter().map(|range| {
            let bytes = range.end - range.start;
            let piece = Piece { physical: range.start, bytes, offset: end };
            end += bytes;
            piece
        });
        let pieces: Vec<Piece> = pieces.collect();
        let bytes = end - head.len() as u64;
        conversion.progress.begin(path, bytes);
        let output = Output::create(
            guest,
            path,
            head.len() as u64 + bytes.min(guest.memory.bytes_stored()),
        )?;
        output.checked(output.file().set_len(end))?;
        output.checked(output.file().write_all_at(&head, 0))?;
        copy(guest, &pieces, &output, conversion.threads, conversion.progress)?;
        Ok(output)
    }

    /// The bytes before the image of guest memory, which follows at once.
    fn head(&self) -> Vec<u8> {
        let (header, entry, section) = if self.is_64 { (64, 56, 64) } else { (52, 32, 40) };
        let count = self.segments.len() as u64 + 1;
        let is_extended = count >= u64::from(PN_XNUM);
        let notes_at = header + count * entry + if is_extended { section } else { 0 };
        let image_at = (notes_at + self.notes.len() as u64).next_multiple_of(PAGE);
        let mut out = Vec::with_capacity(image_at as usize);
        let half = |out: &mut Vec<u8>, value: u16| out.extend_from_slice(&value.to_le_bytes());
        let word = |out: &mut Vec<u8>, value: u32| out.extend_from_slice(&value.to_le_bytes());

        out.extend_from_slice(&[0x7f, b'E', b'L', b'F', if self.is_64 { 2 } else { 1 }, 1, 1, 0]);
        out.extend_from_slice(&[0; 8]);
        half(&mut out, ET_CORE);
        half(&mut out, if self.is_64 { EM_X86_64 } else { EM_386 });
        word(&mut out, 1);
        self.long(&mut out, 0);
        self.long(&mut out, header);
        self.long(&mut out, if is_extended { header + count * entry } else { 0 });
        word(&mut out, 0);
        half(&mut out, header as u16);
        half(&mut out, entry as u16);
        half(&mut out, if is_extended { PN_XNUM } else { count as u16 });
        half(&mut out, if is_extended { section as u16 } else { 0 });
        half(&mut out, u16::from(is_extended));
        half(&mut out, 0);

        let notes = Segment {
            offset: notes_at,
            virtual_address: 0,
            physical_address: 0,
            bytes: self.notes.len() as u64,
        };
        self.program_header(&mut out, PT_NOTE, 0, notes, 0);
        for segment in self.segments {
            let segment = Segment { offset: image_at + segment.offset, ..*segment };
            self.program_header(&mut out, PT_LOAD, 7, segment, self.alignment);
        }
        if is_extended {
            // Section 0: sh_info, after name, type, flags, addr, offset, size and link.
            let before = if self.is_64 { 4 + 4 + 4 * 8 + 4 } else { 7 * 4 };
            let begin = out.len();
            out.resize(begin + before, 0);
            word(&mut out, count as u32);
            out.resize(begin + section as usize, 0);
        }
        out.extend_from_slice(self.notes);
        out.resize(image_at as usize, 0);
        out
    }

    fn program_header(
        &self,
        out: &mut Vec<u8>,
        kind: u32,
        flags: u32,
        segment: Segment,
        align: u64,
    ) {
        out.extend_from_slice(&kind.to_le_bytes());
        if self.is_64 {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        self.long(out, segment.offset);
        self.long(out, segment.virtual_address);
        self.long(out, segment.physical_address);
        self.long(out, segment.bytes);
        self.long(out, segment.bytes);
        if !self.is_64 {
            out.extend_from_slice(&flags.to_le_bytes());
        }
        self.long(out, align);
    }

    fn long(&self, out: &mut Vec<u8>, value: u64) {
        match self.is_64 {
            true => out.extend_from_slice(&value.to_le_bytes()),
            false => out.extend_from_slice(&(value as u32).to_le_bytes()),
        }
    }
}
