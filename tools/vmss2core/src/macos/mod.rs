//! Cores of macOS guests, as Mach-O files: for LLDB, with the guest's kernel.

mod core_file;
mod kernel;

use crate::arguments::MacOptions;
use crate::conversion::Conversion;
use crate::error::Error;
use crate::paging::AddressSpace;
use core_file::{CoreFile, Loaded};
use kernel::MachKernel;
use std::path::PathBuf;

/// A core of the address space of the first processor that has the kernel in it: `vmss.core`.
pub fn core(conversion: &Conversion<'_>, options: &MacOptions) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let kernel = MachKernel::open(&options.kernel, options.is_64)
        .map_err(|what| Error::MachKernel { path: options.kernel.clone(), what })?;
    let spaces = (0..guest.vcpus.len()).map(|n| guest.space(n));
    let found = spaces.clone().find_map(|space| Some((space, kernel.find(guest, space)?)));
    let (space, loaded) = match found {
        Some((space, at)) => (space, Some(Loaded { at, uuid: kernel.uuid() })),
        None => {
            conversion.progress.remark(&format!(
                "{} is not in the guest's memory, wherever it could have been moved: the core does not say where the kernel is",
                options.kernel.display()
            ));
            (guest.space(0), None)
        }
    };
    let runs = AddressSpace::runs(space, guest)?;
    let core = CoreFile { is_64: options.is_64, vcpus: &guest.vcpus, runs: &runs, kernel: loaded };
    core.write(conversion, &conversion.output("vmss.core"))
}
