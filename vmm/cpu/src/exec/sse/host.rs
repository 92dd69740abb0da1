//! Floating-point operations on the host's own SSE unit, under the guest's MXCSR.
//!
//! UNSAFETY: inline assembly is the only way to compute under another rounding mode, DAZ or FTZ and
//! to read the exception flags back: the compiler may move or fold an intrinsic as if MXCSR were the
//! default. Each block loads MXCSR, executes one operation on registers, stores MXCSR and puts the
//! default back, so no Rust code ever runs under other control bits; it touches no memory but the
//! locals whose addresses it is given, and no stack. All exceptions are masked while it runs
//! (asserted), so it cannot trap. The sticky flags of the host's MXCSR are left changed, which
//! inline assembly may do.
//!
//! These operations are exact functions of operands and control bits on every x86 CPU, so results
//! do not depend on the host. Only SSE2 is used, which every x86-64 host has.
#![expect(unsafe_code, reason = "the host's SSE unit under the guest's MXCSR; see UNSAFETY above")]

use super::mxcsr::{DEFAULT, EXISTING, FLAGS, MASKS};
use std::arch::asm;
use std::arch::x86_64::__m128i;
use std::mem::transmute;

/// An arithmetic operation `a OP b`. The square root is that of `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
}

/// Which lanes an operation works on; the scalar shapes keep the other lanes of `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Ps,
    Pd,
    Ss,
    Sd,
}

/// A conversion of `b`; the scalar ones keep the other lanes of `a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    Dq2Ps,
    Ps2Dq,
    TruncatePs2Dq,
    Pd2Dq,
    TruncatePd2Dq,
    Ps2Pd,
    Pd2Ps,
    Ss2Sd,
    Sd2Ss,
}

/// A conversion of the low lane to a signed integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToInteger {
    Ss32,
    Ss64,
    Sd32,
    Sd64,
    TruncateSs32,
    TruncateSs64,
    TruncateSd32,
    TruncateSd64,
}

/// A conversion of a 64-bit signed integer, into the low lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromInteger {
    Ss64,
    Sd64,
}

/// Runs one instruction, given as an assembly template over the operands that follow, of which the
/// first names a variable, its initial value, and receives the result. Gives the result and MXCSR
/// after the instruction.
///
/// Under default control bits the host's MXCSR need not be loaded (half of the cost): leftover sticky
/// flags in it can only add to what is read back, so if that is a subset of the guest's flags, then
/// the instruction raised none that the guest did not have. If not, it is executed again starting
/// from the guest's own flags.
macro_rules! run {
    ($mxcsr:expr, $template:expr, let $result:ident = $initial:expr; $($operands:tt)*) => {{
        let guest: u32 = $mxcsr;
        let initial = $initial;
        let mut after = 0u32;
        let mut quick = None;
        if guest & !FLAGS == DEFAULT {
            let mut $result = initial;
            // SAFETY: see UNSAFETY above; MXCSR holds the default control bits, as `guest` does.
            unsafe {
                asm!(
                    $template,
                    "stmxcsr [{after}]",
                    $($operands)*,
                    after = in(reg) &raw mut after,
                    options(nostack)
                );
            }
            if after & FLAGS & !guest == 0 {
                quick = Some($result);
            }
        }
        match quick {
            Some(result) => (result, guest),
            None => {
                assert!(guest & MASKS == MASKS && guest & !EXISTING == 0, "it must not trap");
                after = guest;
                let default = DEFAULT;
                let mut $result = initial;
                // SAFETY: see UNSAFETY above; all exceptions are masked, no reserved bit is set.
                unsafe {
                    asm!(
                        "ldmxcsr [{after}]",
                        $template,
                        "stmxcsr [{after}]",
                        "ldmxcsr [{default}]",
                        $($operands)*,
                        after = in(reg) &raw mut after,
                        default = in(reg) &raw const default,
                        options(nostack)
                    );
                }
                ($result, after)
            }
        }
    }};
}

/// An XMM register's content in the type that inline assembly wants.
#[inline(always)]
pub(super) fn vector(value: u128) -> __m128i {
    // SAFETY: both are 16 bytes of plain data; any bit pattern is valid.
    unsafe { transmute(value) }
}

/// The inverse of [`vector`].
#[inline(always)]
pub(super) fn bits(vector: __m128i) -> u128 {
    // SAFETY: as for `vector`.
    unsafe { transmute(vector) }
}

/// `a OP b` under `mxcsr`, whose exceptions must all be masked. Gives the result and MXCSR after it.
#[inline(always)]
pub(super) fn arithmetic(op: Op, shape: Shape, a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
    let (a, b) = (vector(a), vector(b));
    macro_rules! this {
        ($name:literal) => {
            run!(mxcsr, concat!($name, " {r}, {b}"),
                let r = a; r = inout(xmm_reg) r, b = in(xmm_reg) b)
        };
    }
    let (result, mxcsr) = match (op, shape) {
        (Op::Add, Shape::Ps) => this!("addps"),
        (Op::Add, Shape::Pd) => this!("addpd"),
        (Op::Add, Shape::Ss) => this!("addss"),
        (Op::Add, Shape::Sd) => this!("addsd"),
        (Op::Sub, Shape::Ps) => this!("subps"),
        (Op::Sub, Shape::Pd) => this!("subpd"),
        (Op::Sub, Shape::Ss) => this!("subss"),
        (Op::Sub, Shape::Sd) => this!("subsd"),
        (Op::Mul, Shape::Ps) => this!("mulps"),
        (Op::Mul, Shape::Pd) => this!("mulpd"),
        (Op::Mul, Shape::Ss) => this!("mulss"),
        (Op::Mul, Shape::Sd) => this!("mulsd"),
        (Op::Div, Shape::Ps) => this!("divps"),
        (Op::Div, Shape::Pd) => this!("divpd"),
        (Op::Div, Shape::Ss) => this!("divss"),
        (Op::Div, Shape::Sd) => this!("divsd"),
        (Op::Sqrt, Shape::Ps) => this!("sqrtps"),
        (Op::Sqrt, Shape::Pd) => this!("sqrtpd"),
        (Op::Sqrt, Shape::Ss) => this!("sqrtss"),
        (Op::Sqrt, Shape::Sd) => this!("sqrtsd"),
    };
    (bits(result), mxcsr)
}

/// Converts `b` under `mxcsr`, whose exceptions must all be masked. Gives the result and MXCSR after
/// it.
#[inline(always)]
pub(super) fn convert(conversion: Conversion, a: u128, b: u128, mxcsr: u32) -> (u128, u32) {
    let (a, b) = (vector(a), vector(b));
    macro_rules! this {
        ($name:literal) => {
            run!(mxcsr, concat!($name, " {r}, {b}"),
                let r = a; r = inout(xmm_reg) r, b = in(xmm_reg) b)
        };
    }
    let (result, mxcsr) = match conversion {
        Conversion::Dq2Ps => this!("cvtdq2ps"),
        Conversion::Ps2Dq => this!("cvtps2dq"),
        Conversion::TruncatePs2Dq => this!("cvttps2dq"),
        Conversion::Pd2Dq => this!("cvtpd2dq"),
        Conversion::TruncatePd2Dq => this!("cvttpd2dq"),
        Conversion::Ps2Pd => this!("cvtps2pd"),
        Conversion::Pd2Ps => this!("cvtpd2ps"),
        Conversion::Ss2Sd => this!("cvtss2sd"),
        Conversion::Sd2Ss => this!("cvtsd2ss"),
    };
    (bits(result), mxcsr)
}

/// Converts the low lane of `b` under `mxcsr`, whose exceptions must all be masked. Gives the
/// integer (a 32-bit one zero-extended) and MXCSR after it.
#[inline(always)]
pub(super) fn to_integer(conversion: ToInteger, b: u128, mxcsr: u32) -> (u64, u32) {
    let b = vector(b);
    macro_rules! this {
        ($template:literal) => {
            run!(mxcsr, $template, let r = 0u64; r = inout(reg) r, b = in(xmm_reg) b)
        };
    }
    match conversion {
        ToInteger::Ss32 => this!("cvtss2si {r:e}, {b}"),
        ToInteger::Ss64 => this!("cvtss2si {r:r}, {b}"),
        ToInteger::Sd32 => this!("cvtsd2si {r:e}, {b}"),
        ToInteger::Sd64 => this!("cvtsd2si {r:r}, {b}"),
        ToInteger::TruncateSs32 => this!("cvttss2si {r:e}, {b}"),
        ToInteger::TruncateSs64 => this!("cvttss2si {r:r}, {b}"),
        ToInteger::TruncateSd32 => this!("cvttsd2si {r:e}, {b}"),
        ToInteger::TruncateSd64 => this!("cvttsd2si {r:r}, {b}"),
    }
}

/// Converts a signed integer into the low lane of `a` under `mxcsr`, whose exceptions must all be
/// masked. Gives the result and MXCSR after it.
#[inline(always)]
pub(super) fn from_integer(to: FromInteger, a: u128, b: i64, mxcsr: u32) -> (u128, u32) {
    let a = vector(a);
    macro_rules! this {
        ($template:literal) => {
            run!(mxcsr, $template, let r = a; r = inout(xmm_reg) r, b = in(reg) b)
        };
    }
    let (result, mxcsr) = match to {
        FromInteger::Ss64 => this!("cvtsi2ss {r}, {b:r}"),
        FromInteger::Sd64 => this!("cvtsi2sd {r}, {b:r}"),
    };
    (bits(result), mxcsr)
}
