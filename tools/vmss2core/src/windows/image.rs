//! The kernel's image in memory: a PE file as it was mapped (Microsoft's "PE Format").

use crate::windows::space::Space;
use std::ops::Range;

const PAGE: u64 = 4096;
const MACHINE_I386: u16 = 0x14c;
const MACHINE_AMD64: u16 = 0x8664;
/// `PE32` and `PE32+`
const MAGIC_32: u16 = 0x10b;
const MAGIC_64: u16 = 0x20b;
const EXPORT_DIRECTORY: u64 = 0;
const DEBUG_DIRECTORY: u64 = 6;
const DEBUG_TYPE_CODEVIEW: u32 = 2;
const SECTION_EXECUTE: u32 = 0x2000_0000;
/// Kernels have 10 to 20 MiB: a bound for those made to mislead.
const IMAGE_BYTES_MAX: u64 = 64 << 20;
const SECTIONS_MAX: u64 = 96;
const DEBUG_ENTRIES_MAX: u64 = 16;

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Linear address of its first byte.
    pub base: u64,
    /// Bytes.
    pub bytes: u64,
    /// Where data is, then where code is.
    pub sections: Vec<Range<u64>>,
}

impl Kernel {
    /// The kernel whose image begins at an address.
    pub fn at(space: &Space<'_>, base: u64) -> Option<Kernel> {
        // Addresses of 32 bits are added to it.
        base.checked_add(1 << 33)?;
        if space.half(base)? != u16::from_le_bytes(*b"MZ") {
            return None;
        }
        let header = base.checked_add(space.word(base + 0x3c).filter(|&at| at < 0x1000)?.into())?;
        let is_64 = space.is_64();
        let (machine, magic, directories) = match is_64 {
            true => (MACHINE_AMD64, MAGIC_64, 0x70),
            false => (MACHINE_I386, MAGIC_32, 0x60),
        };
        let optional = header + 24;
        let looks_right = space.bytes(header)? == *b"PE\0\0"
            && space.half(header + 4)? == machine
            && space.half(optional)? == magic;
        if !looks_right {
            return None;
        }
        let bytes = u64::from(space.word(optional + 56)?).clamp(PAGE, IMAGE_BYTES_MAX);
        let directory = |n: u64| {
            let entry = optional + directories + n * 8;
            Some((space.word(entry)?, space.word(entry + 4)?))
        };
        let name = || export_name(space, base, directory(EXPORT_DIRECTORY)?.0);
        let symbols = || {
            let (at, bytes) = directory(DEBUG_DIRECTORY)?;
            symbols(space, base, at, bytes)
        };
        let is_kernel = |name: String| {
            let name = name.to_ascii_lowercase();
            ["ntoskrnl", "ntkrnl", "ntkrp"].iter().any(|known| name.starts_with(known))
        };
        if !symbols().is_some_and(is_kernel) && !name().is_some_and(is_kernel) {
            return None;
        }
        let mut kernel = Kernel { base, bytes, sections: Vec::new() };
        let count = u64::from(space.half(header + 6)?).min(SECTIONS_MAX);
        let table = optional + u64::from(space.half(header + 20)?);
        kernel.sections = sections(space, &kernel, table, count);
        Some(kernel)
    }

    /// The kernel that an address is in.
    pub fn below(space: &Space<'_>, address: u64) -> Option<Kernel> {
        let last = address & !(PAGE - 1);
        let pages = (0..IMAGE_BYTES_MAX / PAGE).map_while(|n| last.checked_sub(n * PAGE));
        pages.take_while(|&base| space.is_kernel(base)).find_map(|base| Kernel::at(space, base))
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.bytes
    }

    /// Gives each page of it that is in memory to `look`, with its address, until that has found something.
    pub fn find<T>(
        &self,
        space: &Space<'_>,
        mut look: impl FnMut(u64, &[u8; 4096]) -> Option<T>,
    ) -> Option<T> {
        let pages = self.sections.iter().flat_map(|section| section.clone().step_by(4096));
        for at in pages {
            let page: Option<[u8; 4096]> = space.bytes(at);
            if let Some(found) = page.and_then(|page| look(at, &page)) {
                return Some(found);
            }
        }
        None
    }
}

/// The name that an image has in its own export directory, whatever its file was called.
fn export_name(space: &Space<'_>, base: u64, directory: u32) -> Option<String> {
    let name = space.word(base + u64::from(directory) + 12)?;
    (directory != 0).then(|| text(space, base + u64::from(name)))
}

/// The name of the symbols in the debug directory: RSDS, a GUID, an age, a name; NB10 before that.
fn symbols(space: &Space<'_>, base: u64, at: u32, bytes: u32) -> Option<String> {
    const ENTRY: u64 = 28;
    let entries = (u64::from(bytes) / ENTRY).min(DEBUG_ENTRIES_MAX);
    (0..entries).find_map(|n| {
        let entry = base + u64::from(at) + n * ENTRY;
        if space.word(entry + 12)? != DEBUG_TYPE_CODEVIEW {
            return None;
        }
        let record = base + u64::from(space.word(entry + 20)?);
        match &space.bytes(record)? {
            b"RSDS" => Some(text(space, record + 24)),
            b"NB10" => Some(text(space, record + 16)),
            _ => None,
        }
    })
}

/// Letters up to something else. A byte at a time: what follows may not be there.
fn text(space: &Space<'_>, at: u64) -> String {
    let letters = (0..32).map_while(|n| {
        let [byte] = space.bytes(at + n)?;
        byte.is_ascii_graphic().then_some(char::from(byte))
    });
    letters.collect()
}

/// Where data is, then where code is; without a table that makes sense, all of it.
fn sections(space: &Space<'_>, kernel: &Kernel, table: u64, count: u64) -> Vec<Range<u64>> {
    let mut found: Vec<(bool, Range<u64>)> = (0..count)
        .filter_map(|n| {
            let entry = table + n * 40;
            let (bytes, at) = (space.word(entry + 8)?, space.word(entry + 12)?);
            let begin = u64::from(at) & !(PAGE - 1);
            let end = (u64::from(at) + u64::from(bytes)).min(kernel.bytes);
            let is_code = space.word(entry + 36)? & SECTION_EXECUTE != 0;
            (begin < end).then(|| (is_code, kernel.base + begin..kernel.base + end))
        })
        .collect();
    found.sort_by_key(|(is_code, range)| (*is_code, range.start));
    // Sections that overlap would be gone through again and again.
    let total: u64 = found.iter().map(|(_, range)| range.end - range.start).sum();
    if found.is_empty() || total > 2 * IMAGE_BYTES_MAX {
        return std::iter::once(kernel.base..kernel.base + kernel.bytes).collect();
    }
    found.into_iter().map(|(_, range)| range).collect()
}
