//! The x87 FPU's registers (SDM vol. 1, 8.1). MMX registers are the low 64 bits of the same.

use serde::{Deserialize, Serialize};

/// An 80-bit double extended-precision value as the register holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct F80 {
    /// The 64-bit significand, integer bit explicit.
    pub significand: u64,
    /// Sign (bit 15) and biased exponent (bits 14:0).
    pub sign_exponent: u16,
}

/// The FPU's architectural state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fpu {
    /// R0..R7, the physical registers: ST(i) is `registers[(top + i) & 7]`.
    pub registers: [F80; 8],
    /// Bit i set: physical register i is not empty (the abridged tag word of FXSAVE).
    pub valid: u8,
    /// The control word.
    pub control: u16,
    /// The status word without TOP (bits 13:11 are zero here).
    pub status: u16,
    /// TOP, 0 to 7.
    pub top: u8,
    /// Opcode of the last instruction that raised an unmasked exception (11 bits).
    pub opcode: u16,
    /// Its instruction pointer.
    pub instruction_pointer: u64,
    /// Its operand pointer.
    pub data_pointer: u64,
    /// Its code selector.
    pub instruction_selector: u16,
    /// Its operand's selector.
    pub data_selector: u16,
}

impl Default for Fpu {
    /// The state after FNINIT and at reset.
    fn default() -> Fpu {
        Fpu {
            registers: [F80::default(); 8],
            valid: 0,
            control: 0x37f,
            status: 0,
            top: 0,
            opcode: 0,
            instruction_pointer: 0,
            data_pointer: 0,
            instruction_selector: 0,
            data_selector: 0,
        }
    }
}
