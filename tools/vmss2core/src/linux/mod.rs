//! Cores of Linux guests.

pub mod vmcoreinfo;

use crate::arguments::LinuxOptions;
use crate::conversion::Conversion;
use crate::elf::{Core, Segment, notes};
use crate::error::Error;
use crate::output::sizes;
use std::path::PathBuf;

/// A core of the kernel, as kdump would have written it: for crash, drgn and makedumpfile.
pub fn core(conversion: &Conversion<'_>, _options: &LinuxOptions) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let Some(text) = vmcoreinfo::find(guest)? else {
        let tried = sizes::shown(guest.memory.bytes());
        return Err(Error::NoLinux { path: guest.path.clone(), tried });
    };
    let notes = [notes::statuses(guest), notes::vmcoreinfo(&text)].concat();
    let segments = Segment::regions(guest);
    // crash takes a core for one of netdump, which knows no KASLR, if segments are aligned.
    let core = Core { is_64: guest.is_64(), notes: &notes, segments: &segments, alignment: 0 };
    core.write(conversion, &conversion.output("vmss.core"))
}
