//! Mach-O cores (`<mach-o/loader.h>`, `<mach/i386/_structs.h>`).
//!
//! Guest memory is in it once, as in our ELF cores: segments may share bytes of the file.

use crate::conversion::Conversion;
use crate::error::Error;
use crate::output::{Output, Piece, copy};
use crate::paging::Run;
use dejavm_units::Gva;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use vmss::{Vcpu, segment};

const MH_CORE: u32 = 4;
const LC_THREAD: u32 = 0x4;
const LC_SEGMENT: u32 = 0x1;
const LC_SEGMENT_64: u32 = 0x19;
const LC_NOTE: u32 = 0x31;
const X86_THREAD_STATE32: u32 = 1;
const X86_THREAD_STATE64: u32 = 4;
/// `VM_PROT_READ | VM_PROT_WRITE | VM_PROT_EXECUTE`
const ALL_RIGHTS: u32 = 7;
const PAGE: u64 = 4096;
/// More than that, and headers before it, 32 bits cannot address.
const IMAGE_BYTES_MAX_32: u64 = (1 << 32) - (128 << 20);

/// Where the kernel is: for LLDB, which reads it in the note `main bin spec`.
pub struct Loaded {
    /// Of its Mach-O header.
    pub at: Gva,
    /// Its name.
    pub uuid: Option<[u8; 16]>,
}

/// What a core says before memory begins.
pub struct CoreFile<'a> {
    /// Of x86-64, or of i386.
    pub is_64: bool,
    /// A thread for each.
    pub vcpus: &'a [Vcpu],
    /// Which addresses lead where.
    pub runs: &'a [Run],
    /// If it was found.
    pub kernel: Option<Loaded>,
}

impl CoreFile<'_> {
    /// Writes it, with all of the guest's memory.
    ///
    /// # Errors
    /// If the guest's memory cannot be read, or the core not be written.
    pub fn write(&self, conversion: &Conversion<'_>, path: &Path) -> Result<PathBuf, Error> {
        let guest = conversion.guest;
        if !self.is_64 && guest.memory.bytes() > IMAGE_BYTES_MAX_32 {
            return Err(Error::TooLargeFor32 { path: guest.path.clone() });
        }
        let head = self.head(&|physical| guest.image_offset(physical));
        let mut end = head.len() as u64;
        let pieces = guest.memory.regions().iter().map(|region| {
            let piece = Piece { physical: region.start(), bytes: region.bytes(), offset: end };
            end += region.bytes();
            piece
        });
        let pieces: Vec<Piece> = pieces.collect();
        conversion.progress.begin(path, guest.memory.bytes());
        let output = Output::create(guest, path, head.len() as u64 + guest.memory.bytes_stored())?;
        output.checked(output.file().set_len(end))?;
        output.checked(output.file().write_all_at(&head, 0))?;
        copy(guest, &pieces, &output, conversion.threads, conversion.progress)?;
        let path = output.finish()?;
        conversion.progress.end(&path);
        Ok(path)
    }

    /// The bytes before the image of guest memory.
    fn head(&self, offset_of: &dyn Fn(u64) -> Option<u64>) -> Vec<u8> {
        let header_bytes = if self.is_64 { 32 } else { 28 };
        let segment_bytes = if self.is_64 { 72 } else { 56 };
        let thread_bytes = if self.is_64 { 16 + 42 * 4 } else { 16 + 16 * 4 };
        let note_bytes = if self.kernel.is_some() { 40 } else { 0 };
        let commands =
            self.vcpus.len() * thread_bytes + self.runs.len() * segment_bytes + note_bytes;
        let spec_at = (header_bytes + commands) as u64;
        let spec = self.kernel.as_ref().map_or(Vec::new(), main_binary);
        let image_at = (spec_at + spec.len() as u64).next_multiple_of(PAGE);

        let (magic, cpu): (u32, u32) =
            if self.is_64 { (0xfeed_facf, 0x0100_0007) } else { (0xfeed_face, 7) };
        let count = self.vcpus.len() + self.runs.len() + usize::from(self.kernel.is_some());
        let mut out = Vec::with_capacity(image_at as usize);
        let words = |out: &mut Vec<u8>, words: &[u32]| {
            words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        };
        // The subtype is "all" of the processor's.
        words(&mut out, &[magic, cpu, 3, MH_CORE, count as u32, commands as u32, 0]);
        out.resize(header_bytes, 0);
        for vcpu in self.vcpus {
            self.thread(&mut out, vcpu, thread_bytes as u32);
        }
        if self.kernel.is_some() {
            words(&mut out, &[LC_NOTE, 40]);
            out.extend_from_slice(b"main bin spec\0\0\0");
            out.extend_from_slice(&spec_at.to_le_bytes());
            out.extend_from_slice(&(spec.len() as u64).to_le_bytes());
        }
        for run in self.runs {
            let kind = if self.is_64 { LC_SEGMENT_64 } else { LC_SEGMENT };
            words(&mut out, &[kind, segment_bytes as u32]);
            out.extend_from_slice(&[0; 16]);
            let file_offset = offset_of(run.physical).map_or(0, |offset| image_at + offset);
            for value in [run.linear, run.bytes, file_offset, run.bytes] {
                match self.is_64 {
                    true => out.extend_from_slice(&value.to_le_bytes()),
                    false => out.extend_from_slice(&(value as u32).to_le_bytes()),
                }
            }
            words(&mut out, &[ALL_RIGHTS, ALL_RIGHTS, 0, 0]);
        }
        assert_eq!(out.len() as u64, spec_at, "every command has the size that it says");
        out.extend_from_slice(&spec);
        out.resize(image_at as usize, 0);
        out
    }

    fn thread(&self, out: &mut Vec<u8>, vcpu: &Vcpu, bytes: u32) {
        let selector = |at: usize| u64::from(vcpu.segments[at].selector);
        let [ax, cx, dx, bx, sp, bp, si, di, more @ ..] = &vcpu.gpr;
        let flags = u64::from(vcpu.eflags);
        let mut word = |value: u32| out.extend_from_slice(&value.to_le_bytes());
        word(LC_THREAD);
        word(bytes);
        if self.is_64 {
            word(X86_THREAD_STATE64);
            word(42);
            let mut long = |value: u64| out.extend_from_slice(&value.to_le_bytes());
            [ax, bx, cx, dx, di, si, bp, sp].into_iter().chain(more).for_each(|value| long(*value));
            [vcpu.rip, flags, selector(segment::CS), selector(segment::FS), selector(segment::GS)]
                .into_iter()
                .for_each(long);
        } else {
            word(X86_THREAD_STATE32);
            word(16);
            [*ax, *bx, *cx, *dx, *di, *si, *bp, *sp]
                .into_iter()
                .chain([selector(segment::SS), flags, vcpu.rip])
                .chain(
                    [segment::CS, segment::DS, segment::ES, segment::FS, segment::GS].map(selector),
                )
                .for_each(|value| word(value as u32));
        }
    }
}

/// The note's contents: version 1, a kernel, where, which, pages of unknown size.
fn main_binary(kernel: &Loaded) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&kernel.at.0.to_le_bytes());
    out.extend_from_slice(&kernel.uuid.unwrap_or_default());
    out.extend_from_slice(&[0; 8]);
    out
}
