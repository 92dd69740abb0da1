//! What the architecture leaves open, and what the two vendors do differently: masked, each with its
//! reason. Everything else must agree.

use crate::shared::{COMPLETED, Outcome};
use crate::test_case::Test;
use iced_x86::{Mnemonic, OpKind, Register, RflagsBits};

/// Parts of an outcome that may differ.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// RFLAGS bits that are compared.
    pub flags: u64,
    /// Bits of each general register that are compared.
    pub gpr: [u64; 16],
    /// Bits of the x87 status word that are compared.
    pub status: u16,
    /// x87 registers may differ by this many units in the last place.
    pub ulps: u64,
    /// Bytes of the first memory operand that are not compared.
    pub memory: Option<std::ops::Range<u32>>,
    /// Lanes of XMM registers are approximations: only sign and exponent are compared.
    pub approximate: bool,
}

const ARITHMETIC_AND_DF: u64 = 0xcd5;

/// What to compare after a test that ended in `native`.
pub fn allowance(test: &Test, native: &Outcome) -> Allowance {
    let i = &test.instruction;
    let mut allowed = Allowance {
        flags: ARITHMETIC_AND_DF,
        gpr: [u64::MAX; 16],
        status: u16::MAX,
        ulps: 0,
        memory: None,
        approximate: false,
    };
    if native.vector != COMPLETED {
        return allowed;
    }
    allowed.flags &= !undefined_flags(test);
    results(test, &mut allowed);
    x87(i.mnemonic(), &mut allowed);
    allowed
}

/// The flags that the manual leaves undefined, as RFLAGS bits.
fn undefined_flags(test: &Test) -> u64 {
    let i = &test.instruction;
    let bits = i.rflags_undefined();
    let mut mask = 0;
    for (bit, place) in [
        (RflagsBits::OF, 11),
        (RflagsBits::SF, 7),
        (RflagsBits::ZF, 6),
        (RflagsBits::AF, 4),
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
    ] {
        if bits & bit != 0 {
            mask |= 1 << place;
        }
    }
    if let Some(count) = shift_count(test) {
        match count {
            // No flag is touched (SDM vol. 2, SAL/SAR/SHL/SHR and RCL/RCR/ROL/ROR).
            0 => mask = 0,
            // OF is defined for a shift by one.
            1 => mask &= !(1 << 11),
            _ => mask |= 1 << 11,
        }
        let width = operand_bits(test);
        let is_shift = matches!(i.mnemonic(), Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sal);
        if is_shift && count >= width {
            // "The CF flag is undefined for SHL and SHR instructions where the count is greater than
            // or equal to the size of the destination operand."
            mask |= 1;
        }
        if is_double_shift(i.mnemonic()) && count > width {
            mask |= 0x8d5;
        }
    }
    mask
}

fn operand_bits(test: &Test) -> u64 {
    let i = &test.instruction;
    8 * match i.op0_kind() {
        OpKind::Register => i.op0_register().size() as u64,
        _ => i.memory_size().size() as u64,
    }
}

fn is_double_shift(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Shld | Mnemonic::Shrd)
}

/// The masked count of a shift or rotate.
fn shift_count(test: &Test) -> Option<u64> {
    let i = &test.instruction;
    let n = match i.mnemonic() {
        Mnemonic::Shl
        | Mnemonic::Shr
        | Mnemonic::Sal
        | Mnemonic::Sar
        | Mnemonic::Rol
        | Mnemonic::Ror
        | Mnemonic::Rcl
        | Mnemonic::Rcr => 1,
        Mnemonic::Shld | Mnemonic::Shrd => 2,
        _ => return None,
    };
    let count = match i.op_kind(n) {
        OpKind::Register => test.case.gpr[1],
        _ => i.immediate(n),
    };
    Some(count & if operand_bits(test) == 64 { 63 } else { 31 })
}

/// Results in general registers and memory.
fn results(test: &Test, allowed: &mut Allowance) {
    let i = &test.instruction;
    let destination = i.op0_register();
    match i.mnemonic() {
        Mnemonic::Shld | Mnemonic::Shrd
            if shift_count(test).is_some_and(|count| count > operand_bits(test)) =>
        {
            // "If the count is greater than the operand size, the result is undefined." AMD and Intel
            // differ in what they rotate in.
            if i.op0_kind() == OpKind::Register {
                mask_register(allowed, destination);
            } else {
                allowed.memory = Some(0..2);
            }
        }
        Mnemonic::Bsf | Mnemonic::Bsr => {
            // Source zero: the manual of Intel says undefined; AMD says unchanged, and so do all
            // known CPUs of Intel but for bits 63:32 of a 32-bit destination (which AMD and newer
            // CPUs of Intel keep and older ones clear).
            if destination.size() == 4 {
                allowed.gpr[destination.full_register().number() & 15] &= 0xffff_ffff;
            }
        }
        Mnemonic::Bswap if destination.size() == 2 => {
            // "When the BSWAP instruction references a 16-bit register, the result is undefined."
            mask_register(allowed, destination);
        }
        Mnemonic::Fnstenv => allowed.memory = Some(environment(i.memory_size().size() as u32)),
        Mnemonic::Fnsave => {
            let environment_bytes = if i.memory_size().size() == 94 { 14 } else { 28 };
            allowed.memory = Some(environment(environment_bytes));
        }
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
            // "Relative error <= 1.5 * 2^-12": every vendor has its own table.
            allowed.approximate = true;
        }
        _ => {}
    }
}

/// The pointers in an x87 environment: AMD stores them only while an exception is pending, Intel
/// always (and the selectors as zero in new CPUs).
fn environment(bytes: u32) -> std::ops::Range<u32> {
    if bytes == 14 { 6..14 } else { 12..28 }
}

fn mask_register(allowed: &mut Allowance, register: Register) {
    let n = register.full_register().number() & 15;
    allowed.gpr[n] &= match register.size() {
        2 => !0xffff,
        4 => !0xffff_ffff,
        _ => 0,
    };
}

/// x87 condition codes and accuracy.
fn x87(mnemonic: Mnemonic, allowed: &mut Allowance) {
    use Mnemonic as M;
    match mnemonic {
        M::Fsin
        | M::Fcos
        | M::Fsincos
        | M::Fptan
        | M::Fpatan
        | M::F2xm1
        | M::Fyl2x
        | M::Fyl2xp1 => {
            // "Transcendental instructions ... accurate to within one ulp": each CPU rounds its own
            // way, so C1 (rounded up) and the precision flag follow the last bit.
            allowed.ulps = 2;
            allowed.status &= !(1 << 9 | 1 << 5);
        }
        _ => {}
    }
}
