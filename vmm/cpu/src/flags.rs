//! RFLAGS, with the six arithmetic flags kept as the operands that they follow from.
//!
//! Most arithmetic flags are overwritten unread, so an operation stores two words from which each
//! flag can be computed: `result`, sign-extended to 64 bits, gives ZF, SF and PF; `aux` holds what
//! the result cannot tell:
//!
//! ```text
//! aux bit 63    CF: carry out of the top bit
//!     bit 62    carry into the top bit; OF = bit 63 XOR bit 62
//!     bits 15:8 XORed into the low byte of `result` before its parity is taken
//!     bit 3     AF: carry out of bit 3
//!     bit 0     XORed into SF
//! ```
//!
//! The last two fields let any combination of flags be stored (POPF, SAHF): ZF and SF together are
//! `result = 0` with bit 0 set. The idea is that of Bochs' lazy flags.

/// Bits of RFLAGS (SDM vol. 1, 3.4.3).
#[expect(missing_docs, reason = "the manual's mnemonics")]
pub mod rflags {
    pub const CF: u64 = 1 << 0;
    pub const ONE: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six that arithmetic sets.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// All bits that exist.
    pub const ALL: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}

const AUX_CF: u64 = 1 << 63;
const AUX_CARRY_IN: u64 = 1 << 62;
const AUX_AF: u64 = 1 << 3;
const AUX_SF: u64 = 1;

/// The arithmetic flags in lazy form. `SIZE` parameters are operand sizes in bytes: 1, 2, 4, 8.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arith {
    /// The last result, sign-extended.
    pub result: u64,
    /// See the module's drawing.
    pub aux: u64,
}

/// `value`'s low `size` bytes, sign-extended.
#[inline(always)]
pub const fn sign_extend(value: u64, size: u32) -> u64 {
    match size {
        1 => value as i8 as i64 as u64,
        2 => value as i16 as i64 as u64,
        4 => value as i32 as i64 as u64,
        _ => value,
    }
}

/// `value`'s low `size` bytes, zero-extended.
#[inline(always)]
pub const fn zero_extend(value: u64, size: u32) -> u64 {
    match size {
        1 => value as u8 as u64,
        2 => value as u16 as u64,
        4 => value as u32 as u64,
        _ => value,
    }
}

/// Folds a vector of carries (bit n = carry out of bit n) into `aux` form.
#[inline(always)]
const fn aux_of_carries(carries: u64, size: u32) -> u64 {
    let bits = size * 8;
    (carries << (64 - bits)) & (AUX_CF | AUX_CARRY_IN) | carries & AUX_AF
}

impl Arith {
    /// Flags of AND, OR, XOR, TEST: CF = OF = 0; AF, undefined by the manual, is 0 here.
    #[inline(always)]
    pub fn set_logic(&mut self, result: u64, size: u32) {
        self.result = sign_extend(result, size);
        self.aux = 0;
    }

    /// Flags of `result = a + b (+ carry)`. Operands need not be zero-extended.
    #[inline(always)]
    pub fn set_add(&mut self, a: u64, b: u64, result: u64, size: u32) {
        let carries = (a & b) | ((a | b) & !result);
        self.result = sign_extend(result, size);
        self.aux = aux_of_carries(carries, size);
    }

    /// Flags of `result = a - b (- borrow)`.
    #[inline(always)]
    pub fn set_sub(&mut self, a: u64, b: u64, result: u64, size: u32) {
        let borrows = (!a & b) | ((!a | b) & result);
        self.result = sign_extend(result, size);
        self.aux = aux_of_carries(borrows, size);
    }

    /// Flags of INC: as `a + 1`, with CF left alone.
    #[inline(always)]
    pub fn set_inc(&mut self, a: u64, result: u64, size: u32) {
        let carry = self.cf();
        self.set_add(a, 1, result, size);
        self.replace_cf(carry);
    }

    /// Flags of DEC: as `a - 1`, with CF left alone.
    #[inline(always)]
    pub fn set_dec(&mut self, a: u64, result: u64, size: u32) {
        let carry = self.cf();
        self.set_sub(a, 1, result, size);
        self.replace_cf(carry);
    }

    /// Sets the result flags of `result`, with CF and OF as given and AF clear.
    #[inline(always)]
    pub fn set_result_cf_of(&mut self, result: u64, cf: bool, of: bool, size: u32) {
        self.result = sign_extend(result, size);
        self.aux = (cf as u64) << 63 | ((cf ^ of) as u64) << 62;
    }

    /// Flags of a product with the lower half `low`: CF and OF say that the upper half matters; the
    /// rest, undefined by the manual, are SF and PF of `low`, ZF = AF = 0 (docs/cpu-model.md).
    #[inline(always)]
    pub fn set_product(&mut self, low: u64, significant: bool, size: u32) {
        self.set_result_cf_of(low, significant, significant, size);
        // Another number with the sign and the low byte of zero.
        self.result |= ((self.result == 0) as u64) << 8;
    }

    /// Changes CF and keeps the other five.
    #[inline(always)]
    pub fn replace_cf(&mut self, cf: bool) {
        self.replace_cf_of(cf, self.of());
    }

    /// Changes CF and OF and keeps the other four (rotates).
    #[inline(always)]
    pub fn replace_cf_of(&mut self, cf: bool, of: bool) {
        self.aux =
            self.aux & !(AUX_CF | AUX_CARRY_IN) | (cf as u64) << 63 | ((cf ^ of) as u64) << 62;
    }

    /// CF.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.aux & AUX_CF != 0
    }
    /// PF.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result ^ self.aux >> 8) as u8).count_ones() & 1 == 0
    }
    /// AF.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.aux & AUX_AF != 0
    }
    /// ZF.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }
    /// SF.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        (self.result >> 63 ^ self.aux & AUX_SF) != 0
    }
    /// OF.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.aux >> 63 ^ self.aux >> 62) & 1 != 0
    }

    /// The condition `cc` (low four bits of Jcc, SETcc, CMOVcc opcodes; SDM vol. 1, appendix B).
    #[inline(always)]
    pub fn condition(&self, cc: u8) -> bool {
        let holds = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        holds ^ (cc & 1 != 0)
    }

    /// The six flags at their places in RFLAGS.
    #[inline]
    pub fn bits(&self) -> u64 {
        self.cf() as u64
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Sets all six from their places in RFLAGS.
    #[inline]
    pub fn set_bits(&mut self, bits: u64) {
        let zf = bits & rflags::ZF != 0;
        let sf = bits & rflags::SF != 0;
        let pf = bits & rflags::PF != 0;
        let cf = bits & rflags::CF;
        let of = bits >> 11 & 1;
        // A result of 1 has odd parity, of 0 even parity; the XOR byte mends what is left.
        self.result = if zf { 0 } else { 1 };
        self.aux = cf << 63
            | (cf ^ of) << 62
            | (((zf != pf) as u64) << 8)
            | bits >> 1 & AUX_AF
            | sf as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_combination_of_flags_survives_the_lazy_form() {
        for bits in 0..1u64 << 12 {
            let bits = bits & rflags::ARITHMETIC;
            let mut arith = Arith::default();
            arith.set_bits(bits);
            assert_eq!(arith.bits(), bits);
        }
    }

    #[test]
    fn eight_bit_sums_and_differences_have_the_manuals_flags() {
        for a in 0..=255u64 {
            for b in 0..=255u64 {
                let mut arith = Arith::default();
                let sum = a + b;
                arith.set_add(a, b, sum, 1);
                assert_eq!(arith.cf(), sum > 255);
                assert_eq!(arith.zf(), sum as u8 == 0);
                assert_eq!(arith.sf(), sum as u8 >= 128);
                assert_eq!(arith.af(), (a & 15) + (b & 15) > 15);
                assert_eq!(arith.pf(), (sum as u8).count_ones().is_multiple_of(2));
                let signed = a as i8 as i32 + b as i8 as i32;
                assert_eq!(arith.of(), !(-128..128).contains(&signed));
                let difference = a.wrapping_sub(b);
                arith.set_sub(a, b, difference, 1);
                assert_eq!(arith.cf(), a < b);
                assert_eq!(arith.af(), a & 15 < b & 15);
                let signed = a as i8 as i32 - b as i8 as i32;
                assert_eq!(arith.of(), !(-128..128).contains(&signed));
            }
        }
    }

    #[test]
    fn changing_cf_keeps_the_other_five() {
        for bits in 0..1u64 << 12 {
            let bits = bits & rflags::ARITHMETIC;
            for cf in [false, true] {
                let mut arith = Arith::default();
                arith.set_bits(bits);
                arith.replace_cf(cf);
                assert_eq!(arith.bits(), bits & !rflags::CF | cf as u64);
            }
        }
    }
}
