//! Linux guests: cores of the kernel, lists of processes, cores of one of them.

mod kernel_core;
mod process_core;
mod processes;
mod vmcoreinfo;

pub use kernel_core::core;
pub use process_core::process;
pub use processes::{Process, processes};

use crate::arguments::LinuxOptions;
use crate::error::Error;
use crate::guest::Guest;
use dejavm_linux::{Kernel, Reason};

/// The kernel that runs in a guest.
fn kernel(guest: &Guest, options: &LinuxOptions) -> Result<Kernel, Error> {
    let found = match &options.offsets {
        Some(offsets) => Kernel::with_offsets(guest, offsets),
        None => guest.linux().cloned().map_err(Reason::clone),
    };
    found.map_err(|reason| Error::NoKernel { path: guest.path.clone(), reason })
}

/// The Linux that a guest is, if it is one: the first words of its own description of itself.
pub fn recognise(guest: &Guest) -> Result<Option<String>, Error> {
    if let Some(text) = vmcoreinfo::find(guest)? {
        let release = String::from_utf8_lossy(&text)
            .lines()
            .find_map(|line| line.strip_prefix("OSRELEASE=").map(str::to_owned));
        return Ok(Some(format!("Linux {}", release.unwrap_or_default())));
    }
    let banner = guest.linux().ok().and_then(|kernel| kernel.facts().banner.clone());
    Ok(banner.map(|line| {
        line.split(' ').filter(|word| *word != "version").take(2).collect::<Vec<_>>().join(" ")
    }))
}
