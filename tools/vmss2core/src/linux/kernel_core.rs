//! A core of the kernel, as kdump would have written it: for crash, drgn and makedumpfile.

use super::vmcoreinfo;
use crate::arguments::LinuxOptions;
use crate::conversion::Conversion;
use crate::elf::{Core, Segment, notes};
use crate::error::Error;
use crate::kdump;
use crate::output::sizes;
use std::path::PathBuf;

/// A core of the kernel.
///
/// What its readers need is VMCOREINFO, which Linux keeps since 2.6.24 if it was built for crash dumps. Without it there
/// are still the registers that QEMU's note holds: crash finds a kernel by its interrupt table and page tables.
pub fn core(conversion: &Conversion<'_>, options: &LinuxOptions) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let text = text(conversion, options)?;
    if let Some(compression) = options.kdump {
        return kdump::write(conversion, text.as_deref(), compression, options.without_free);
    }
    let mut notes = notes::statuses(guest);
    match text {
        Some(text) => notes.extend(notes::vmcoreinfo(&text)),
        None => notes.extend(notes::process(guest.is_64())),
    }
    let segments = Segment::regions(guest);
    // crash takes a core for one of netdump, which knows no KASLR, if segments are aligned.
    let core = Core { is_64: guest.is_64(), notes: &notes, segments: &segments, alignment: 0 };
    core.write(conversion, &conversion.output("vmss.core"))
}

/// VMCOREINFO with what the user knows better; `None` for a Linux that has none.
pub(crate) fn text(
    conversion: &Conversion<'_>,
    options: &LinuxOptions,
) -> Result<Option<Vec<u8>>, Error> {
    let guest = conversion.guest;
    let found = vmcoreinfo::find(guest)?;
    if let Some(slide) = options.slide {
        return Ok(Some(vmcoreinfo::with_slide(&found.unwrap_or_default(), slide)));
    }
    // Who says which Linux it is, or where things are in it, is believed.
    let is_said = options.series.is_some() || options.offsets.is_some();
    if found.is_none() && !is_said && guest.linux().is_err() {
        let tried = sizes::shown(guest.memory.bytes());
        return Err(Error::NoLinux { path: guest.path.clone(), tried });
    }
    if found.is_none() {
        conversion.progress.remark(
            "this Linux keeps no VMCOREINFO: the core has registers instead, by which crash finds the kernel",
        );
    }
    Ok(found)
}
