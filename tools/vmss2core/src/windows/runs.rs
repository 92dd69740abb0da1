//! Which memory is in a dump: runs of pages, as Windows counts its own memory.

use crate::guest::Guest;
use crate::windows::debugger_data::{DebuggerData, field};
use crate::windows::space::Space;

const PAGE: u64 = 4096;
/// As many as a header has room for: 0x348 - 0x98 bytes of 16, and 0x320 - 0x6c of 8.
pub const RUNS_MAX_64: usize = 42;
pub const RUNS_MAX_32: usize = 86;
/// Of PHYSICAL_MEMORY_DESCRIPTOR: a bound for guests made to mislead.
const RUNS_READ_MAX: u32 = 4096;

/// Pages that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub pages: u64,
}

impl PageRun {
    /// The page behind the last.
    pub fn end(&self) -> u64 {
        self.first + self.pages
    }
}

/// The runs in MmPhysicalMemoryBlock, as in Windows' own dumps: without the page at 0 and the hole for devices below
/// 1 MiB. If they make no sense, the regions of the guest's memory.
pub fn list(guest: &Guest, space: &Space<'_>, data: &DebuggerData) -> Vec<PageRun> {
    by_windows(guest, space, data).unwrap_or_else(|| {
        let regions = guest.memory.regions().iter();
        regions.map(|region| PageRun { first: region.first_page, pages: region.pages }).collect()
    })
}

/// PHYSICAL_MEMORY_DESCRIPTOR: the number of runs, that of pages, the runs; all but the first as long as a pointer.
fn by_windows(guest: &Guest, space: &Space<'_>, data: &DebuggerData) -> Option<Vec<PageRun>> {
    let long = space.pointer_bytes();
    let block = space.pointer(data.address(field::MM_PHYSICAL_MEMORY_BLOCK))?;
    let count = space.word(block).filter(|&count| (1..=RUNS_READ_MAX).contains(&count))?;
    let pages = space.pointer(block.checked_add(long)?)?;
    let mut runs: Vec<PageRun> = Vec::new();
    for n in 0..u64::from(count) {
        let at = block.checked_add(2 * long + n * 2 * long)?;
        let run =
            PageRun { first: space.pointer(at)?, pages: space.pointer(at.checked_add(long)?)? };
        run.first.checked_add(run.pages)?;
        let follows = runs.last().is_none_or(|before| before.end() <= run.first);
        if run.pages == 0 || !follows || !has(guest, run) {
            return None;
        }
        runs.push(run);
    }
    (runs.iter().map(|run| run.pages).sum::<u64>() == pages).then_some(runs)
}

/// Whether all of a run is in one region.
fn has(guest: &Guest, run: PageRun) -> bool {
    let regions = guest.memory.regions();
    regions.iter().any(|region| region.first_page <= run.first && run.end() <= region.end() / PAGE)
}
