//! The operations that IEEE 754 and the manual define to the bit, done by the host's own x87.
//!
//! Add, subtract, multiply, divide, square root, rounding, scaling, remainder (complete), extraction,
//! comparison and conversion have one right answer on every vendor's processor, so what these return
//! does not depend on the host. Anything else (transcendentals, partial remainders) is not here.
//!
//! UNSAFETY: each function is one `asm!` block that saves the host's control word, clears the host's
//! exception flags, loads the guest's precision and rounding control with every exception masked
//! (so that nothing can trap), operates on values in memory, reads the status word and restores the
//! control word. The blocks touch only the locals whose addresses they are given and the x87 stack,
//! all eight registers of which are declared clobbered: so the stack is empty at entry, and every
//! block pops what it pushes. Exception flags left in the host's status word are caller-saved by the
//! ABI. The guest's values never stay in the host's FPU.
#![expect(unsafe_code, reason = "x87 arithmetic has no intrinsics; see UNSAFETY above")]

use super::plain;
use crate::fpu::{F80, status};
use std::arch::asm;

/// Precision and rounding control: what a guest's control word may choose here.
const MODES: u16 = 0xf00;
/// All six exceptions masked, and the reserved bit that always reads one.
const MASKED: u16 = 0x7f;

/// A result and what the status word said after it: exception flags and condition codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) value: F80,
    pub(crate) status: u16,
}

impl Outcome {
    /// The exceptions raised, with C1 set if the result was rounded away from zero. C1 means that
    /// only when the result was inexact.
    pub(crate) fn raised(&self) -> u16 {
        raised(self.status)
    }
}

/// See [`Outcome::raised`].
pub(crate) fn raised(word: u16) -> u16 {
    let c1 = if word & status::PE != 0 { status::C1 } else { 0 };
    word & (status::EXCEPTIONS | c1)
}

/// The control word for the host. PC = 1 is reserved; the model takes it for extended precision.
#[inline(always)]
fn modes(control: u16) -> u16 {
    (control | (control & 0x100) << 1) & MODES | MASKED
}

/// Runs x87 instructions under a guest's precision and rounding control; `fnstsw ax` among them.
macro_rules! x87 {
    ($control:expr, [$($line:literal),*], $($name:ident = $pointer:expr),*) => {{
        let mut saved = 0u16;
        let control: u16 = modes($control);
        let word: u16;
        // SAFETY: see the module: masked exceptions, own locals, a stack left as it was.
        unsafe {
            asm!(
                "fnstcw word ptr [{saved}]",
                "fnclex",
                "fldcw word ptr [{control}]",
                $($line,)*
                "fldcw word ptr [{saved}]",
                saved = in(reg) &raw mut saved,
                control = in(reg) &raw const control,
                $($name = in(reg) $pointer,)*
                out("ax") word,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                options(nostack),
            );
        }
        word
    }};
}

/// `ST(0) = f(ST(0))`.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(control: u16, st0: F80) -> Outcome {
            let mut value = F80::default();
            let status = x87!(
                control,
                ["fld tbyte ptr [{st0}]", $instruction, "fnstsw ax", "fstp tbyte ptr [{value}]"],
                st0 = &raw const st0, value = &raw mut value
            );
            Outcome { value, status }
        }
    )*};
}
unary! {
    /// FSQRT.
    square_root "fsqrt";
    /// FRNDINT.
    round_to_integer "frndint";
}

/// `ST(0) = f(ST(0), ST(1))`.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(control: u16, st0: F80, st1: F80) -> Outcome {
            let mut value = F80::default();
            let status = x87!(
                control,
                ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]", $instruction, "fnstsw ax",
                 "fstp tbyte ptr [{value}]", "fstp st(0)"],
                st0 = &raw const st0, st1 = &raw const st1, value = &raw mut value
            );
            Outcome { value, status }
        }
    )*};
}
binary! {
    /// FSCALE.
    scale "fscale";
    /// FPREM. Incomplete reductions (C2 = 1) differ between vendors: do not ask for one.
    remainder "fprem";
    /// FPREM1, with the same limit.
    remainder_nearest "fprem1";
}

/// FXTRACT: the significand (new ST(0)), the exponent (new ST(1)) and the status word.
pub(crate) fn extract(control: u16, st0: F80) -> (F80, F80, u16) {
    let (mut significand, mut exponent) = (F80::default(), F80::default());
    let word = x87!(
        control,
        [
            "fld tbyte ptr [{st0}]",
            "fxtract",
            "fnstsw ax",
            "fstp tbyte ptr [{significand}]",
            "fstp tbyte ptr [{exponent}]"
        ],
        st0 = &raw const st0,
        significand = &raw mut significand,
        exponent = &raw mut exponent
    );
    (significand, exponent, word)
}

/// The second operand of an arithmetic instruction or comparison, in its own format.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// A register.
    Register(F80),
    /// m32fp.
    Single(u32),
    /// m64fp.
    Double(u64),
    /// m16int.
    Word(u16),
    /// m32int.
    Dword(u32),
}

/// How the magnitude of a result follows from those of the operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// With both alike.
    Sum,
    /// With the product.
    Product,
    /// With destination / source.
    Quotient,
    /// With source / destination.
    QuotientReversed,
}

/// The operation, without the host where possible.
#[inline]
pub(crate) fn perform<A: Arithmetic>(control: u16, destination: F80, source: Source) -> Outcome {
    plain::operand(source)
        .and_then(|source| A::plain(control, destination, source))
        .unwrap_or_else(|| A::apply(control, destination, source))
}

/// An instruction with register, m32fp, m64fp, m16int and m32int forms.
pub(crate) trait Arithmetic {
    /// How to scale operands for a bias-adjusted result.
    const SCALING: Scaling;
    /// The same operation without the host, where that is easy.
    fn plain(control: u16, destination: F80, source: F80) -> Option<Outcome>;
    /// `destination OP source`.
    fn apply(control: u16, destination: F80, source: Source) -> Outcome;
}

macro_rules! arithmetic {
    ($($(#[$doc:meta])* $name:ident $scaling:ident $plain:expr, $register:literal $single:literal $double:literal
        $word:literal $dword:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Arithmetic for $name {
            const SCALING: Scaling = Scaling::$scaling;
            #[inline]
            fn plain(control: u16, destination: F80, source: F80) -> Option<Outcome> {
                $plain(control, destination, source)
            }
            #[inline]
            fn apply(control: u16, destination: F80, source: Source) -> Outcome {
                let mut value = F80::default();
                macro_rules! memory {
                    ($instruction:literal, $operand:expr) => {
                        x87!(
                            control,
                            ["fld tbyte ptr [{st0}]", $instruction, "fnstsw ax",
                             "fstp tbyte ptr [{value}]"],
                            st0 = &raw const destination,
                            source = $operand,
                            value = &raw mut value
                        )
                    };
                }
                let status = match source {
                    Source::Register(source) => x87!(
                        control,
                        ["fld tbyte ptr [{source}]", "fld tbyte ptr [{st0}]", $register,
                         "fnstsw ax", "fstp tbyte ptr [{value}]", "fstp st(0)"],
                        st0 = &raw const destination,
                        source = &raw const source,
                        value = &raw mut value
                    ),
                    Source::Single(source) => memory!($single, &raw const source),
                    Source::Double(source) => memory!($double, &raw const source),
                    Source::Word(source) => memory!($word, &raw const source),
                    Source::Dword(source) => memory!($dword, &raw const source),
                };
                Outcome { value, status }
            }
        }
    )*};
}
arithmetic! {
    /// FADD, FIADD.
    Add Sum plain::add, "fadd st(0), st(1)" "fadd dword ptr [{source}]" "fadd qword ptr [{source}]"
        "fiadd word ptr [{source}]" "fiadd dword ptr [{source}]";
    /// FMUL, FIMUL.
    Multiply Product plain::multiply, "fmul st(0), st(1)" "fmul dword ptr [{source}]" "fmul qword ptr [{source}]"
        "fimul word ptr [{source}]" "fimul dword ptr [{source}]";
    /// FSUB, FISUB: `destination - source`.
    Subtract Sum (|control, a, b| plain::add(control, a, plain::negated(b))), "fsub st(0), st(1)" "fsub dword ptr [{source}]" "fsub qword ptr [{source}]"
        "fisub word ptr [{source}]" "fisub dword ptr [{source}]";
    /// FSUBR, FISUBR: `source - destination`.
    SubtractReversed Sum (|control, a, b| plain::add(control, plain::negated(a), b)), "fsubr st(0), st(1)" "fsubr dword ptr [{source}]" "fsubr qword ptr [{source}]"
        "fisubr word ptr [{source}]" "fisubr dword ptr [{source}]";
    /// FDIV, FIDIV: `destination / source`.
    Divide Quotient plain::divide, "fdiv st(0), st(1)" "fdiv dword ptr [{source}]" "fdiv qword ptr [{source}]"
        "fidiv word ptr [{source}]" "fidiv dword ptr [{source}]";
    /// FDIVR, FIDIVR: `source / destination`.
    DivideReversed QuotientReversed (|control, a, b| plain::divide(control, b, a)), "fdivr st(0), st(1)" "fdivr dword ptr [{source}]" "fdivr qword ptr [{source}]"
        "fidivr word ptr [{source}]" "fidivr dword ptr [{source}]";
    /// FCOM, FICOM: the value is the destination; the answer is in the condition codes.
    Compare Sum (|_, a, b| plain::compare(a, b).map(|status| Outcome { value: a, status })), "fcom st(1)" "fcom dword ptr [{source}]" "fcom qword ptr [{source}]"
        "ficom word ptr [{source}]" "ficom dword ptr [{source}]";
}

/// FUCOM: the status word after the comparison.
pub(crate) fn compare_unordered(control: u16, st0: F80, st1: F80) -> u16 {
    x87!(
        control,
        ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]", "fucompp", "fnstsw ax"],
        st0 = &raw const st0,
        st1 = &raw const st1
    )
}

/// FTST: the status word after the comparison with +0.
pub(crate) fn test(control: u16, st0: F80) -> u16 {
    x87!(
        control,
        ["fld tbyte ptr [{st0}]", "ftst", "fnstsw ax", "fstp st(0)"],
        st0 = &raw const st0
    )
}

/// Conversions to memory formats: the bytes as a number, and the status word.
macro_rules! store {
    ($($(#[$doc:meta])* $name:ident $type:ty, $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(control: u16, st0: F80) -> ($type, u16) {
            let mut value: $type = 0;
            let word = x87!(
                control,
                ["fld tbyte ptr [{st0}]", $instruction, "fnstsw ax"],
                st0 = &raw const st0, value = &raw mut value
            );
            (value, word)
        }
    )*};
}
store! {
    /// FSTP m32fp.
    store_single u32, "fstp dword ptr [{value}]";
    /// FSTP m64fp.
    store_double u64, "fstp qword ptr [{value}]";
    /// FISTP m16int.
    store_word u16, "fistp word ptr [{value}]";
    /// FISTP m32int.
    store_dword u32, "fistp dword ptr [{value}]";
    /// FISTP m64int.
    store_qword u64, "fistp qword ptr [{value}]";
    /// FISTTP m16int.
    truncate_word u16, "fisttp word ptr [{value}]";
    /// FISTTP m32int.
    truncate_dword u32, "fisttp dword ptr [{value}]";
    /// FISTTP m64int.
    truncate_qword u64, "fisttp qword ptr [{value}]";
    /// FBSTP: the low 80 bits.
    store_bcd u128, "fbstp tbyte ptr [{value}]";
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: F80 = F80 { significand: 1 << 63, sign_exponent: 0x3fff };
    const THREE: F80 = F80 { significand: 3 << 62, sign_exponent: 0x4000 };

    fn host_control() -> u16 {
        let mut word = 0u16;
        // SAFETY: stores the control word to a local.
        unsafe { asm!("fnstcw word ptr [{}]", in(reg) &raw mut word, options(nostack)) };
        word
    }

    #[test]
    fn precision_and_rounding_are_the_guests_and_the_hosts_come_back() {
        let before = host_control();
        let third = |control| Divide::apply(control, ONE, Source::Register(THREE));
        let nearest = third(0x37f);
        assert_eq!(nearest.value.significand, 0xaaaa_aaaa_aaaa_aaab);
        assert_eq!(nearest.raised(), status::PE | status::C1);
        let down = third(0x77f);
        assert_eq!(down.value.significand, 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(down.raised(), status::PE);
        assert_eq!(third(0x07f).value.significand, 0xaaaa_ab00_0000_0000);
        assert_eq!(third(0x27f).value.significand, 0xaaaa_aaaa_aaaa_a800);
        // An unmasked guest control word does not trap on the host.
        assert_eq!(third(0x340).raised(), status::PE | status::C1);
        assert_eq!(host_control(), before);
    }
}
