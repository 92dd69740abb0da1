//! MXCSR (SDM vol. 1, 10.2.3) and what happens when a floating-point exception is detected.

use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::exec::Done;

/// Invalid operation.
pub(super) const IE: u32 = 1 << 0;
/// Denormal operand.
pub(super) const DE: u32 = 1 << 1;
/// Divide by zero.
pub(super) const ZE: u32 = 1 << 2;
/// Overflow.
pub(super) const OE: u32 = 1 << 3;
/// Underflow.
pub(super) const UE: u32 = 1 << 4;
/// Precision: the result is inexact.
pub(super) const PE: u32 = 1 << 5;
/// The six sticky flags.
pub(super) const FLAGS: u32 = 0x3f;
/// Denormals are zeros.
pub(super) const DAZ: u32 = 1 << 6;
/// The six mask bits.
pub(super) const MASKS: u32 = FLAGS << MASK_SHIFT;
/// From a flag to its mask.
pub(super) const MASK_SHIFT: u32 = 7;
/// From bit 0 to rounding control.
pub(super) const ROUNDING_SHIFT: u32 = 13;
/// Flush to zero.
pub(super) const FTZ: u32 = 1 << 15;
/// The control bits at reset, and those that Rust code runs with: all masked, to nearest.
pub(super) const DEFAULT: u32 = 0x1f80;
/// MXCSR_MASK: the bits that exist.
pub(super) const EXISTING: u32 = 0xffff;
/// Exceptions that are found before anything is computed; when one of them is unmasked, the flags of
/// the others (overflow, underflow, precision) are not set by that instruction.
const PRE_COMPUTATION: u32 = IE | DE | ZE;

impl Cpu {
    /// All six exceptions are masked: nothing can fault.
    #[inline(always)]
    pub(super) fn all_masked(&self) -> bool {
        self.mxcsr & MASKS == MASKS
    }

    /// Of `flags`, those whose exception is unmasked.
    #[inline(always)]
    pub(super) fn unmasked(&self, flags: u32) -> u32 {
        flags & !(self.mxcsr >> MASK_SHIFT) & FLAGS
    }

    /// Records the exceptions that an instruction detected, united over its lanes; #XM (or #UD, if
    /// the system does not handle #XM) when one of them is unmasked. Call before writing results.
    #[inline(always)]
    pub(super) fn signal(&mut self, flags: u32) -> Done {
        if self.unmasked(flags) == 0 {
            self.mxcsr |= flags;
            return Ok(());
        }
        Err(self.numeric_exception(flags))
    }

    #[cold]
    fn numeric_exception(&mut self, flags: u32) -> Abort {
        let before_computing = self.unmasked(flags) & PRE_COMPUTATION != 0;
        self.mxcsr |= if before_computing { flags & PRE_COMPUTATION } else { flags };
        if self.cr4 & control::CR4_OSXMMEXCPT == 0 {
            return self.undefined_opcode();
        }
        self.exception(vector::XM, None)
    }
}
