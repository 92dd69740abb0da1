//! Direct calls to other pages.
//!
//! Where such a call leads depends on page tables, so it cannot be a jump to the callee and nothing else. But it
//! mostly leads where it did before. The callee's block has an entry for such calls, which calls its page's gate:
//! that asks the TLB whether the linear address still leads to this page, and returns if so. Then the return
//! address is pushed onto the guest's stack, and the callee begins. Until the callee has an entry, and whenever the
//! gate finds something else, the call is made by thunks, or by the interpreter; nothing has changed by then.
//!
//! At the entry, the gate and the thunks R8 is the linear address, `Native::temporary` the host address of the
//! guest stack's new top, and on the host's stack lie what a call leaves there (see [`branch`](super::branch)).
//! Flags are saved.

use super::Code;
use super::emit::{Mem, Section, Width, at, condition, distance, host, indexed};
use super::host::reason;
use super::pages::Site;
use super::registers::{NEXT, TEMPORARY, table};
use super::thunks::Thunks;
use crate::code::OpRef;
use crate::cpu::Cpu;
use dejavm_units::Gpa;

/// Addresses of what calls share.
#[derive(Clone, Copy)]
pub(super) struct CallThunks {
    /// Called: leaves, to have the call linked or interpreted.
    pub(super) unlinked: u32,
    /// Jumped to: makes the call, or leaves to have it interpreted.
    indirect: u32,
}

/// All calls to other pages: where the distance lies, and the operation that is the call, in ascending order.
#[derive(Default)]
pub(super) struct Calls {
    sites: Vec<(u32, OpRef)>,
}

impl Calls {
    pub(super) fn clear(&mut self) {
        self.sites.clear();
    }

    pub(super) fn append(&mut self, sites: &mut Vec<(u32, OpRef)>) {
        self.sites.append(sites);
    }

    fn operation(&self, site: u32) -> OpRef {
        let found = self.sites.binary_search_by_key(&site, |&(site, _)| site);
        self.sites[found.expect("whoever calls is known")].1
    }
}

impl Cpu {
    /// The operation of a call that was left. If there is host code where it leads, it leads there straight from
    /// now on.
    pub(super) fn link_far_call(&mut self, site: u32, target: Option<Gpa>) -> OpRef {
        let mode = self.mode_bits();
        let Some(Some(code)) = &mut self.translator.code else {
            unreachable!("host code was left")
        };
        if let Some(target) = target
            && let Some(entry) = code.far_entry(target, mode)
        {
            code.memory.write(site, &distance(site, entry));
        }
        code.calls.operation(site)
    }
}

impl Code {
    /// Where calls from other pages enter the block at an address; `None` if there is no code.
    fn far_entry(&mut self, start: Gpa, mode: u8) -> Option<u32> {
        let (pfn, offset) = (start.pfn(), start.page_offset());
        let entry_points = self.pages.entry_points(pfn, mode);
        if entry_points[offset as usize] == self.thunks.no_target {
            return None;
        }
        if let Some(entry) = self.pages.far_entry(start, mode) {
            return Some(entry);
        }
        if self.is_full() {
            return None;
        }
        let gate = match self.pages.gate(pfn, mode) {
            Some(gate) => gate,
            None => {
                let entry_points = self.pages.entry_points(pfn, mode).as_ptr() as u64;
                let gate = self.place(|code, thunks| emit_gate(code, thunks, entry_points));
                self.pages.set_gate(pfn, mode, gate);
                gate
            }
        };
        let mut callee = 0;
        let entry = self.place(|code, thunks| {
            code.call(gate);
            code.load(host::R9, TEMPORARY);
            code.load(host::R8, at(host::RSP, 8));
            push_return(code);
            callee = code.jmp(thunks.no_target);
        });
        let site = Site { at: callee, exit: self.thunks.no_target, falls: false };
        self.pages.link(&mut self.memory, pfn, mode, &[(site, offset as u16)]);
        self.pages.set_far_entry(start, mode, entry);
        Some(entry)
    }
}

/// Pushes R8 onto the guest's stack, whose new top lies at R9 for the host.
pub(super) fn push_return(code: &mut Section) {
    code.store(at(host::R9, 0), host::R8);
    code.lea(host::R11, at(host::R11, -8));
}

/// Emits a page's gate: returns if the address leads to the page with these entry points, having made its linear
/// page the one being executed.
fn emit_gate(code: &mut Section, thunks: &Thunks, entry_points: u64) {
    code.store(NEXT, host::R8);
    code.tlb_slot(table::CODE_STEP);
    code.arith(Width::W64, 4, host::R8, -4096);
    let slot = indexed(host::R14, host::R9, 0, table::CODE);
    // CMP r64, m64
    code.mem(Width::W64, &[0x3b], host::R8, slot);
    let unknown = code.jcc(condition::NE, 0);
    code.constant64(host::R8, entry_points);
    code.mem(Width::W64, &[0x3b], host::R8, Mem { disp: table::CODE + 8, ..slot });
    let elsewhere = code.jcc(condition::NE, 0);
    code.enter_page();
    code.raw(&[0xc3]);
    code.join(elsewhere);
    code.join(unknown);
    // POP r8
    code.raw(&[0x41, 0x58]);
    code.load(host::R8, NEXT);
    code.jmp(thunks.calls.indirect);
}

pub(super) fn emit_thunks(code: &mut Section, exit: u32, no_target: u32) -> CallThunks {
    let unlinked = code.here();
    code.store(NEXT, host::R8);
    let leave = code.here();
    code.constant32(host::R9, reason::CALL as u32);
    code.load(host::R8, at(host::RSP, 0));
    code.jmp(exit);

    let indirect = code.here();
    code.find_target(leave);
    code.arith(Width::W64, 7, host::R9, no_target as i32);
    code.jcc(condition::E, leave);
    // XCHG r64, m64
    code.mem(Width::W64, &[0x87], host::R9, TEMPORARY);
    code.load(host::R8, at(host::RSP, 8));
    push_return(code);
    code.enter_page();
    // JMP m64
    code.mem(Width::W32, &[0xff], 4, TEMPORARY);
    CallThunks { unlinked, indirect }
}
