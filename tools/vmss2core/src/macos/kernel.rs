//! The kernel of macOS as a file, and where a guest has it in memory (`<mach-o/loader.h>`, `<mach-o/fat.h>`).

use crate::guest::Guest;
use dejavm_linux::{GuestView, Space};
use dejavm_units::Gva;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC_32: u32 = 0xfeed_face;
const MAGIC_64: u32 = 0xfeed_facf;
/// Big-endian, of a file with several processors' programs.
const MAGIC_FAT: u32 = 0xcafe_babe;
const CPU_TYPE_I386: u32 = 7;
const CPU_TYPE_X86_64: u32 = 0x0100_0007;
const LC_SEGMENT: u32 = 0x1;
const LC_SEGMENT_64: u32 = 0x19;
const LC_UUID: u32 = 0x1b;
/// Commands of any kernel fit into it.
const COMMANDS_BYTES_MAX: u32 = 64 << 10;
const FAT_MAX: u32 = 32;
/// xnu moves its kernel by one of 256 multiples of 2 MiB (`vm_kernel_slide`).
const SLIDE_STEP: u64 = 2 << 20;
const SLIDES: u64 = 512;

/// What is needed of a kernel's file.
pub struct MachKernel {
    /// Header and load commands: as they are in memory.
    head: Vec<u8>,
    /// Where `__TEXT`, which begins with them, was linked to be.
    text: u64,
    uuid: Option<[u8; 16]>,
}

impl MachKernel {
    /// Reads the header of a kernel, or says what is wrong with the file.
    pub fn open(path: &Path, is_64: bool) -> Result<MachKernel, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        MachKernel::read(&file, is_64)
    }

    fn read(file: &File, is_64: bool) -> Result<MachKernel, String> {
        let (magic, cpu) =
            if is_64 { (MAGIC_64, CPU_TYPE_X86_64) } else { (MAGIC_32, CPU_TYPE_I386) };
        let mut first = [0; 8];
        let short = |_| "it is too short for a kernel of macOS".to_owned();
        file.read_exact_at(&mut first, 0).map_err(short)?;
        let [fat, count] = [0, 4].map(|at| u32::from_be_bytes(word(&first, at)));
        let mut begin = 0;
        if fat == MAGIC_FAT {
            let mut table = vec![0; 20 * count.min(FAT_MAX) as usize];
            file.read_exact_at(&mut table, 8).map_err(short)?;
            let entry =
                table.chunks_exact(20).find(|entry| u32::from_be_bytes(word(entry, 0)) == cpu);
            let entry = entry.ok_or_else(|| {
                format!("it holds no kernel of {} bits for x86", if is_64 { 64 } else { 32 })
            })?;
            begin = u64::from(u32::from_be_bytes(word(entry, 8)));
        }
        let mut header = [0; 32];
        file.read_exact_at(&mut header, begin).map_err(short)?;
        let field = |at: usize| u32::from_le_bytes(word(&header, at));
        if (field(0), field(4)) != (magic, cpu) {
            return Err(format!(
                "it is no kernel of macOS of {} bits: a Mach-O file begins with {magic:#x}, and this with {:#x}",
                if is_64 { 64 } else { 32 },
                field(0)
            ));
        }
        let bytes = field(20);
        if bytes > COMMANDS_BYTES_MAX {
            return Err(format!(
                "its load commands have {bytes} bytes, and no kernel's have as many"
            ));
        }
        let header_bytes = if is_64 { 32 } else { 28 };
        let mut head = vec![0; header_bytes + bytes as usize];
        file.read_exact_at(&mut head, begin).map_err(short)?;
        let (mut text, mut uuid) = (None, None);
        let mut rest = &head[header_bytes..];
        while rest.len() >= 8 {
            let (kind, bytes) =
                (u32::from_le_bytes(word(rest, 0)), u32::from_le_bytes(word(rest, 4)));
            if bytes < 8 || bytes as usize > rest.len() {
                return Err("its load commands are damaged".to_owned());
            }
            let (command, then) = rest.split_at(bytes as usize);
            let is_text = || command.get(8..15) == Some(b"__TEXT\0".as_slice());
            match kind {
                LC_SEGMENT_64 if is_text() => {
                    let low = command.get(24..32);
                    text = low.map(|at| u64::from_le_bytes(at.try_into().expect("eight bytes")));
                }
                LC_SEGMENT if is_text() && command.len() >= 28 => {
                    text = Some(u32::from_le_bytes(word(command, 24)).into());
                }
                LC_UUID => {
                    uuid = command.get(8..24).map(|id| id.try_into().expect("sixteen bytes"))
                }
                _ => {}
            }
            rest = then;
        }
        let text = text.ok_or("it has no segment __TEXT")?;
        Ok(MachKernel { head, text, uuid })
    }

    /// Its name for debuggers.
    pub fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid
    }

    /// Where a guest has it in an address space.
    pub fn find(&self, guest: &Guest, space: Option<Space>) -> Option<Gva> {
        let space = space?;
        let is_here = |at: &u64| {
            let Some(gpa) = space.translate(guest, Gva(*at)) else { return false };
            // The kernel changes nothing of it; a page is enough to tell.
            let bytes = self.head.len().min((0x1000 - (at & 0xfff)) as usize);
            let mut there = vec![0; bytes];
            guest.read_physical(gpa, &mut there) && there == self.head[..bytes]
        };
        (0..SLIDES).map(|n| self.text.wrapping_add(n * SLIDE_STEP)).find(is_here).map(Gva)
    }
}

/// Four bytes of a slice that is known to have them.
fn word(bytes: &[u8], at: usize) -> [u8; 4] {
    bytes[at..at + 4].try_into().expect("four bytes")
}
