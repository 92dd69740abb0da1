//! Instructions that are #UD for reasons that the decoder does not know.

use super::{Done, Exec};
use crate::cpu::Cpu;
use iced_x86::Instruction;

impl Cpu {
    /// Executes an instruction with a VEX prefix; #UD in real and virtual-8086 mode, where that
    /// prefix is LDS or LES with a register operand, which does not exist.
    pub(super) fn if_vex(&mut self, i: &Instruction, exec: Exec) -> Done {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        exec(self, i)
    }
}
