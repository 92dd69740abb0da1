//! What newer processors of Intel's (seen on one with AVX-512 FP16 and AMX) do otherwise than older ones, which are the model's: the
//! order of checks where an operand faults, and halves of registers and results that nobody relies on.

use crate::shared::{COMPLETED, Outcome};
use crate::test_case::Test;
use crate::undefined::{Allowance, exponent, has_unmasked};
use iced_x86::{CodeSize, Mnemonic, OpKind};

/// Of 32-bit linear addresses.
const LAST_PAGE: std::ops::RangeInclusive<u64> = 0xffff_f000..=0xffff_ffff;
/// Underflow, in the x87 status word and control word.
const UE: u8 = 1 << 4;
/// The biased exponent of 1.0, and that of infinities.
const OF_ONE: u16 = 0x3fff;
const OF_INFINITY: u16 = 0x7fff;
/// CF, PF, AF, ZF, SF, OF.
const ARITHMETIC: u64 = 0x8d5;
/// RCX, RSI, RDI.
const STRING_REGISTERS: [usize; 3] = [1, 6, 7];

/// Adds to what may differ after a test that ended in `native`.
pub fn allow(test: &Test, native: &Outcome, allowed: &mut Allowance) {
    use Mnemonic as M;
    let i = &test.instruction;
    if has_short_string_operand(test) {
        // With 32-bit addresses in 64-bit mode, bits 63:32 are cleared even where nothing was moved, or a fault comes first.
        for n in STRING_REGISTERS {
            allowed.gpr[n] &= 0xffff_ffff;
        }
    }
    if native.vector != COMPLETED {
        fault(test, native, allowed);
        return;
    }
    match i.mnemonic() {
        // Which of several NaNs the sum is.
        M::Dpps => allowed.other_nan_bits = 32,
        M::Dppd => allowed.other_nan_bits = 64,
        // The sine of the tiniest numbers is about themselves, and where that is an underflow which is not masked, differs too.
        M::Fsin | M::Fsincos if exponent(test, 0) <= 1 && has_unmasked(test, UE) => {
            allowed.x87 = true;
        }
        // Whether a denormal result is told of as an underflow.
        M::Fsin
        | M::Fcos
        | M::Fsincos
        | M::Fptan
        | M::Fpatan
        | M::F2xm1
        | M::Fyl2x
        | M::Fyl2xp1 => allowed.status &= !u16::from(UE),
        // The result is ST(0), a denormal: an underflow that is not masked, or nothing.
        M::Fprem | M::Fprem1 if is_denormal(test) && exponent(test, 1) == OF_INFINITY => {
            allowed.x87 = true;
        }
        M::Fscale if is_denormal(test) && exponent(test, 1) < OF_ONE => allowed.x87 = true,
        _ => {}
    }
}

fn fault(test: &Test, native: &Outcome, allowed: &mut Allowance) {
    use Mnemonic as M;
    let i = &test.instruction;
    if i.code_size() == CodeSize::Code32 && LAST_PAGE.contains(&native.cr2) {
        // An operand that goes beyond 4 GiB: its page is looked at before the segment's limit.
        allowed.fault = true;
    }
    match i.mnemonic() {
        // The first bound may be exceeded where the second faults.
        M::Bound => allowed.fault = true,
        // What is pushed is written before the target is found bad.
        M::Call => allowed.pushed = true,
        // The flags of the last element that was compared, where the next one faults.
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
            allowed.flags &= !ARITHMETIC;
        }
        // Ten bytes are two stores, of which the first may be done when the second faults.
        M::Fstp | M::Fbstp if i.memory_size().size() == 10 => allowed.memory = Some(0..10),
        // The switch to MMX comes behind the store.
        M::Movd | M::Movq | M::Movntq
            if i.op0_kind() == OpKind::Memory && i.op1_register().is_mm() =>
        {
            allowed.x87 = true;
        }
        _ => {}
    }
}

/// A string instruction of 64-bit code whose addresses have 32 bits.
fn has_short_string_operand(test: &Test) -> bool {
    let i = &test.instruction;
    let is_short = |n| {
        matches!(i.op_kind(n), OpKind::MemoryESEDI | OpKind::MemorySegESI | OpKind::MemorySegEDI)
    };
    i.code_size() == CodeSize::Code64 && (0..i.op_count()).any(is_short)
}

/// ST(0) is a denormal, and an underflow would be told of.
fn is_denormal(test: &Test) -> bool {
    exponent(test, 0) == 0 && has_unmasked(test, UE)
}
