//! An address space: which linear addresses lead where, by the page tables of a processor (SDM vol. 3A, chapter 4).

use crate::error::Error;
use crate::guest::Guest;
use dejavm_linux::{Paging, Space};
use vmss::GuestMemory;

/// Linear addresses that lead to physical ones, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first linear address.
    pub linear: u64,
    /// Where it leads.
    pub physical: u64,
    /// Bytes.
    pub bytes: u64,
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// More runs than any guest has: a bound for page tables made to mislead, and for what headers take in memory.
const RUNS_MAX: usize = 1 << 20;
/// Tables looked at, for the same reason.
const TABLES_MAX: usize = 1 << 20;

/// Told what page tables lead to.
pub trait Visitor {
    /// A table, at a physical address.
    fn table(&mut self, physical: u64);

    /// Linear addresses that lead to physical ones, whether there is memory or not; whether to go on.
    fn page(&mut self, linear: u64, physical: u64, bytes: u64) -> bool;
}

/// Shows a visitor all that page tables lead to, in ascending order of linear addresses; whether that was all.
pub fn visit(space: Space, memory: &GuestMemory, visitor: &mut dyn Visitor) -> bool {
    let level = |shift, bits, has_pages| Level { shift, bits, has_pages };
    let mut walk = Walk { memory, visitor, tables: 0 };
    let long = [
        level(48, 9, false),
        level(39, 9, false),
        level(30, 9, true),
        level(21, 9, true),
        level(12, 9, true),
    ];
    let root = space.root.0;
    match space.paging {
        // Without CR4.PSE a kernel leaves the bit of large pages clear.
        Paging::TwoLevel => walk.table(root, 4, &[level(22, 10, true), level(12, 10, true)], 0),
        Paging::Pae => {
            let levels = [level(30, 2, false), level(21, 9, true), level(12, 9, true)];
            walk.table(root, 8, &levels, 0)
        }
        Paging::FourLevel => walk.table(root, 8, &long[1..], 0),
        Paging::FiveLevel => walk.table(root, 8, &long, 0),
    }
}

struct Walk<'a> {
    memory: &'a GuestMemory,
    visitor: &'a mut dyn Visitor,
    tables: usize,
}

/// How a level's tables are.
#[derive(Clone, Copy)]
struct Level {
    /// log2 of the bytes that an entry leads to.
    shift: u32,
    /// log2 of the entries.
    bits: u32,
    /// An entry may lead to a page.
    has_pages: bool,
}

impl Walk<'_> {
    fn table(&mut self, at: u64, entry_bytes: u64, levels: &[Level], linear: u64) -> bool {
        let [level, below @ ..] = levels else { return true };
        self.tables += 1;
        if self.tables > TABLES_MAX {
            return false;
        }
        let mut bytes = vec![0; (entry_bytes << level.bits) as usize];
        if self.memory.read(at, &mut bytes).is_err() {
            return true;
        }
        self.visitor.table(at);
        for (index, entry) in (0u64..).zip(bytes.chunks_exact(entry_bytes as usize)) {
            let mut wide = [0; 8];
            wide[..entry.len()].copy_from_slice(entry);
            let entry = u64::from_le_bytes(wide);
            if entry & PRESENT == 0 {
                continue;
            }
            let mut linear = linear | index << level.shift;
            let top = level.shift + level.bits;
            if matches!(top, 48 | 57) && linear >> (top - 1) != 0 {
                // Canonical addresses repeat the highest bit.
                linear |= u64::MAX << top;
            }
            let is_page = below.is_empty() || level.has_pages && entry & LARGE != 0;
            let goes_on = match (is_page, entry_bytes) {
                (false, 8) => self.table(entry & ADDRESS, 8, below, linear),
                (false, _) => self.table(entry & 0xffff_f000, 4, below, linear),
                (true, 4) if level.shift == 22 => {
                    // PSE-36: bits 39:32 are in 20:13.
                    let physical = entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
                    self.visitor.page(linear, physical, 1 << 22)
                }
                (true, _) => {
                    let bytes = 1 << level.shift;
                    self.visitor.page(linear, entry & ADDRESS & !(bytes - 1), bytes)
                }
            };
            if !goes_on {
                return false;
            }
        }
        true
    }
}

/// An address space, run by run.
pub struct AddressSpace<'a> {
    memory: &'a GuestMemory,
    runs: Vec<Run>,
}

impl AddressSpace<'_> {
    /// All that page tables lead to, in ascending order; without paging, physical memory.
    ///
    /// # Errors
    /// If there are too many.
    pub fn runs(space: Option<Space>, guest: &Guest) -> Result<Vec<Run>, Error> {
        let Some(space) = space else {
            let all = guest.memory.regions().iter();
            return Ok(all
                .map(|region| Run {
                    linear: region.start(),
                    physical: region.start(),
                    bytes: region.bytes(),
                })
                .collect());
        };
        let mut found = AddressSpace { memory: &guest.memory, runs: Vec::new() };
        if !visit(space, &guest.memory, &mut found) {
            return Err(Error::TooManyRuns { path: guest.path.clone(), runs: RUNS_MAX });
        }
        Ok(found.runs)
    }

    fn add(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.linear.wrapping_add(last.bytes) == run.linear
            && last.physical + last.bytes == run.physical
        {
            last.bytes += run.bytes;
        } else if self.runs.len() < RUNS_MAX {
            self.runs.push(run);
        }
    }
}

impl Visitor for AddressSpace<'_> {
    fn table(&mut self, _physical: u64) {}

    /// Adds what there is memory for.
    fn page(&mut self, linear: u64, physical: u64, bytes: u64) -> bool {
        let end = physical + bytes;
        for region in 0..self.memory.regions().len() {
            let region = self.memory.regions()[region];
            let (from, to) = (physical.max(region.start()), end.min(region.end()));
            if from < to {
                self.add(Run {
                    linear: linear + (from - physical),
                    physical: from,
                    bytes: to - from,
                });
            }
        }
        self.runs.len() < RUNS_MAX
    }
}
