//! KdDebuggerDataBlock (KDDEBUGGER_DATA64): where in the kernel a debugger finds what it wants. WDBGEXTS.H lists its
//! fields; each Windows appends some.

use crate::error::Error;
use crate::guest::Guest;
use crate::windows::encoding::{self, Encoding};
use crate::windows::image::Kernel;
use crate::windows::space::Space;
use crate::windows::tags::{self, TAG};
use crate::windows::version_block::VersionBlock;

/// Offsets of fields, by their names in WDBGEXTS.H.
pub mod field {
    pub const OWNER_TAG: usize = 0x10;
    pub const SIZE: usize = 0x14;
    pub const KERN_BASE: usize = 0x18;
    pub const PS_LOADED_MODULE_LIST: usize = 0x48;
    pub const PS_ACTIVE_PROCESS_HEAD: usize = 0x50;
    pub const KI_BUGCHECK_DATA: usize = 0x88;
    pub const MM_PFN_DATABASE: usize = 0xc0;
    pub const KI_PROCESSOR_BLOCK: usize = 0x218;
    pub const MM_PHYSICAL_MEMORY_BLOCK: usize = 0x270;
    pub const OFFSET_PRCB_PROC_STATE_CONTEXT: usize = 0x2bc;
    pub const OFFSET_PRCB_PROC_STATE_SPECIAL_REG: usize = 0x2f2;
    pub const OFFSET_PRCB_CONTEXT: usize = 0x338;
}

/// 0x208 on Windows 2000, 0x290 on XP, 0x380 on Windows 10.
pub const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 0x208..=0x600;
/// Blocks in the kernel's list: a bound for lists that lead in circles.
const LIST_MAX: usize = 16;

/// The block, plain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebuggerData {
    /// Its linear address.
    pub at: u64,
    /// What it says, decoded.
    pub bytes: Vec<u8>,
    /// How it was encoded, if it was.
    pub encoding: Option<Encoding>,
    is_64: bool,
}

impl DebuggerData {
    /// The block at an address, plain or encoded.
    pub fn at(space: &Space<'_>, kernel: &Kernel, at: u64) -> Option<DebuggerData> {
        let header: [u8; 0x20] = space.bytes(at)?;
        let is_64 = space.is_64();
        if header[field::OWNER_TAG..][..4] == TAG {
            let word =
                |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let base =
                u64::from_le_bytes(header[field::KERN_BASE..].try_into().expect("eight bytes"));
            let size = word(field::SIZE);
            if space.address(base) != kernel.base || !BLOCK_BYTES.contains(&size) {
                return None;
            }
            let mut bytes = vec![0; size as usize];
            return space.read(at, &mut bytes).then_some(DebuggerData {
                at,
                bytes,
                encoding: None,
                is_64,
            });
        }
        let (size, rotation) = encoding::recognise(&header, kernel.base)?;
        let mut bytes = vec![0; size as usize];
        space.read(at, &mut bytes).then_some(())?;
        let encoding = Encoding::new(rotation, &bytes, kernel.base);
        encoding.decode(&mut bytes);
        Some(DebuggerData { at, bytes, encoding: Some(encoding), is_64 })
    }

    /// Finds it: by the list that the version block leads to, in the kernel's data, in memory.
    pub fn find(
        guest: &Guest,
        space: &Space<'_>,
        kernel: &Kernel,
        version: Option<&VersionBlock>,
        search_all: bool,
    ) -> Result<Option<DebuggerData>, Error> {
        if let Some(found) =
            version.and_then(|version| Self::in_list(space, kernel, version.data_list))
        {
            return Ok(Some(found));
        }
        let in_data = kernel.find(space, |at, page| {
            let places = (0..4096).step_by(8);
            places
                .filter(|&place| may_begin(page, place, kernel.base))
                .find_map(|place| Self::at(space, kernel, at + place as u64))
        });
        if in_data.is_some() {
            return Ok(in_data);
        }
        tags::search(guest, search_all, |begin| Self::by_links(guest, space, kernel, begin))
    }

    /// The kernel's block in the list whose head is at an address.
    fn in_list(space: &Space<'_>, kernel: &Kernel, head: u64) -> Option<DebuggerData> {
        let mut at = space.pointer(head)?;
        for _ in 0..LIST_MAX {
            if at == head {
                return None;
            }
            if let Some(found) = Self::at(space, kernel, at) {
                return Some(found);
            }
            at = space.pointer(at)?;
        }
        None
    }

    /// A plain block at a physical address: its links lead to the list, and from there to its linear address.
    fn by_links(
        guest: &Guest,
        space: &Space<'_>,
        kernel: &Kernel,
        physical: u64,
    ) -> Option<DebuggerData> {
        let mut flink = [0; 8];
        guest.memory.read(physical, &mut flink).ok()?;
        let head = space.address(u64::from_le_bytes(flink));
        let mut at = space.pointer(head)?;
        for _ in 0..LIST_MAX {
            if space.physical(at) == Some(physical) {
                return Self::at(space, kernel, at);
            }
            at = space.pointer(at)?;
        }
        None
    }

    /// A field of 64 bits, as an address of this system; 0 if the block ends before it.
    pub fn address(&self, field: usize) -> u64 {
        let bytes = self.bytes.get(field..field + 8);
        let wide = bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")));
        if self.is_64 { wide } else { wide & 0xffff_ffff }
    }

    /// A field of 16 bits: where something is in a structure of the kernel, unless it is nowhere.
    pub fn offset(&self, field: usize) -> Option<u64> {
        let bytes = self.bytes.get(field..field + 2)?;
        let offset = u16::from_le_bytes(bytes.try_into().expect("two bytes"));
        (offset != 0 && offset != u16::MAX).then_some(offset.into())
    }
}

/// Whether a block may begin at a place in a page, by as much of it as the page has.
fn may_begin(page: &[u8; 4096], place: usize, kernel_base: u64) -> bool {
    match page.get(place..place + 0x20) {
        Some(header) => {
            let header: &[u8; 0x20] = header.try_into().expect("as many bytes");
            header[field::OWNER_TAG..][..4] == TAG
                || encoding::recognise(header, kernel_base).is_some()
        }
        // It goes on in the next page.
        None => true,
    }
}
