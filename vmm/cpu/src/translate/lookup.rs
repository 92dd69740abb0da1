//! Slots of the TLB, and where it says that linear addresses of code lead.

use super::emit::Width::{W32, W64};
use super::emit::{Section, condition, host, indexed};
use super::registers::{NEXT, PAGE, table};
use crate::mmu::TLB_SLOTS;

impl Section {
    /// R9 = the byte offset of the TLB's slot for the linear address in R8, in a table of slots of `step` bytes.
    pub(super) fn tlb_slot(&mut self, step: usize) {
        let shift = step.trailing_zeros();
        self.mov32(host::R9, host::R8);
        // SHR r32, imm8: the page number times the step.
        self.reg(W32, &[0xc1], 5, host::R9);
        self.raw(&[12 - shift as u8]);
        self.arith(W32, 4, host::R9, (TLB_SLOTS as i32 - 1) << shift);
    }

    /// R9 = the entry point for the linear address in R8, which is put into `Native::next`; where the TLB does not
    /// know it, jumps to `unknown` with nothing changed.
    pub(super) fn find_target(&mut self, unknown: u32) {
        self.store(NEXT, host::R8);
        self.tlb_slot(table::CODE_STEP);
        self.mem(W64, &[0x33], host::R8, indexed(host::R14, host::R9, 0, table::CODE));
        self.arith(W64, 7, host::R8, 4095);
        self.jcc(condition::A, unknown);
        self.load(host::R9, indexed(host::R14, host::R9, 0, table::CODE + 8));
        self.mem(W32, &[0x8b], host::R9, indexed(host::R9, host::R8, 2, 0));
    }

    /// Goes on at the linear address in R8, or at `unknown` with nothing changed.
    pub(super) fn go_to_linear(&mut self, unknown: u32) {
        self.find_target(unknown);
        self.enter_page();
        self.jmp_register(host::R9);
    }

    /// The page of `Native::next` is the one being executed from here on.
    pub(super) fn enter_page(&mut self) {
        self.load(host::R8, NEXT);
        self.arith(W64, 4, host::R8, -4096);
        self.store(PAGE, host::R8);
    }
}
