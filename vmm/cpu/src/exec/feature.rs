//! Instructions that are #UD for reasons that the decoder does not know.

use super::{Done, Exec};
use crate::cpu::Cpu;
use iced_x86::Instruction;

impl Cpu {
    /// Executes an optional instruction: #UD unless the model has all that it needs.
    pub(super) fn if_known(&mut self, i: &Instruction, exec: Exec) -> Done {
        if self.model.allows(i) {
            return exec(self, i);
        }
        Err(self.undefined_opcode())
    }

    /// As [`Cpu::if_known`], and #UD in real and virtual-8086 mode, where the VEX prefix is LDS or
    /// LES with a register operand, which does not exist.
    pub(super) fn if_vex(&mut self, i: &Instruction, exec: Exec) -> Done {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        self.if_known(i, exec)
    }
}
