//! Cores of what there is without knowing any operating system: a processor's address space, and physical memory.

use crate::conversion::Conversion;
use crate::elf::{self, Core, Segment, notes};
use crate::error::Error;
use crate::guest::Guest;
use crate::output::Output;
use crate::paging::AddressSpace;
use std::path::{Path, PathBuf};

/// A core of each processor's address space, or of one's: `vmss.core0`, `vmss.core1`, ...
pub fn address_spaces(
    conversion: &Conversion<'_>,
    only: Option<usize>,
) -> Result<Vec<PathBuf>, Error> {
    let guest = conversion.guest;
    let count = guest.vcpus.len();
    if let Some(asked) = only.filter(|&asked| asked >= count) {
        return Err(Error::NoProcessor { path: guest.path.clone(), asked, count });
    }
    let is_64 = guest.is_64();
    let chosen = (0..count).filter(|n| only.is_none_or(|only| only == *n));
    // All of them or none: each is checked for room by itself, and all together here.
    let all = guest.memory.bytes_stored().saturating_mul(chosen.clone().count() as u64);
    Output::check_room(&conversion.output("vmss.core"), all)?;
    let prepared: Vec<Output> = chosen
        .map(|n| {
            let vcpu = &guest.vcpus[n];
            let notes = [notes::status(vcpu, n, is_64), notes::process(is_64)].concat();
            let segments = segments(guest, n)?;
            let core = Core { is_64, notes: &notes, segments: &segments, alignment: 4096 };
            let mut name = conversion.output("vmss.core").into_os_string();
            name.push(n.to_string());
            core.prepare(conversion, Path::new(&name))
        })
        .collect::<Result<_, Error>>()?;
    prepared.into_iter().map(|output| elf::finish(conversion, output)).collect()
}

/// What a processor's page tables lead to.
pub fn segments(guest: &Guest, n: usize) -> Result<Vec<Segment>, Error> {
    let runs = AddressSpace::runs(guest.space(n), guest)?.into_iter();
    let segments = runs.filter_map(|run| {
        Some(Segment {
            offset: guest.image_offset(run.physical)?,
            virtual_address: run.linear,
            physical_address: run.physical,
            bytes: run.bytes,
        })
    });
    Ok(segments.collect())
}

/// A core of physical memory.
pub fn physical(conversion: &Conversion<'_>) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let is_64 = guest.is_64();
    let notes = [notes::statuses(guest), notes::process(is_64)].concat();
    let segments = Segment::regions(guest);
    let core = Core { is_64, notes: &notes, segments: &segments, alignment: 4096 };
    core.write(conversion, &conversion.output("vmss.core"))
}
