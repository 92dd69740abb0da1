//! Finding the kernel's image, by what leads into it.

use crate::error::Error;
use crate::guest::Guest;
use crate::windows::debugger_data::field;
use crate::windows::image::Kernel;
use crate::windows::roots::{LowStub, kpcr_candidates};
use crate::windows::space::Space;
use crate::windows::tags;

/// Where KPCR says that the interrupt descriptor table is; both kinds of it have it there.
const KPCR_IDT: u64 = 0x38;

/// The kernel, by the first interrupt's handler of a processor; else by where processors are or start.
pub fn find(guest: &Guest, space: &Space<'_>) -> Option<Kernel> {
    let handlers = guest.vcpus.iter().filter_map(|vcpu| handler(space, vcpu.idtr.base));
    let tables = guest.vcpus.iter().flat_map(|vcpu| kpcr_candidates(vcpu, space.is_64()));
    let others = tables
        .filter_map(|kpcr| handler(space, space.pointer(kpcr.checked_add(KPCR_IDT)?)?))
        .chain(guest.vcpus.iter().map(|vcpu| space.address(vcpu.rip)))
        .chain(LowStub::find(guest).map(|stub| stub.entry));
    let mut tried = Vec::new();
    handlers.chain(others).filter(|&address| space.is_kernel(address)).find_map(|address| {
        // Handlers are near each other, and processors agree: going down once is enough.
        let is_new = tried.iter().all(|&before: &u64| before.abs_diff(address) > 1 << 20);
        tried.push(address);
        if is_new && tried.len() <= TRIED_MAX { Kernel::below(space, address) } else { None }
    })
}

/// The kernel, by what a plain debugger data block says of it, wherever that is.
pub fn by_debugger_data(
    guest: &Guest,
    space: &Space<'_>,
    search_all: bool,
) -> Result<Option<Kernel>, Error> {
    tags::search(guest, search_all, |block| {
        let mut base = [0; 8];
        guest.memory.read(block + field::KERN_BASE as u64, &mut base).ok()?;
        let base = space.address(u64::from_le_bytes(base));
        if space.is_kernel(base) { Kernel::at(space, base) } else { None }
    })
}

/// A bound for guests made to mislead, whose processors are all elsewhere.
const TRIED_MAX: usize = 16;

/// The handler of interrupt 0 (SDM vol. 3A, 6.11 and 6.14.1: gates).
fn handler(space: &Space<'_>, table: u64) -> Option<u64> {
    let gate: [u8; 8] = space.bytes(table)?;
    let half = |at: usize| u64::from(u16::from_le_bytes([gate[at], gate[at + 1]]));
    let low = half(0) | half(6) << 16;
    match space.is_64() {
        true => Some(low | u64::from(space.word(table.checked_add(8)?)?) << 32),
        false => Some(low),
    }
}
