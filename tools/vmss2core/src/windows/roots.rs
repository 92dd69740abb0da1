//! Finding page tables that have the kernel in them.

use crate::error::Error;
use crate::guest::Guest;
use crate::windows::shared_data::SharedData;
use crate::windows::space::{Space, is_64};
use dejavm_linux::Paging;
use vmss::{Vcpu, segment};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Where KPRCB keeps the kernel's CR3 while the user's, which lacks the kernel, is loaded (KVA shadow); counted from
/// KPCR, at the same place since the updates of January 2018.
const KPCR_KERNEL_CR3: u64 = 0x7000;
/// PROCESSOR_START_BLOCK, the page below 1 MiB where processors start: a jump, its flags, the kernel's entry, CR3.
const STUB_JUMP: u64 = 0x0000_0001_0006_00e9;
const STUB_JUMP_MASK: u64 = 0xffff_ffff_ffff_00ff;
const STUB_ENTRY: usize = 0x70;
const STUB_CR3: usize = 0xa0;

/// Whether a processor executes the kernel.
pub fn is_in_kernel(vcpu: &Vcpu) -> bool {
    vcpu.segments[segment::CS].selector & 3 == 0
}

/// The base addresses that may be a processor's KPCR, best first.
pub fn kpcr_candidates(vcpu: &Vcpu, is_64: bool) -> Vec<u64> {
    if !is_64 {
        return vec![vcpu.segments[segment::FS].base];
    }
    let here = Some(vcpu.segments[segment::GS].base);
    let swapped = vcpu.kernel_gs_base;
    let order = if is_in_kernel(vcpu) { [here, swapped] } else { [swapped, here] };
    order.into_iter().flatten().filter(|&base| base >> 63 != 0).collect()
}

/// What the page below 1 MiB says where processors start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowStub {
    /// An address in the kernel.
    pub entry: u64,
    /// Of the System process.
    pub cr3: u64,
}

impl LowStub {
    /// Finds it. 64-bit systems only.
    pub fn find(guest: &Guest) -> Option<LowStub> {
        (0..MIB).step_by(PAGE as usize).find_map(|at| {
            let mut bytes = [0; STUB_CR3 + 8];
            guest.memory.read(at, &mut bytes).ok()?;
            let long =
                |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
            let (entry, cr3) = (long(STUB_ENTRY), long(STUB_CR3));
            let looks_right = long(0) & STUB_JUMP_MASK == STUB_JUMP
                && entry & 0xffff_f800_0000_0003 == 0xffff_f800_0000_0000
                && cr3 & 0xffff_ff00_0000_0fff == 0
                && cr3 != 0;
            looks_right.then_some(LowStub { entry, cr3 })
        })
    }
}

/// The address space of a processor's kernel half, if the processor says enough to find it.
pub fn of_processor(guest: &Guest, vcpu: usize) -> Option<(Space<'_>, SharedData)> {
    let paging = guest.space(vcpu)?.paging;
    let vcpu = &guest.vcpus[vcpu];
    let space = Space::new(guest, paging, vcpu.cr[3]);
    if let Some(found) = checked(space) {
        return Some(found);
    }
    // CR3 is the user's half only: its few kernel pages hold KPCR and what it needs to leave.
    kpcr_candidates(vcpu, space.is_64()).into_iter().find_map(|kpcr| {
        let cr3 = space.pointer(kpcr.checked_add(KPCR_KERNEL_CR3)?)?;
        checked(Space::new(guest, paging, cr3))
    })
}

/// An address space with the kernel in it, without searching: by the processors, and by the page where they start.
pub fn find(guest: &Guest) -> Option<(Space<'_>, SharedData)> {
    let by_mode = |kernel: bool| {
        (0..guest.vcpus.len()).filter(move |&vcpu| is_in_kernel(&guest.vcpus[vcpu]) == kernel)
    };
    let found = by_mode(true).chain(by_mode(false)).find_map(|vcpu| of_processor(guest, vcpu));
    found.or_else(|| checked(Space::new(guest, long_mode(guest), LowStub::find(guest)?.cr3)))
}

/// The same by searching memory up to `limit` for a top-level table of long mode that has an entry for itself in the
/// kernel's half.
pub fn search(guest: &Guest, limit: u64) -> Result<Option<(Space<'_>, SharedData)>, Error> {
    const CHUNK: u64 = 256 << 10;
    let mut buffer = vec![0; CHUNK as usize];
    let paging = long_mode(guest);
    for region in guest.memory.regions() {
        let mut at = region.start();
        while at < region.end().min(limit) {
            let bytes = CHUNK.min(region.end() - at);
            let chunk = &mut buffer[..bytes as usize];
            guest.read(at, chunk)?;
            for (page, table) in (at..).step_by(PAGE as usize).zip(chunk.chunks_exact(4096)) {
                if refers_to_itself(table, page)
                    && let Some(found) = checked(Space::new(guest, paging, page))
                {
                    return Ok(Some(found));
                }
            }
            at += bytes;
        }
    }
    Ok(None)
}

/// Whether a table has an entry in its upper half that is present, writable, no large page, and leads to it.
fn refers_to_itself(table: &[u8], at: u64) -> bool {
    table[2048..].chunks_exact(8).any(|entry| {
        let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
        entry & 0x000f_ffff_ffff_f000 == at && entry & 0x83 == 0x03
    })
}

/// How page tables of long mode are, as the processors have it.
fn long_mode(guest: &Guest) -> Paging {
    let all = (0..guest.vcpus.len()).filter_map(|vcpu| guest.space(vcpu));
    all.map(|space| space.paging).find(|&paging| is_64(paging)).unwrap_or(Paging::FourLevel)
}

fn checked(space: Space<'_>) -> Option<(Space<'_>, SharedData)> {
    SharedData::read(&space).map(|data| (space, data))
}
