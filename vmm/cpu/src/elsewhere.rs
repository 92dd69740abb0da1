//! Instructions that another processor executes in this one's place, one by one: what this one does around them, so that nothing that it
//! keeps account of differs.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::mmu::Access;
use dejavm_memory::GuestRam;
use dejavm_units::{Gva, PAGE_SIZE, Position};

/// How an instruction uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Its own bytes.
    Fetch,
    /// A load.
    Load,
    /// A store, or a load and a store.
    Store,
}

impl From<Use> for Access {
    fn from(kind: Use) -> Access {
        match kind {
            Use::Fetch => Access::Fetch,
            Use::Load => Access::Read,
            Use::Store => Access::Write,
        }
    }
}

impl Cpu {
    /// Before an instruction that uses memory so: `false` if one of its accesses would fault or is to a device; nothing has changed then. Else
    /// page tables are marked as accessed and dirty, and pages as written, as if this CPU were to execute it.
    pub fn prepare_elsewhere(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        uses: &[(Gva, u64, Use)],
    ) -> bool {
        let user = self.cpl == 3;
        let paging = self.paging();
        let pages = || uses.iter().flat_map(|&(at, bytes, kind)| pages(at, bytes, kind));
        let possible = pages().all(|(at, kind)| {
            paging.find(ram, at).is_ok_and(|found| {
                paging.allows(&found, kind.into(), user) && ram.host_page(found.gpa.pfn()).is_some()
            })
        });
        if !possible {
            return false;
        }
        let mut written = Vec::new();
        {
            let crate::context::Loan { cpu } = &mut self.lend(ram, bus);
            for (at, kind) in pages() {
                let Ok(gpa) = cpu.translate(at, kind.into()) else { return false };
                if kind == Use::Store {
                    written.push(gpa.pfn());
                }
            }
        }
        for pfn in written {
            ram.note_written(pfn);
        }
        true
    }

    /// After so many instructions that were executed elsewhere, and changed these registers and memory alone.
    pub fn completed_elsewhere(&mut self, count: u64, gpr: &[u64; 16], rip: u64, rflags: u64) {
        self.gpr[..16].copy_from_slice(gpr);
        (self.rip, self.next_rip) = (rip, rip);
        self.set_rflags(rflags);
        self.position = Position(self.position.0.saturating_add(count));
    }
}

/// An address in each page that an access touches.
fn pages(at: Gva, bytes: u64, kind: Use) -> impl Iterator<Item = (u64, Use)> {
    let last = at.0.wrapping_add(bytes.saturating_sub(1));
    let second = (last / PAGE_SIZE != at.0 / PAGE_SIZE).then_some(last);
    [Some(at.0), second].into_iter().flatten().map(move |at| (at, kind))
}
