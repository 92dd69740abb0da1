//! The x87 FPU's registers (SDM vol. 1, 8.1). MMX registers are the low 64 bits of the same.

use serde::{Deserialize, Serialize};

/// An 80-bit double extended-precision value as the register holds it.
///
/// `repr(C)` puts the ten bytes in the order in which FLD and FSTP m80fp have them in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
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
    /// Opcode of the last instruction that raised an unmasked exception (11 bits). This and the next
    /// four are zero unless such an exception is pending: what the manual calls
    /// FDP_EXCPTN_ONLY, extended to all five, so that no host's habits show.
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

/// Bits of the status word (SDM vol. 1, 8.1.3).
pub(crate) mod status {
    /// The six exception flags: IE, DE, ZE, OE, UE, PE. The control word's masks are the same bits.
    pub(crate) const EXCEPTIONS: u16 = 0x3f;
    pub(crate) const IE: u16 = 1 << 0;
    pub(crate) const DE: u16 = 1 << 1;
    pub(crate) const ZE: u16 = 1 << 2;
    pub(crate) const OE: u16 = 1 << 3;
    pub(crate) const UE: u16 = 1 << 4;
    pub(crate) const PE: u16 = 1 << 5;
    /// Stack fault.
    pub(crate) const SF: u16 = 1 << 6;
    /// Exception summary: an unmasked exception is pending.
    pub(crate) const ES: u16 = 1 << 7;
    pub(crate) const C0: u16 = 1 << 8;
    pub(crate) const C1: u16 = 1 << 9;
    pub(crate) const C2: u16 = 1 << 10;
    pub(crate) const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub(crate) const B: u16 = 1 << 15;
    /// TOP, which [`Fpu`](super::Fpu) keeps apart.
    pub(crate) const TOP: u16 = 7 << 11;
}

/// Tags of the full tag word (SDM vol. 1, 8.1.7).
mod tag {
    pub(super) const VALID: u16 = 0;
    pub(super) const ZERO: u16 = 1;
    pub(super) const SPECIAL: u16 = 2;
    pub(super) const EMPTY: u16 = 3;
}

const EXPONENT: u16 = 0x7fff;
const INTEGER_BIT: u64 = 1 << 63;

impl F80 {
    /// The QNaN real indefinite: the masked response to an invalid operation.
    pub(crate) const INDEFINITE: F80 = F80 { significand: 3 << 62, sign_exponent: 0xffff };

    /// The ten bytes in memory order, in the low 80 bits.
    pub(crate) const fn bits(self) -> u128 {
        (self.sign_exponent as u128) << 64 | self.significand as u128
    }

    /// The value whose ten bytes are the low 80 bits of `bits`.
    pub(crate) const fn from_bits(bits: u128) -> F80 {
        F80 { significand: bits as u64, sign_exponent: (bits >> 64) as u16 }
    }

    /// The biased exponent.
    pub(crate) const fn exponent(self) -> u16 {
        self.sign_exponent & EXPONENT
    }

    /// The sign bit.
    pub(crate) const fn is_negative(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    /// Plus or minus zero.
    pub(crate) const fn is_zero(self) -> bool {
        self.exponent() == 0 && self.significand == 0
    }

    /// A denormal or pseudo-denormal.
    pub(crate) const fn is_denormal(self) -> bool {
        self.exponent() == 0 && self.significand != 0
    }

    /// An encoding that the 387 and its successors refuse: unnormal, pseudo-NaN, pseudo-infinity.
    pub(crate) const fn is_unsupported(self) -> bool {
        self.exponent() != 0 && self.significand & INTEGER_BIT == 0
    }

    /// Plus or minus infinity.
    pub(crate) const fn is_infinity(self) -> bool {
        self.exponent() == EXPONENT && self.significand == INTEGER_BIT
    }

    /// A quiet or signalling NaN.
    pub(crate) const fn is_nan(self) -> bool {
        self.exponent() == EXPONENT && self.significand > INTEGER_BIT
    }

    /// A signalling NaN.
    pub(crate) const fn is_signalling(self) -> bool {
        self.is_nan() && self.significand & 1 << 62 == 0
    }

    /// The tag that FSTENV stores for a register with this value that is not empty.
    const fn tag(self) -> u16 {
        if self.is_zero() {
            tag::ZERO
        } else if self.exponent() == 0 || self.exponent() == EXPONENT || self.is_unsupported() {
            tag::SPECIAL
        } else {
            tag::VALID
        }
    }
}

impl Fpu {
    /// The physical register that ST(i) is now.
    #[inline]
    pub(crate) fn physical(&self, i: u8) -> usize {
        (self.top.wrapping_add(i) & 7) as usize
    }

    /// ST(i), whatever its tag.
    #[inline]
    pub(crate) fn st(&self, i: u8) -> F80 {
        self.registers[self.physical(i)]
    }

    /// Writes ST(i) and marks it not empty.
    #[inline]
    pub(crate) fn set_st(&mut self, i: u8, value: F80) {
        let physical = self.physical(i);
        self.registers[physical] = value;
        self.valid |= 1 << physical;
    }

    /// Whether ST(i) is empty.
    #[inline]
    pub(crate) fn is_empty(&self, i: u8) -> bool {
        self.valid >> self.physical(i) & 1 == 0
    }

    /// Marks ST(i) empty; its value stays.
    #[inline]
    pub(crate) fn free(&mut self, i: u8) {
        self.valid &= !(1 << self.physical(i));
    }

    /// Decrements TOP and writes the new ST(0), whatever its tag.
    #[inline]
    pub(crate) fn push(&mut self, value: F80) {
        self.top = self.top.wrapping_sub(1) & 7;
        self.set_st(0, value);
    }

    /// Marks ST(0) empty and increments TOP.
    #[inline]
    pub(crate) fn pop(&mut self) {
        self.free(0);
        self.top = (self.top + 1) & 7;
    }

    /// The status word with TOP, as FNSTSW and FXSAVE store it.
    #[inline]
    pub(crate) fn status_word(&self) -> u16 {
        self.status | u16::from(self.top & 7) << 11
    }

    /// Loads the control word, the status word and TOP together (FLDENV, FRSTOR, FXRSTOR, XRSTOR). ES
    /// and B follow from flags and masks; so write the five pointer fields before.
    pub(crate) fn set_control_and_status(&mut self, control: u16, word: u16) {
        self.top = (word >> 11 & 7) as u8;
        self.status = word & !status::TOP;
        self.set_control_word(control);
    }

    /// Loads the control word: reserved bits read as zero, bit 6 as one (SDM vol. 1, figure 8-6 and
    /// what processors do). ES and B follow.
    pub(crate) fn set_control_word(&mut self, word: u16) {
        self.control = word & 0x1f3f | 0x40;
        self.summarize();
    }

    /// Whether an unmasked exception waits for the next waiting instruction.
    #[inline]
    pub(crate) fn is_exception_pending(&self) -> bool {
        self.status & status::ES != 0
    }

    /// Recomputes ES and B; without a pending exception the pointer fields are zero.
    #[inline]
    pub(crate) fn summarize(&mut self) {
        if self.status & !self.control & status::EXCEPTIONS != 0 {
            self.status |= status::ES | status::B;
        } else {
            self.status &= !(status::ES | status::B);
            self.opcode = 0;
            self.instruction_pointer = 0;
            self.data_pointer = 0;
            self.instruction_selector = 0;
            self.data_selector = 0;
        }
    }

    /// The full tag word, as FNSTENV and FNSAVE store it: two bits for each physical register. The
    /// abridged form of FXSAVE is `valid`.
    pub(crate) fn tag_word(&self) -> u16 {
        let mut word = 0;
        for (n, register) in self.registers.iter().enumerate() {
            let tag = if self.valid >> n & 1 == 0 { tag::EMPTY } else { register.tag() };
            word |= tag << (2 * n);
        }
        word
    }

    /// Takes emptiness from a full tag word; the other three tags follow from the values.
    pub(crate) fn set_tag_word(&mut self, word: u16) {
        self.valid = 0;
        for n in 0..8 {
            self.valid |= ((word >> (2 * n) & 3 != tag::EMPTY) as u8) << n;
        }
    }

    /// MM`n`.
    #[inline]
    pub(crate) fn mm(&self, n: usize) -> u64 {
        self.registers[n & 7].significand
    }

    /// Writes MM`n`: the sign and exponent become all ones (SDM vol. 1, 9.2).
    #[inline]
    pub(crate) fn set_mm(&mut self, n: usize, value: u64) {
        self.registers[n & 7] = F80 { significand: value, sign_exponent: 0xffff };
    }

    /// What every MMX instruction but EMMS does to the FPU: TOP = 0, no register empty (SDM vol. 3A,
    /// 14.2).
    #[inline]
    pub(crate) fn enter_mmx(&mut self) {
        self.top = 0;
        self.valid = 0xff;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_values() {
        let mut fpu = Fpu::default();
        assert_eq!(fpu.tag_word(), 0xffff);
        fpu.push(F80 { significand: 1 << 63, sign_exponent: 0x3fff });
        fpu.push(F80::default());
        fpu.push(F80::INDEFINITE);
        // R7 = 1.0, R6 = 0, R5 = NaN.
        assert_eq!(fpu.tag_word(), 0b00_01_10_11_11_11_11_11);
        assert_eq!(fpu.valid, 0b1110_0000);
        assert_eq!(fpu.status_word(), 5 << 11);
        let mut other = fpu.clone();
        other.set_tag_word(fpu.tag_word());
        assert_eq!(other, fpu);
    }

    #[test]
    fn the_summary_bits_follow_flags_and_masks() {
        let mut fpu = Fpu::default();
        fpu.set_control_and_status(0x37f, 0x3f);
        assert_eq!(fpu.status_word(), 0x3f);
        fpu.set_control_word(0x37b);
        assert_eq!(fpu.status_word(), 0x80bf);
        assert!(fpu.is_exception_pending());
        fpu.set_control_word(0xffff);
        assert_eq!(fpu.control, 0x1f7f);
        assert!(!fpu.is_exception_pending());
    }
}
