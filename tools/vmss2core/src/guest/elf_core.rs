//! ELF cores of whole guests: what QEMU's `dump-guest-memory`, `virsh dump --memory-only`, kdump's `/proc/vmcore`,
//! makedumpfile's `-E`, VirtualBox's `dumpvmcore` and we ourselves write. Guest memory is where program headers have
//! physical addresses.

use super::core_notes::Notes;
use super::recognise::{Parts, read};
use crate::error::Error;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use vmss::{Extent, GuestMemory, ReadAt};

const ET_CORE: u16 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PN_XNUM: u16 = 0xffff;
/// As many as our own cores of address spaces may have.
const HEADERS_MAX: u32 = 1 << 22;
/// Program headers read at a time.
const HEADERS_AT_A_TIME: u32 = 1024;
/// Notes of thousands of processors take less.
const NOTES_BYTES_MAX: u64 = 32 << 20;

/// A file of this kind.
struct Elf<'a> {
    path: &'a Path,
    source: &'a dyn ReadAt,
    bytes: u64,
}

/// A program header.
#[derive(Clone, Copy)]
struct Header {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    bytes_in_file: u64,
    bytes: u64,
}

/// The guest in a core.
pub fn open(path: &Path, source: Arc<dyn ReadAt>) -> Result<Parts, Error> {
    let unread = |what: String| Error::Unread { path: path.into(), what };
    let failed = |source| {
        let source = vmss::Error::Read { at: 0, source };
        Error::Input { path: path.into(), source }
    };
    let bytes = source.size().map_err(failed)?;
    let mut identity = [0; 6];
    read(&*source, &mut identity, 0).map_err(failed)?;
    let is_64 = match identity[4..] {
        [1, 1] => false,
        [2, 1] => true,
        _ => return Err(unread("it is an ELF file of other processors than x86".into())),
    };
    let elf = Elf { path, source: &*source, bytes };
    let word = |at| elf.number(at, 4).map(|value| value as u32);
    let half = |at| elf.number(at, 2).map(|value| value as u16);
    match half(16)? {
        ET_CORE => {}
        kind => return Err(unread(format!("it is an ELF file, but no core (its type is {kind})"))),
    }
    match half(18)? {
        EM_386 | EM_X86_64 => {}
        183 => return Err(unread("it is the core of an AArch64 guest; x86 is supported".into())),
        machine => {
            return Err(unread(format!(
                "it is the core of a guest of machine {machine}; x86 is supported"
            )));
        }
    }
    let (first, sections, entry_bytes, count) = match is_64 {
        true => (elf.number(32, 8)?, elf.number(40, 8)?, half(54)?, half(56)?),
        false => (elf.number(28, 4)?, elf.number(32, 4)?, half(42)?, half(44)?),
    };
    let expected = if is_64 { 56 } else { 32 };
    if entry_bytes != expected {
        return Err(unread(format!(
            "its program headers have {entry_bytes} bytes instead of {expected}"
        )));
    }
    let count = match count {
        // Section 0 has the number (sh_info).
        PN_XNUM => word(sections.saturating_add(if is_64 { 44 } else { 28 }))?,
        count => count.into(),
    };
    if count > HEADERS_MAX {
        return Err(unread(format!(
            "it has {count} program headers, where {HEADERS_MAX} are more than is sane"
        )));
    }
    let mut found = Found::default();
    let mut n = 0;
    while n < count {
        let now = (count - n).min(HEADERS_AT_A_TIME);
        let at = first.saturating_add(u64::from(n) * u64::from(expected));
        let table = elf.slice(at, u64::from(now) * u64::from(expected))?;
        for entry in table.chunks_exact(expected.into()) {
            found.take(&elf, n, Header::of(entry, is_64))?;
            n += 1;
        }
    }
    let Found { extents, zeros, notes, has_physical, .. } = found;
    if !has_physical {
        let what =
            "it is the core of a process, not of a guest: no program header has a physical address";
        return Err(unread(what.into()));
    }
    let memory = GuestMemory::of_extents(Arc::clone(&source), extents, &zeros);
    let memory = memory.map_err(|source| Error::Input { path: path.into(), source })?;
    Ok(notes.parts(memory))
}

#[derive(Default)]
struct Found {
    extents: Vec<Extent>,
    zeros: Vec<Range<u64>>,
    notes: Notes,
    notes_bytes: u64,
    has_physical: bool,
}

impl Found {
    fn take(&mut self, elf: &Elf<'_>, n: u32, header: Header) -> Result<(), Error> {
        let unread = |what: String| Error::Unread { path: elf.path.into(), what };
        match header.kind {
            PT_NOTE => {
                self.notes_bytes = self.notes_bytes.saturating_add(header.bytes_in_file);
                if self.notes_bytes > NOTES_BYTES_MAX {
                    return Err(unread(format!("its notes have {:#x} bytes", self.notes_bytes)));
                }
                self.notes.read(&elf.slice(header.offset, header.bytes_in_file)?);
            }
            // `u64::MAX`: kdump's word for memory without a physical address.
            PT_LOAD if header.physical_address != u64::MAX && header.bytes > 0 => {
                let in_file = header.bytes_in_file.min(header.bytes);
                let end = header.offset.checked_add(in_file);
                if end.is_none_or(|end| end > elf.bytes) {
                    return Err(unread(format!(
                        "program header {n} leads to {in_file:#x} bytes from {:#x} on, and the file ends at {:#x}; was it \
                         copied whole?",
                        header.offset, elf.bytes
                    )));
                }
                let address = header.physical_address;
                self.has_physical |= address != 0 || header.virtual_address == 0;
                if address.checked_add(header.bytes).is_none() {
                    return Err(unread(format!(
                        "program header {n} has no end in physical memory"
                    )));
                }
                self.extents.push(Extent { address, offset: header.offset, bytes: in_file });
                if in_file < header.bytes {
                    self.zeros.push(address + in_file..address + header.bytes);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Header {
    fn of(entry: &[u8], is_64: bool) -> Header {
        let word =
            |n: usize| u32::from_le_bytes(entry[4 * n..4 * n + 4].try_into().expect("four bytes"));
        let field = |n: usize| match is_64 {
            true => u64::from(word(2 * n)) | u64::from(word(2 * n + 1)) << 32,
            false => word(n).into(),
        };
        let [offset, virtual_address, physical_address, bytes_in_file, bytes] =
            [1, 2, 3, 4, 5].map(field);
        Header { kind: word(0), offset, virtual_address, physical_address, bytes_in_file, bytes }
    }
}

impl Elf<'_> {
    fn slice(&self, at: u64, bytes: u64) -> Result<Vec<u8>, Error> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            let what = format!(
                "it says that {bytes:#x} bytes of headers or notes are at {at:#x}, and it ends at {:#x}; was it copied whole?",
                self.bytes
            );
            return Err(Error::Unread { path: self.path.into(), what });
        }
        let mut out = vec![0; bytes as usize];
        let failed = |source| {
            let source = vmss::Error::Read { at, source };
            Error::Input { path: self.path.into(), source }
        };
        read(self.source, &mut out, at).map_err(failed)?;
        Ok(out)
    }

    fn number(&self, at: u64, bytes: u64) -> Result<u64, Error> {
        let mut wide = [0; 8];
        let slice = self.slice(at, bytes)?;
        wide[..slice.len()].copy_from_slice(&slice);
        Ok(u64::from_le_bytes(wide))
    }
}
