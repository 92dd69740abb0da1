//! What the architecture leaves open, and what the two vendors do differently: masked, each with its
//! reason. Everything else must agree.

use crate::newer;
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
    /// What the instruction pushes is not compared.
    pub pushed: bool,
    /// The operand faults, but how the CPU tells of it is its own affair: vector, error code and CR2
    /// are not compared.
    pub fault: bool,
    /// Nothing of the x87 state is compared.
    pub x87: bool,
    /// Nothing at all is compared.
    pub everything: bool,
    /// Lanes of XMM registers are approximations.
    pub approximate: bool,
    /// Lanes of XMM registers that have so many bits may be other quiet NaNs; 0: none may.
    pub other_nan_bits: u32,
}

const ARITHMETIC_AND_DF: u64 = 0xcd5;

impl Allowance {
    /// Everything must agree.
    pub fn exact() -> Allowance {
        Allowance {
            flags: u64::MAX,
            gpr: [u64::MAX; 16],
            status: u16::MAX,
            ulps: 0,
            memory: None,
            pushed: false,
            approximate: false,
            other_nan_bits: 0,
            fault: false,
            x87: false,
            everything: false,
        }
    }
}

/// What to compare after a test that ended in `native`.
pub fn allowance(test: &Test, native: &Outcome) -> Allowance {
    let mut allowed = Allowance { flags: ARITHMETIC_AND_DF, ..Allowance::exact() };
    newer::allow(test, native, &mut allowed);
    if native.vector != COMPLETED {
        exceptions(test, native, &mut allowed);
        return allowed;
    }
    allowed.flags &= !undefined_flags(test);
    results(test, &mut allowed);
    x87(test, native, &mut allowed);
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
        Mnemonic::Bsf | Mnemonic::Bsr if destination.size() == 4 => {
            // Source zero: the manual of Intel says undefined; AMD says unchanged, and so do all
            // known CPUs of Intel but for bits 63:32 of a 32-bit destination (which AMD and newer
            // CPUs of Intel keep and older ones clear).
            allowed.gpr[destination.full_register().number() & 15] &= 0xffff_ffff;
        }
        Mnemonic::Bswap if destination.size() == 2 => {
            // "When the BSWAP instruction references a 16-bit register, the result is undefined."
            mask_register(allowed, destination);
        }
        Mnemonic::Push if i.op0_register().is_segment_register() => {
            // A 32-bit push of a segment register: AMD writes zeros above the selector, newer CPUs of
            // Intel and the model leave what is there (SDM vol. 2B, PUSH).
            allowed.memory = Some(2..4);
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

/// The conversions between MMX and XMM registers.
fn converts_mmx(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cvtpd2pi
            | Mnemonic::Cvttpd2pi
            | Mnemonic::Cvtps2pi
            | Mnemonic::Cvttps2pi
            | Mnemonic::Cvtpi2ps
            | Mnemonic::Cvtpi2pd
    )
}

/// What is open when the host's CPU raised an exception.
fn exceptions(test: &Test, native: &Outcome, allowed: &mut Allowance) {
    use Mnemonic as M;
    let is_memory_fault = matches!(native.vector, 12..=14);
    let has_base = matches!(test.instruction.memory_segment(), Register::FS | Register::GS);
    let is_canonical = |at: u64| (at as i64) << 16 >> 16 == at as i64;
    let is_bit_string = matches!(
        test.instruction.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if matches!(native.vector, 12 | 13)
        && has_base
        && (is_bit_string || test.accesses.iter().all(|access| is_canonical(access.at)))
    {
        // AMD wants the offset to be canonical as well as the address with FS or GS base added;
        // Intel looks at the sum.
        allowed.everything = true;
        return;
    }
    match test.instruction.mnemonic() {
        M::Push if test.instruction.op0_register().is_segment_register() => {
            // AMD's store is four bytes wide and may fault where the model's, of two, does not.
            allowed.everything = true;
        }
        M::Call => {
            // Both the stack and the target may be bad: AMD pushes first, the model checks the target
            // first, as Intel's manual lists it.
            allowed.fault = true;
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
            // AMD reads the operand at RDI first, Intel's manual lists the other one first; if both
            // fault, either may be told of.
            allowed.fault = true;
        }
        M::Popa | M::Popad => {
            // AMD writes each register as it is read, so that a fault half-way leaves some changed;
            // Intel writes them at the end.
            for n in [0, 1, 2, 3, 5, 6, 7] {
                allowed.gpr[n] = 0;
            }
        }
        M::Fnstenv | M::Fnsave | M::Fldenv | M::Frstor => {
            // Made of several accesses, in an order that is the implementation's.
            allowed.fault = true;
        }
        M::Maskmovq | M::Maskmovdqu => {
            // AMD checks all bytes of the operand, the selected ones or not ("implementation-
            // dependent" if none is), and MASKMOVQ switches to MMX before it does.
            allowed.everything = true;
        }
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp | M::Fstpnce
            if is_memory_fault && has_unmasked(test, 0x3f) =>
        {
            // AMD translates the address first; the model finds the unmasked exception first, which
            // suppresses the store and with it the fault.
            allowed.everything = true;
        }
        mnemonic if converts_mmx(mnemonic) => {
            // AMD switches to MMX before it raises #XM, Intel does not say; and see `x87`.
            allowed.x87 = true;
            allowed.everything = mnemonic == M::Cvtpi2ps && test.case.fx[2] & 0x80 != 0;
        }
        _ if is_memory_fault && test.instruction.memory_size().size() == 10 => {
            // Ten bytes are two accesses, of which the first may fault before the second is looked
            // at.
            allowed.fault = true;
        }
        _ => {}
    }
}

/// Some of these x87 exceptions are unmasked.
pub(crate) fn has_unmasked(test: &Test, exceptions: u8) -> bool {
    !test.case.fx[0] & exceptions != 0
}

/// The biased exponent of an x87 register on the way in; that of denormals is 0.
pub(crate) fn exponent(test: &Test, n: usize) -> u16 {
    let at = 32 + 16 * n + 8;
    u16::from_le_bytes([test.case.fx[at], test.case.fx[at + 1]]) & 0x7fff
}

const IE: u16 = 1;
const DE: u16 = 1 << 1;
const PE: u16 = 1 << 5;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;

/// x87 condition codes and accuracy.
fn x87(test: &Test, native: &Outcome, allowed: &mut Allowance) {
    use Mnemonic as M;
    let i = &test.instruction;
    let status = u16::from_le_bytes([native.fx[2], native.fx[3]]);
    match i.mnemonic() {
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
            allowed.status &= !(C1 | PE);
            // Outside (-1, 1) and outside 1 - sqrt(1/2) "the result is undefined".
            let limit = if i.mnemonic() == M::Fyl2xp1 { 0x3ffd } else { 0x3fff };
            let is_limited = matches!(i.mnemonic(), M::Fyl2xp1 | M::F2xm1);
            if is_limited && exponent(test, 0) >= limit {
                allowed.x87 = true;
            }
        }
        M::Fcom
        | M::Fcomp
        | M::Fcompp
        | M::Ficom
        | M::Ficomp
        | M::Fucom
        | M::Fucomp
        | M::Fucompp
        | M::Ftst
            if status & (IE | DE) != 0 && has_unmasked(test, 3) =>
        {
            // Intel leaves the condition codes alone if the exception is unmasked, AMD sets them.
            allowed.status &= !(C0 | C2 | C3);
        }
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => {
            // The flags if the exception is unmasked: as for FCOM.
            if status & (IE | DE) != 0 && has_unmasked(test, 3) {
                allowed.flags &= !0x8d5;
            }
            // "C1: set to 0" says Intel; AMD leaves it alone.
            allowed.status &= !C1;
        }
        M::Fprem | M::Fprem1 if status & C2 != 0 => {
            // How far a partial reduction goes is up to the implementation.
            allowed.x87 = true;
        }
        M::Fstpnce => {
            // Not documented: what an empty ST(0) does to the destination's tag is anyone's guess.
            allowed.x87 = true;
        }
        M::Cvtpi2ps if i.op1_kind() == OpKind::Memory => {
            // Switches to MMX on Intel ("causes a transition"), not on AMD, which does not look for
            // pending x87 exceptions either.
            allowed.x87 = true;
            allowed.everything = test.case.fx[2] & 0x80 != 0;
        }
        M::Ldmxcsr => {
            // Bit 17, misaligned exception mask: AMD's alone, reserved on Intel and in the model.
            let mxcsr = u32::from_le_bytes([24, 25, 26, 27].map(|n| native.fx[n]));
            allowed.everything = mxcsr & 1 << 17 != 0;
        }
        _ => {}
    }
}
