//! KdVersionBlock (DBGKD_GET_VERSION64): what the kernel tells a debugger first.

use crate::windows::image::Kernel;
use crate::windows::roots::kpcr_candidates;
use crate::windows::space::Space;
use vmss::Vcpu;

const MACHINE: usize = 0x08;
const KERNEL_BASE: usize = 0x10;
const MODULES: usize = 0x18;
const DATA_LIST: usize = 0x20;
const BYTES: usize = 0x28;
/// KPCR.KdVersionBlock, of the first processor.
const KPCR_VERSION_64: u64 = 0x108;
const KPCR_VERSION_32: u64 = 0x34;

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionBlock {
    /// 15 for a free build.
    pub major: u16,
    /// The build.
    pub minor: u16,
    /// 0x14c, 0x8664
    pub machine: u16,
    /// PsLoadedModuleList
    pub modules: u64,
    /// The head of the list of debugger data blocks.
    pub data_list: u64,
}

impl VersionBlock {
    /// By the processors, else by searching the kernel's data.
    pub fn find(space: &Space<'_>, vcpus: &[Vcpu], kernel: &Kernel) -> Option<VersionBlock> {
        let offset = if space.is_64() { KPCR_VERSION_64 } else { KPCR_VERSION_32 };
        let by_processor = vcpus.iter().flat_map(|vcpu| kpcr_candidates(vcpu, space.is_64()));
        let found = by_processor.take(64).find_map(|kpcr| {
            let at = space.pointer(kpcr.checked_add(offset)?)?;
            VersionBlock::of(space, kernel, &space.bytes(at)?)
        });
        found.or_else(|| {
            kernel.find(space, |at, page| {
                // Those that cross into the next page are read again.
                let base = space_extended(space, kernel.base).to_le_bytes();
                let mut fields = page.chunks_exact(8).zip((at..).step_by(8));
                fields.find_map(|(field, address)| {
                    if field != base {
                        return None;
                    }
                    let block = space.bytes(address.checked_sub(KERNEL_BASE as u64)?)?;
                    VersionBlock::of(space, kernel, &block)
                })
            })
        })
    }

    fn of(space: &Space<'_>, kernel: &Kernel, bytes: &[u8; BYTES]) -> Option<VersionBlock> {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| {
            space.address(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
        };
        let machine = if space.is_64() { 0x8664 } else { 0x14c };
        let block = VersionBlock {
            major: half(0),
            minor: half(2),
            machine: half(MACHINE),
            modules: long(MODULES),
            data_list: long(DATA_LIST),
        };
        let looks_right = long(KERNEL_BASE) == kernel.base
            && block.machine == machine
            && block.minor > 0
            && kernel.contains(block.modules);
        looks_right.then_some(block)
    }
}

/// An address as 64-bit structures of a 32-bit kernel have it.
fn space_extended(space: &Space<'_>, address: u64) -> u64 {
    if space.is_64() { address } else { i64::from(address as u32 as i32) as u64 }
}
