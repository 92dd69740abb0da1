//! Free pages: those that the kernel's `struct page` says are the buddy allocator's, as makedumpfile finds them.

use crate::error::Error;
use crate::guest::Guest;
use crate::kdump::bitmap::{Bits, WINDOW_PAGES};
use crate::kdump::kernel::{Kernel, KernelMemory};
use vmss::PAGE_BYTES;

/// Flags in the low bits of `section_mem_map`, which is otherwise aligned to a page
/// (Linux, include/linux/mmzone.h: `SECTION_MAP_MASK`; six are in use in 6.18, but kernels before 4.13 aligned less).
const SECTION_HAS_MAP: u64 = 1 << 1;
const SECTION_FLAGS: u64 = 0x3f;
/// No `struct page` has more.
const PAGE_STRUCTURE_MAX: u64 = 1024;
/// The buddy allocator's largest block is 2^10 pages, on x86; it may be configured larger.
const ORDER_MAX: u64 = 20;

/// Where the kernel keeps its page structures, and what of them tells a free page.
pub struct FreePages<'a> {
    memory: KernelMemory<'a>,
    map: Map,
    structure_bytes: u64,
    flags_at: usize,
    mapcount_at: usize,
    private_at: usize,
    /// `_mapcount` of a free block's first page.
    buddy: u32,
    /// The flag of kernels whose slabs used the place of `_mapcount`.
    slab: Option<u32>,
}

/// The array of page structures.
enum Map {
    /// One, from page 0 on.
    Flat(u64),
    /// One for each section.
    Sections {
        /// Of the sections' structures, or of pointers to pages of these.
        table: u64,
        is_extreme: bool,
        entry_bytes: u64,
        map_at: u64,
        /// Pages of a section, as a shift.
        shift: u32,
    },
}

impl<'a> FreePages<'a> {
    /// Finds what there is to know.
    pub fn find(guest: &Guest, kernel: &Kernel<'a>) -> Result<FreePages<'a>, Error> {
        let wrong = |why: String| Error::NoFreePages { path: guest.path.clone(), why };
        let memory = kernel
            .memory()
            .ok_or_else(|| wrong("no page tables lead to the kernel's own memory".to_owned()))?;
        FreePages::of(kernel, memory)
            .map_err(|line| wrong(format!("this kernel's VMCOREINFO has no usable {line}")))
    }

    fn of(kernel: &Kernel<'a>, memory: KernelMemory<'a>) -> Result<FreePages<'a>, String> {
        let size = |kind: &str, name: &str| {
            kernel.size(kind, name).ok_or_else(|| format!("{kind}({name})"))
        };
        let structure_bytes = size("SIZE", "page")?;
        let within = |name: &str, bytes: u64| {
            let offset = size("OFFSET", name)?;
            let fits = structure_bytes <= PAGE_STRUCTURE_MAX
                && offset.checked_add(bytes).is_some_and(|end| end <= structure_bytes);
            if fits { Ok(offset as usize) } else { Err(format!("OFFSET({name})")) }
        };
        let word = memory.pointer_bytes();
        let buddy = kernel
            .number("PAGE_BUDDY_MAPCOUNT_VALUE")
            .ok_or("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)")?;
        let slab = kernel.number("PG_slab").and_then(|bit| u32::try_from(bit).ok());
        Ok(FreePages {
            map: Map::of(kernel, &memory)?,
            structure_bytes,
            flags_at: within("page.flags", word)?,
            mapcount_at: within("page._mapcount", 4)?,
            private_at: within("page.private", word)?,
            // Kernels print it as a signed number, whatever its type.
            buddy: buddy as u32,
            slab: slab.filter(|&bit| u64::from(bit) < 8 * word),
            memory,
        })
    }

    /// Takes away the bits of pages that are free. Pages without a structure stay.
    pub fn exclude(&self, window: u64, bits: &mut Bits) {
        let first = window * WINDOW_PAGES;
        let mut structures = vec![0; (WINDOW_PAGES * self.structure_bytes) as usize];
        let mut from = 0;
        while from < WINDOW_PAGES {
            let to = self.map.same_array_until(first + from, first + WINDOW_PAGES) - first;
            let array = &mut structures[..((to - from) * self.structure_bytes) as usize];
            if let Some(at) = self.map.structure(&self.memory, first + from, self.structure_bytes) {
                self.exclude_in(at, array, from, bits);
            }
            from = to;
        }
    }

    /// The same for pages whose structures lie one after another.
    fn exclude_in(&self, at: u64, array: &mut [u8], from: u64, bits: &mut Bits) {
        // Structures of no memory at the ends of a section are not there: a page of them at a time.
        let mut place = 0;
        while place < array.len() {
            let end = array
                .len()
                .min(place + (PAGE_BYTES - at.wrapping_add(place as u64) % PAGE_BYTES) as usize);
            if self.memory.read(at.wrapping_add(place as u64), &mut array[place..end]).is_none() {
                array[place..end].fill(0);
            }
            place = end;
        }
        let structures = array.chunks_exact(self.structure_bytes as usize);
        let mut skip = 0;
        for (page, structure) in (from..).zip(structures) {
            if page < skip {
                continue;
            }
            if let Some(pages) = self.free_block(structure) {
                skip = (page + pages).min(WINDOW_PAGES);
                bits.clear(page, skip);
            }
        }
    }

    /// Pages of the free block that begins with this one, if one does.
    fn free_block(&self, structure: &[u8]) -> Option<u64> {
        let word = |at: usize| -> u64 {
            let bytes = self.memory.pointer_bytes() as usize;
            let mut wide = [0; 8];
            wide[..bytes].copy_from_slice(&structure[at..at + bytes]);
            u64::from_le_bytes(wide)
        };
        let mapcount = &structure[self.mapcount_at..self.mapcount_at + 4];
        if u32::from_le_bytes(mapcount.try_into().expect("four bytes")) != self.buddy {
            return None;
        }
        if self.slab.is_some_and(|bit| word(self.flags_at) >> bit & 1 != 0) {
            return None;
        }
        let order = word(self.private_at);
        (order <= ORDER_MAX).then(|| 1 << order)
    }
}

impl Map {
    fn of(kernel: &Kernel<'_>, memory: &KernelMemory<'_>) -> Result<Map, String> {
        if let Some(symbol) = kernel.symbol("mem_map") {
            return memory.pointer(symbol).map(Map::Flat).ok_or_else(|| "SYMBOL(mem_map)".into());
        }
        let table = kernel.symbol("mem_section").ok_or("SYMBOL(mem_map) or SYMBOL(mem_section)")?;
        let size = |kind: &str, name: &str| {
            kernel.size(kind, name).ok_or_else(|| format!("{kind}({name})"))
        };
        let entry_bytes = size("SIZE", "mem_section")?;
        let map_at = size("OFFSET", "mem_section.section_mem_map")?;
        if !(1..=PAGE_BYTES).contains(&entry_bytes) || map_at >= entry_bytes {
            return Err("SIZE(mem_section)".into());
        }
        let bits = kernel.number("SECTION_SIZE_BITS").filter(|bits| (13..52).contains(bits));
        let bits = bits.ok_or("NUMBER(SECTION_SIZE_BITS)")?;
        // A root for each page of structures, or all structures in one array: makedumpfile reckons the same way.
        let per_root = PAGE_BYTES / entry_bytes;
        let is_extreme = match kernel.number("MAX_PHYSMEM_BITS") {
            Some(all) => {
                let sections = 1u64 << all.saturating_sub(bits).clamp(0, 40);
                size("LENGTH", "mem_section")? == sections.div_ceil(per_root)
            }
            None => kernel.is_64(),
        };
        let shift = bits as u32 - 12;
        Ok(Map::Sections { table, is_extreme, entry_bytes, map_at, shift })
    }

    /// The page after the last whose structure is in the same array as `page`'s; `end` at most.
    fn same_array_until(&self, page: u64, end: u64) -> u64 {
        match self {
            Map::Flat(_) => end,
            Map::Sections { shift, .. } => end.min(((page >> shift) + 1) << shift),
        }
    }

    /// The address of a page's structure.
    fn structure(&self, memory: &KernelMemory<'_>, page: u64, bytes: u64) -> Option<u64> {
        let before = page.checked_mul(bytes)?;
        match *self {
            Map::Flat(array) => Some(array.wrapping_add(before)),
            Map::Sections { table, is_extreme, entry_bytes, map_at, shift } => {
                let section = page >> shift;
                let entry = if is_extreme {
                    let per_root = PAGE_BYTES / entry_bytes;
                    let at = table.checked_add(section / per_root * memory.pointer_bytes())?;
                    let root = memory.pointer(at).filter(|&root| root != 0)?;
                    root.checked_add(section % per_root * entry_bytes)?
                } else {
                    table.checked_add(section * entry_bytes)?
                };
                let coded = memory.pointer(entry.checked_add(map_at)?)?;
                // The address as if the array began with page 0.
                (coded & SECTION_HAS_MAP != 0)
                    .then(|| (coded & !SECTION_FLAGS).wrapping_add(before))
            }
        }
    }
}
