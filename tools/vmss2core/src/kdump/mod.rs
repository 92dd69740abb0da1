//! kdump's compressed format, as makedumpfile writes it: each page by itself. Pages with the same contents are in the
//! file once, zeros or not.

mod bitmap;
mod free;
mod header;
mod kernel;
mod known;
mod pack;
mod pages;

use crate::arguments::Compression;
use crate::conversion::Conversion;
use crate::elf::notes;
use crate::error::Error;
use crate::output::Output;
use bitmap::Bitmaps;
use free::FreePages;
use header::Header;
use kernel::Kernel;
use pages::{DESCRIPTOR_BYTES, Places};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use vmss::PAGE_BYTES;

/// Writes a core of a Linux guest, with its VMCOREINFO if it has one.
///
/// # Errors
/// If free pages are to be left out and cannot be told, if the guest's memory cannot be read, or the core not be written.
pub fn write(
    conversion: &Conversion<'_>,
    text: Option<&[u8]>,
    compression: Compression,
    without_free: bool,
) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let kernel = Kernel::new(guest, text.unwrap_or_default());
    let free = without_free.then(|| FreePages::find(guest, &kernel)).transpose()?;
    let is_64 = kernel.is_64();
    let mut notes = notes::statuses_of(guest, is_64);
    let info = text.map_or_else(Vec::new, notes::vmcoreinfo);
    // The text is in its note, behind header and name.
    let text = text.unwrap_or_default();
    let text_at = notes.len() + info.len() - text.len().next_multiple_of(4);
    notes.extend_from_slice(&info);
    let header = Header {
        is_64,
        names: &kernel.names(kernel.memory().as_ref()),
        compression,
        vcpus: guest.vcpus.len(),
        pages_end: guest.memory.regions().last().map_or(0, |r| r.first_page + r.pages),
        phys_base: kernel.phys_base(),
        without_free,
        notes: &notes,
        vmcoreinfo: (text_at, text.len()),
    };
    let head = header.bytes();
    let path = conversion.output("vmss.core");
    conversion.progress.begin(&path, guest.memory.bytes());
    let bitmaps = Bitmaps { at: head.len() as u64, blocks: header.bitmap_blocks() };
    let pages = guest.memory.bytes() / PAGE_BYTES;
    let stored = match compression {
        Compression::None => guest.memory.bytes_stored(),
        // Half is what full memory takes; if that is not enough after all, writing says so.
        Compression::Zlib | Compression::Zstd => guest.memory.bytes_stored() / 2,
    };
    let output = Output::create(guest, &path, bitmaps.end() + pages * DESCRIPTOR_BYTES + stored)?;
    output.checked(output.file().write_all_at(&head, 0))?;
    let count = bitmaps.write(guest, free.as_ref(), &output)?;
    if without_free && count == pages {
        conversion.progress.remark("this kernel has no page free: all are in the core");
    }
    let descriptors = bitmaps.end();
    let places = Places { bitmaps, descriptors, zero: descriptors + count * DESCRIPTOR_BYTES };
    let end = pages::write(conversion, compression, places, &output)?;
    output.checked(output.file().set_len(end))?;
    let path = output.finish()?;
    conversion.progress.end(&path);
    Ok(path)
}
