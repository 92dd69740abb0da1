//! Memory operands: effective addresses, and what probes of the TLB have in common.

use super::block::Translation;
use super::emit::{Host, Mem, Width, condition, host};
use super::reach::Place;
use super::registers::{host_of, slot};
use iced_x86::Instruction;

/// What a probe asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Right {
    Load,
    /// Or both.
    Store,
}

impl Translation<'_> {
    /// A guest register's value: in its own host register, or loaded into `scratch`.
    pub(super) fn value_in(&mut self, guest: u8, scratch: Host) -> Host {
        match host_of(guest) {
            Some(register) => register,
            None => {
                self.hot.load(scratch, slot(guest));
                if scratch == host::R8 {
                    self.held = None;
                }
                scratch
            }
        }
    }

    /// LEA's operand; R8 and R9 hold what they must.
    pub(super) fn unsegmented_address(&mut self, i: &Instruction) -> Option<Mem> {
        let Place { key, disp } = self.place_of(i)?;
        let base = key.base.map(|base| self.value_in(base, host::R8));
        let index = key.index.map(|(index, scale)| (self.value_in(index, host::R9), scale));
        Some(Mem { base, index, disp })
    }

    /// R9 = the byte offset of the slot for the linear address in R8, in a table of slots of `step` bytes.
    pub(super) fn tlb_slot(&mut self, step: usize) {
        let shift = step.trailing_zeros();
        self.hot.mov32(host::R9, host::R8);
        // SHR r32, imm8: the page number times the step.
        self.hot.reg(Width::W32, &[0xc1], 5, host::R9);
        self.hot.raw(&[12 - shift as u8]);
        self.hot.arith(Width::W32, 4, host::R9, (crate::mmu::TLB_SLOTS as i32 - 1) << shift);
    }

    /// Leaves for the interpreter unless what was reached lies at a multiple of 16. R9 is lost.
    pub(super) fn require_aligned(&mut self, reached: Mem) {
        self.save_flags();
        let exit = self.exit_here();
        self.hot.lea(host::R9, reached);
        // TEST r9b, 15
        self.hot.raw(&[0x41, 0xf6, 0xc1, 0x0f]);
        self.hot.jcc(condition::NE, exit);
    }
}
