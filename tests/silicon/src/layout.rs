//! The address space that both CPUs see: two megabytes at a fixed low address, so that a 32-bit
//! displacement reaches all of it in either mode.

/// Bytes in a page.
pub const PAGE: u32 = 4096;
/// Linear address of the first page of the region.
pub const REGION: u32 = 0x3000_0000;
/// Pages in the region, holes included.
pub const REGION_PAGES: u32 = 40;

/// What a page of the region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageUse {
    /// Not mapped.
    Hole,
    /// Instructions under test; readable and executable.
    Code,
    /// The native runner's way home; no test may touch it.
    Stub,
    /// Operands; not executable.
    ReadWrite,
    /// Operands that no store reaches; not executable.
    ReadOnly,
}

/// First of the pages that hold ordinary slots.
pub const SLOT_PAGE: u32 = 0;
/// Pages of ordinary slots.
pub const SLOT_PAGES: u32 = 8;
/// Bytes from one slot to the next.
pub const SLOT_BYTES: u32 = 64;
/// First of the pages that are followed by a hole; every second page is one.
pub const END_PAGE: u32 = 9;
/// Pages followed by a hole.
pub const END_PAGES: u32 = 8;
/// First of the pages of branch cells.
pub const BRANCH_PAGE: u32 = 25;
/// Bytes of a branch cell: a short branch from its middle stays inside.
pub const BRANCH_CELL_BYTES: u32 = 512;
/// Branch cells.
pub const BRANCH_CELLS: u32 = 32;
/// A page full of breakpoints, for branches to land on.
pub const LANDING_PAGE: u32 = 29;
/// The way home.
pub const STUB_PAGE: u32 = 31;
/// Offset in the stub page of the entry for 32-bit code.
pub const STUB_32: u32 = 64;
/// Two read-write pages, then one read-only, then a hole.
pub const DATA_PAGE: u32 = 33;
/// The read-only page.
pub const READ_ONLY_PAGE: u32 = 35;
/// A read-write page with a hole on either side, for the stack.
pub const STACK_PAGE: u32 = 37;

/// The pages whose contents are data, in the order of [`Arena::pristine`](crate::shared::Arena).
pub const DATA_PAGES: [u32; 4] = [DATA_PAGE, DATA_PAGE + 1, READ_ONLY_PAGE, STACK_PAGE];

/// The byte that fills code pages: INT3, so that a landed branch is seen.
pub const FILL: u8 = 0xcc;

/// FS base in 64-bit mode.
pub const FS_BASE_64: u64 = address(DATA_PAGE) as u64 + 0x100;
/// GS base in 64-bit mode.
pub const GS_BASE_64: u64 = address(DATA_PAGE) as u64 + 0x1080;
/// FS in 32-bit mode: a data segment of the LDT over the two data pages, byte granular.
pub const FS_SELECTOR_32: u16 = 0x07;
/// Its base.
pub const FS_BASE_32: u32 = address(DATA_PAGE);
/// Its limit.
pub const FS_LIMIT_32: u32 = 0x1fff;
/// GS in 32-bit mode: a read-only data segment of the LDT.
pub const GS_SELECTOR_32: u16 = 0x0f;
/// Its base.
pub const GS_BASE_32: u32 = address(DATA_PAGE) + 0x800;
/// Its limit.
pub const GS_LIMIT_32: u32 = 0x0fff;
/// The 64-bit user code segment of Linux.
pub const CS_64: u16 = 0x33;
/// The 32-bit user code segment of Linux.
pub const CS_32: u16 = 0x23;
/// The user data segment of Linux; in DS, ES and SS of both CPUs.
pub const DATA_SELECTOR: u16 = 0x2b;

/// Linear address of a page of the region.
pub const fn address(page: u32) -> u32 {
    REGION + page * PAGE
}

/// What page `index` of the region is.
pub const fn page_use(index: u32) -> PageUse {
    match index {
        SLOT_PAGE..=7 | BRANCH_PAGE..=LANDING_PAGE => PageUse::Code,
        END_PAGE..=24 if (index - END_PAGE).is_multiple_of(2) => PageUse::Code,
        STUB_PAGE => PageUse::Stub,
        DATA_PAGE | 34 | STACK_PAGE => PageUse::ReadWrite,
        READ_ONLY_PAGE => PageUse::ReadOnly,
        _ => PageUse::Hole,
    }
}

/// What the page that holds a linear address is; what lies outside the region is a hole.
pub const fn use_of(linear: u64) -> PageUse {
    if linear < REGION as u64 || linear >= address(REGION_PAGES) as u64 {
        return PageUse::Hole;
    }
    page_use((linear as u32 - REGION) / PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_page_has_the_use_that_its_name_says() {
        assert_eq!(page_use(SLOT_PAGE + SLOT_PAGES), PageUse::Hole);
        for n in 0..END_PAGES {
            assert_eq!(page_use(END_PAGE + 2 * n), PageUse::Code);
            assert_eq!(page_use(END_PAGE + 2 * n + 1), PageUse::Hole);
        }
        assert_eq!(BRANCH_PAGE * PAGE + BRANCH_CELLS * BRANCH_CELL_BYTES, LANDING_PAGE * PAGE);
        assert_eq!(DATA_PAGES.map(page_use)[2], PageUse::ReadOnly);
        assert_eq!(page_use(STACK_PAGE - 1), PageUse::Hole);
        assert_eq!(page_use(STACK_PAGE + 1), PageUse::Hole);
    }
}
