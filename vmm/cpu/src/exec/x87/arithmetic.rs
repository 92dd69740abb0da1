//! Basic arithmetic: FADD to FDIVR in all forms, FSQRT, FRNDINT, FSCALE, FPREM, FPREM1, FXTRACT,
//! FABS, FCHS.

use super::host::{self, Arithmetic, Outcome, Source};
use super::load_store::{extend_double, extend_single, of_integer};
use super::{Destination, st_number};
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::exec::{Done, Exec};
use crate::fpu::{F80, status};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

/// The exponent adjustment of unmasked overflow and underflow is 2^±24576 (SDM vol. 1, 4.9.1.4).
const BIAS_ADJUST: i32 = 24576;
/// The masked control word with 64-bit precision, for exact scaling.
const EXACT: u16 = 0x37f;

pub(super) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fadd | M::Fiadd => form::<host::Add>(i),
        M::Faddp => register::<host::Add, true>,
        M::Fmul | M::Fimul => form::<host::Multiply>(i),
        M::Fmulp => register::<host::Multiply, true>,
        M::Fsub | M::Fisub => form::<host::Subtract>(i),
        M::Fsubp => register::<host::Subtract, true>,
        M::Fsubr | M::Fisubr => form::<host::SubtractReversed>(i),
        M::Fsubrp => register::<host::SubtractReversed, true>,
        M::Fdiv | M::Fidiv => form::<host::Divide>(i),
        M::Fdivp => register::<host::Divide, true>,
        M::Fdivr | M::Fidivr => form::<host::DivideReversed>(i),
        M::Fdivrp => register::<host::DivideReversed, true>,
        M::Fsqrt => |cpu, i| cpu.unary(i, host::square_root),
        M::Frndint => |cpu, i| cpu.unary(i, host::round_to_integer),
        M::Fscale => scale,
        M::Fprem => |cpu, i| remainder(cpu, i, host::remainder),
        M::Fprem1 => |cpu, i| remainder(cpu, i, host::remainder_nearest),
        M::Fxtract => extract,
        M::Fabs => |cpu, i| cpu.sign(i, |sign_exponent| sign_exponent & 0x7fff),
        M::Fchs => |cpu, i| cpu.sign(i, |sign_exponent| sign_exponent ^ 0x8000),
        _ => return None,
    })
}

fn form<A: Arithmetic>(i: &Instruction) -> Exec {
    if i.op0_kind() == OpKind::Memory { memory::<A> } else { register::<A, false> }
}

/// `ST(0) = ST(0) OP memory`.
fn memory<A: Arithmetic>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let source = cpu.x87_memory_source(i)?;
    if cpu.fpu.is_empty(0) {
        if cpu.stack_fault(i, false) {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    compute::<A>(cpu, i, 0, source);
    Ok(())
}

/// `operand 0 = operand 0 OP operand 1`, both registers; with `POP`, then pop.
fn register<A: Arithmetic, const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let (to, from) = (st_number(i, 0), st_number(i, 1));
    let delivered = if cpu.fpu.is_empty(to) || cpu.fpu.is_empty(from) {
        let masked = cpu.stack_fault(i, false);
        if masked {
            cpu.fpu.set_st(to, F80::INDEFINITE);
        }
        masked
    } else {
        let source = Source::Register(cpu.fpu.st(from));
        compute::<A>(cpu, i, to, source)
    };
    if POP && delivered {
        cpu.fpu.pop();
    }
    Ok(())
}

#[inline]
fn compute<A: Arithmetic>(cpu: &mut Cpu, i: &Instruction, to: u8, source: Source) -> bool {
    let (control, value) = (cpu.fpu.control, cpu.fpu.st(to));
    let mut outcome = host::perform::<A>(control, value, source);
    if control & (status::OE | status::UE) != status::OE | status::UE {
        outcome = adjust(control, outcome, || scaled::<A>(control, value, source, &outcome));
    }
    let deliver = cpu.accept(i, outcome.raised(), Destination::Register);
    if deliver {
        cpu.fpu.set_st(to, outcome.value);
    }
    deliver
}

/// The exception, OE or UE, that is unmasked and that a masked outcome amounts to. An exact tiny
/// result raises the unmasked #U though the masked response raises nothing.
fn unmasked_range(control: u16, outcome: &Outcome) -> Option<u16> {
    let raised = outcome.raised();
    let before = raised & (status::IE | status::ZE) != 0 || raised & !control & status::DE != 0;
    if before {
        return None;
    }
    if raised & !control & status::OE != 0 {
        return Some(status::OE);
    }
    let tiny = raised & status::UE != 0
        || raised & (status::OE | status::PE) == 0 && outcome.value.is_denormal();
    (tiny && control & status::UE == 0).then_some(status::UE)
}

/// Replaces a masked outcome by the unmasked response to overflow or underflow, if one is due:
/// the bias-adjusted result, its inexactness, and the exception.
fn adjust(control: u16, outcome: Outcome, scaled: impl FnOnce() -> Outcome) -> Outcome {
    let Some(exception) = unmasked_range(control, &outcome) else { return outcome };
    let scaled = scaled();
    let rounding = scaled.status & (status::PE | status::C1);
    Outcome { value: scaled.value, status: outcome.status & status::DE | exception | rounding }
}

/// `value` times 2^`exponent`, exactly.
fn scale_by(value: F80, exponent: i32) -> F80 {
    host::scale(EXACT, value, of_integer(exponent.into())).value
}

/// The operation with its operands scaled so that the result is 2^∓24576 times the true one.
fn scaled<A: Arithmetic>(control: u16, value: F80, source: Source, masked: &Outcome) -> Outcome {
    let shift = if masked.status & status::OE != 0 { -BIAS_ADJUST } else { BIAS_ADJUST };
    let source = match source {
        Source::Register(source) => source,
        Source::Single(source) => extend_single(source).value,
        Source::Double(source) => extend_double(source).value,
        Source::Word(source) => of_integer((source as i16).into()),
        Source::Dword(source) => of_integer((source as i32).into()),
    };
    let (a, b) = match A::SCALING {
        host::Scaling::Sum => scale_sum(value, source, shift),
        host::Scaling::Product => (scale_by(value, shift / 2), scale_by(source, shift / 2)),
        host::Scaling::Quotient => (scale_by(value, shift / 2), scale_by(source, -shift / 2)),
        host::Scaling::QuotientReversed => {
            (scale_by(value, -shift / 2), scale_by(source, shift / 2))
        }
    };
    A::apply(control, a, Source::Register(b))
}

/// Scales both terms of a sum. A term too small to matter except as inexactness is first replaced by
/// a larger one that is still too small, so that it survives being scaled down.
fn scale_sum(a: F80, b: F80, shift: i32) -> (F80, F80) {
    /// More than the significand's 64 bits, a guard bit and room for a carry.
    const NEGLIGIBLE: u16 = 130;
    let raise = |small: F80, large: F80| {
        let floor = large.exponent().saturating_sub(NEGLIGIBLE);
        if small.is_zero() || small.exponent() >= floor {
            return small;
        }
        F80 { significand: 1 << 63, sign_exponent: small.sign_exponent & 0x8000 | floor }
    };
    (scale_by(raise(a, b), shift), scale_by(raise(b, a), shift))
}

impl Cpu {
    /// `ST(0) = f(ST(0))`.
    pub(super) fn unary(&mut self, i: &Instruction, f: fn(u16, F80) -> Outcome) -> Done {
        self.x87_ready()?;
        if self.fpu.is_empty(0) {
            if self.stack_fault(i, false) {
                self.fpu.set_st(0, F80::INDEFINITE);
            }
            return Ok(());
        }
        let outcome = f(self.fpu.control, self.fpu.st(0));
        if self.accept(i, outcome.raised(), Destination::Register) {
            self.fpu.set_st(0, outcome.value);
        }
        Ok(())
    }

    /// FABS, FCHS: only the sign changes, whatever the value; no exception but the stack fault.
    fn sign(&mut self, i: &Instruction, f: fn(u16) -> u16) -> Done {
        self.unary_raw(i, |value| F80 { sign_exponent: f(value.sign_exponent), ..value })
    }

    fn unary_raw(&mut self, i: &Instruction, f: impl FnOnce(F80) -> F80) -> Done {
        self.x87_ready()?;
        if self.fpu.is_empty(0) {
            if self.stack_fault(i, false) {
                self.fpu.set_st(0, F80::INDEFINITE);
            }
            return Ok(());
        }
        self.fpu.status &= !status::C1;
        self.fpu.set_st(0, f(self.fpu.st(0)));
        Ok(())
    }

    /// Reads the memory operand of an arithmetic instruction or comparison.
    pub(super) fn x87_memory_source(&mut self, i: &Instruction) -> Result<Source, Abort> {
        let bits = self.read_operand(i, 0)?;
        Ok(match i.memory_size() {
            MemorySize::Float32 => Source::Single(bits as u32),
            MemorySize::Float64 => Source::Double(bits),
            MemorySize::Int16 => Source::Word(bits as u16),
            _ => Source::Dword(bits as u32),
        })
    }

    /// Whether ST(0) and ST(1) hold values; otherwise ST(0) becomes what the underflow leaves.
    fn two_operands(&mut self, i: &Instruction) -> bool {
        let missing = self.fpu.is_empty(0) || self.fpu.is_empty(1);
        if missing && self.stack_fault(i, false) {
            self.fpu.set_st(0, F80::INDEFINITE);
        }
        !missing
    }
}

/// FSCALE.
fn scale(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    if !cpu.two_operands(i) {
        return Ok(());
    }
    let (control, st0, st1) = (cpu.fpu.control, cpu.fpu.st(0), cpu.fpu.st(1));
    let outcome = host::scale(control, st0, st1);
    let outcome = adjust(control, outcome, || scale_adjusted(control, st0, st1, &outcome));
    if cpu.accept(i, outcome.raised(), Destination::Register) {
        cpu.fpu.set_st(0, outcome.value);
    }
    Ok(())
}

/// FSCALE with the bias adjustment added to the scale. What overflows or underflows even so becomes
/// infinity or zero, whatever RC says (SDM vol. 1, 8.5.4 and 8.5.5).
fn scale_adjusted(control: u16, st0: F80, st1: F80, masked: &Outcome) -> Outcome {
    const TRUNCATE: u16 = 0xf7f;
    let overflow = masked.status & status::OE != 0;
    let shift = if overflow { -BIAS_ADJUST } else { BIAS_ADJUST };
    let whole = host::round_to_integer(TRUNCATE, st1).value;
    let sum = host::Add::apply(EXACT, whole, Source::Register(of_integer(shift.into())));
    let scaled = host::scale(control, st0, sum.value);
    let sign = st0.sign_exponent & 0x8000;
    if scaled.status & status::OE != 0 {
        let value = F80 { significand: 1 << 63, sign_exponent: sign | 0x7fff };
        return Outcome { value, status: status::PE | status::C1 };
    }
    if scaled.status & status::UE != 0 || scaled.value.exponent() == 0 {
        let value = F80 { significand: 0, sign_exponent: sign };
        return Outcome { value, status: status::PE };
    }
    scaled
}

/// FPREM and FPREM1. A reduction by 64 binary places or more is done in part: how far is up to the
/// implementation (32 to 63 places), so the model decides: N = 32 + D mod 32, as Intel's processors
/// do, reached by dividing by ST(1) * 2^(D - N).
fn remainder(cpu: &mut Cpu, i: &Instruction, complete: fn(u16, F80, F80) -> Outcome) -> Done {
    cpu.x87_ready()?;
    // Whatever goes wrong, the reduction is over: programs loop while C2 is set.
    cpu.fpu.status &= !status::C2;
    if !cpu.two_operands(i) {
        return Ok(());
    }
    let (control, st0, st1) = (cpu.fpu.control, cpu.fpu.st(0), cpu.fpu.st(1));
    let distance = exponent_of(st0).zip(exponent_of(st1)).map_or(0, |(a, b)| a - b);
    let partial = distance >= 64;
    let outcome = if partial {
        let places = 32 + (distance & 31);
        let divisor = scale_by(st1, distance - places);
        let mut outcome = host::remainder(control, st0, divisor);
        if st1.is_denormal() {
            outcome.status |= status::DE;
        }
        outcome
    } else {
        complete(control, st0, st1)
    };
    let adjusted = adjust(control, outcome, || Outcome {
        value: scale_by(outcome.value, BIAS_ADJUST),
        status: outcome.status,
    });
    let exceptions = adjusted.status & status::EXCEPTIONS;
    if cpu.accept(i, exceptions, Destination::Register) {
        cpu.fpu.set_st(0, adjusted.value);
        const CODES: u16 = status::C0 | status::C1 | status::C2 | status::C3;
        let codes = if partial {
            status::C2
        } else if outcome.value.is_nan() {
            // Undefined: the quotient's bits stay as they were, the reduction is complete.
            cpu.fpu.status & (status::C0 | status::C3)
        } else if st0.is_zero() || st1.is_infinity() {
            0
        } else {
            outcome.status & CODES
        };
        cpu.fpu.status = cpu.fpu.status & !CODES | codes;
    }
    Ok(())
}

/// The exponent of the leading bit of a finite value that is not zero.
fn exponent_of(value: F80) -> Option<i32> {
    if value.exponent() == 0x7fff || value.is_zero() || value.is_unsupported() {
        return None;
    }
    let biased = i32::from(value.exponent().max(1));
    Some(biased - value.significand.leading_zeros() as i32)
}

/// FXTRACT: ST(0) becomes the exponent, then the significand is pushed.
fn extract(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let underflow = cpu.fpu.is_empty(0);
    if underflow || !cpu.fpu.is_empty(7) {
        if cpu.stack_fault(i, !underflow) {
            cpu.fpu.set_st(0, F80::INDEFINITE);
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Ok(());
    }
    let (significand, exponent, word) = host::extract(cpu.fpu.control, cpu.fpu.st(0));
    if cpu.accept(i, word & status::EXCEPTIONS, Destination::Register) {
        cpu.fpu.set_st(0, exponent);
        cpu.fpu.push(significand);
    }
    Ok(())
}
