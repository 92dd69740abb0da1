//! Floating-point arithmetic: add, subtract, multiply, divide, square root, and the horizontal,
//! alternating and dot-product forms made of them.

use super::host::{self, Op, Shape};
use super::lanes::Lane;
use super::mxcsr::{FLAGS, FTZ, MASKS, OE, PE, UE};
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Addps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Add, Shape::Ps),
        Code::Addpd_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Add, Shape::Pd),
        Code::Addss_xmm_xmmm32 => |cpu, i| single(cpu, i, Op::Add),
        Code::Addsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Op::Add),
        Code::Subps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Sub, Shape::Ps),
        Code::Subpd_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Sub, Shape::Pd),
        Code::Subss_xmm_xmmm32 => |cpu, i| single(cpu, i, Op::Sub),
        Code::Subsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Op::Sub),
        Code::Mulps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Mul, Shape::Ps),
        Code::Mulpd_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Mul, Shape::Pd),
        Code::Mulss_xmm_xmmm32 => |cpu, i| single(cpu, i, Op::Mul),
        Code::Mulsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Op::Mul),
        Code::Divps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Div, Shape::Ps),
        Code::Divpd_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Div, Shape::Pd),
        Code::Divss_xmm_xmmm32 => |cpu, i| single(cpu, i, Op::Div),
        Code::Divsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Op::Div),
        Code::Sqrtps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Sqrt, Shape::Ps),
        Code::Sqrtpd_xmm_xmmm128 => |cpu, i| packed(cpu, i, Op::Sqrt, Shape::Pd),
        Code::Sqrtss_xmm_xmmm32 => |cpu, i| single(cpu, i, Op::Sqrt),
        Code::Sqrtsd_xmm_xmmm64 => |cpu, i| double(cpu, i, Op::Sqrt),
        Code::Haddps_xmm_xmmm128 => |cpu, i| horizontal_ps(cpu, i, Op::Add),
        Code::Haddpd_xmm_xmmm128 => |cpu, i| horizontal_pd(cpu, i, Op::Add),
        Code::Hsubps_xmm_xmmm128 => |cpu, i| horizontal_ps(cpu, i, Op::Sub),
        Code::Hsubpd_xmm_xmmm128 => |cpu, i| horizontal_pd(cpu, i, Op::Sub),
        Code::Addsubps_xmm_xmmm128 => add_subtract_ps,
        Code::Addsubpd_xmm_xmmm128 => add_subtract_pd,
        Code::Dpps_xmm_xmmm128_imm8 => dot_product_ps,
        Code::Dppd_xmm_xmmm128_imm8 => dot_product_pd,
        _ => return None,
    };
    Some(exec)
}

#[inline(always)]
fn packed(cpu: &mut Cpu, i: &Instruction, op: Op, shape: Shape) -> Done {
    cpu.sse()?;
    let b = cpu.source128(i, 1)?;
    let result = cpu.arithmetic(op, shape, cpu.xmm_at(i, 0), b)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

#[inline(always)]
fn single(cpu: &mut Cpu, i: &Instruction, op: Op) -> Done {
    cpu.sse()?;
    let b = u128::from(cpu.source32(i, 1)?);
    let result = cpu.arithmetic(op, Shape::Ss, cpu.xmm_at(i, 0), b)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

#[inline(always)]
fn double(cpu: &mut Cpu, i: &Instruction, op: Op) -> Done {
    cpu.sse()?;
    let b = u128::from(cpu.source64(i, 1)?);
    let result = cpu.arithmetic(op, Shape::Sd, cpu.xmm_at(i, 0), b)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// HADDPS, HSUBPS: neighbours, those of the first operand into the low half.
fn horizontal_ps(cpu: &mut Cpu, i: &Instruction, op: Op) -> Done {
    cpu.sse()?;
    let b = u32::split(cpu.source128(i, 1)?);
    let a = u32::split(cpu.xmm_at(i, 0));
    let left = u32::join([a[0], a[2], b[0], b[2]]);
    let right = u32::join([a[1], a[3], b[1], b[3]]);
    let result = cpu.arithmetic(op, Shape::Ps, left, right)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// HADDPD, HSUBPD.
fn horizontal_pd(cpu: &mut Cpu, i: &Instruction, op: Op) -> Done {
    cpu.sse()?;
    let b = u64::split(cpu.source128(i, 1)?);
    let a = u64::split(cpu.xmm_at(i, 0));
    let (left, right) = (u64::join([a[0], b[0]]), u64::join([a[1], b[1]]));
    let result = cpu.arithmetic(op, Shape::Pd, left, right)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// ADDSUBPS subtracts the even lanes: adds their negation, which is the same in IEEE 754 except for
/// the sign of a NaN operand.
fn add_subtract_ps(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let mut b = u32::split(cpu.source128(i, 1)?);
    for lane in [0, 2] {
        if !f32::from_bits(b[lane]).is_nan() {
            b[lane] ^= 1 << 31;
        }
    }
    let result = cpu.arithmetic(Op::Add, Shape::Ps, cpu.xmm_at(i, 0), u32::join(b))?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// ADDSUBPD, as [`add_subtract_ps`].
fn add_subtract_pd(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let mut b = u64::split(cpu.source128(i, 1)?);
    if !f64::from_bits(b[0]).is_nan() {
        b[0] ^= 1 << 63;
    }
    let result = cpu.arithmetic(Op::Add, Shape::Pd, cpu.xmm_at(i, 0), u64::join(b))?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// DPPS: bits 7:4 of the immediate choose the products, bits 3:0 the lanes that get their sum. The
/// sums are (0 + 1) + (2 + 3); each step detects exceptions of its own, and an unmasked one ends the
/// instruction at that step.
fn dot_product_ps(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let selector = i.immediate8();
    let mut b = u32::split(cpu.source128(i, 1)?);
    let mut a = u32::split(cpu.xmm_at(i, 0));
    for n in 0..4 {
        if selector >> (4 + n) & 1 == 0 {
            (a[n], b[n]) = (0, 0);
        }
    }
    let products = cpu.arithmetic(Op::Mul, Shape::Ps, u32::join(a), u32::join(b))?;
    let p = u32::split(products);
    let (left, right) = (u32::join([p[0], p[2], 0, 0]), u32::join([p[1], p[3], 0, 0]));
    let pairs = cpu.arithmetic(Op::Add, Shape::Ps, left, right)?;
    let sum = cpu.arithmetic(Op::Add, Shape::Ss, pairs, pairs >> 32)? as u32;
    let lane = |n: usize| if selector >> n & 1 != 0 { sum } else { 0 };
    cpu.set_xmm_at(i, 0, u32::join(std::array::from_fn(lane)));
    Ok(())
}

/// DPPD: bits 5:4 choose the products, bits 1:0 the lanes that get their sum.
fn dot_product_pd(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let selector = i.immediate8();
    let mut b = u64::split(cpu.source128(i, 1)?);
    let mut a = u64::split(cpu.xmm_at(i, 0));
    for n in 0..2 {
        if selector >> (4 + n) & 1 == 0 {
            (a[n], b[n]) = (0, 0);
        }
    }
    let products = cpu.arithmetic(Op::Mul, Shape::Pd, u64::join(a), u64::join(b))?;
    let sum = cpu.arithmetic(Op::Add, Shape::Sd, products, products >> 64)? as u64;
    let lane = |n: usize| if selector >> n & 1 != 0 { sum } else { 0 };
    cpu.set_xmm_at(i, 0, u64::join(std::array::from_fn(lane)));
    Ok(())
}

impl Cpu {
    /// `a OP b` under the guest's MXCSR, in which the exceptions detected are recorded; #XM if one of
    /// them is unmasked.
    #[inline(always)]
    pub(super) fn arithmetic(
        &mut self,
        op: Op,
        shape: Shape,
        a: u128,
        b: u128,
    ) -> Result<u128, Abort> {
        if !self.all_masked() {
            return self.arithmetic_unmasked(op, shape, a, b);
        }
        let (result, mxcsr) = host::arithmetic(op, shape, a, b, self.mxcsr);
        self.mxcsr = mxcsr;
        Ok(result)
    }

    #[cold]
    fn arithmetic_unmasked(
        &mut self,
        op: Op,
        shape: Shape,
        a: u128,
        b: u128,
    ) -> Result<u128, Abort> {
        let run = |a, b, mxcsr| host::arithmetic(op, shape, a, b, mxcsr);
        let (result, mut flags) = self.run_unmasked(|mxcsr| run(a, b, mxcsr));
        if self.unmasked(flags & (OE | UE)) != 0 {
            flags &= !PE;
            let lanes = match shape {
                Shape::Ps => 4,
                Shape::Pd => 2,
                Shape::Ss | Shape::Sd => 1,
            };
            for lane in 0..lanes {
                flags |= match shape {
                    Shape::Ps | Shape::Ss => {
                        let of = |vector| u64::from(u32::split(vector)[lane]);
                        self.lane_inexact(op, Format::SINGLE, of(a), of(b))
                    }
                    Shape::Pd | Shape::Sd => {
                        let of = |vector| u64::split(vector)[lane];
                        self.lane_inexact(op, Format::DOUBLE, of(a), of(b))
                    }
                };
            }
        }
        self.signal(flags)?;
        Ok(result)
    }

    /// Runs an operation with everything masked, for a guest that has not masked everything. Gives
    /// the result, valid if no unmasked exception is among the flags, and the flags of the operation
    /// alone. Unmasked underflow is any tiny result, even an exact one, and disables flush-to-zero
    /// (SDM vol. 1, 4.9.1.5 and 10.2.3.3): with flush-to-zero on, the masked operation tells just
    /// that.
    pub(super) fn run_unmasked(&self, run: impl Fn(u32) -> (u128, u32)) -> (u128, u32) {
        let control = self.mxcsr & !FLAGS | MASKS;
        if self.unmasked(UE) == 0 {
            let (result, mxcsr) = run(control);
            return (result, mxcsr & FLAGS);
        }
        let (result, mxcsr) = run(control & !FTZ);
        let (_, tiny) = run(control | FTZ);
        (result, mxcsr & FLAGS & !UE | tiny & UE)
    }

    /// PE if one lane's result is inexact. When its overflow or underflow is unmasked, that is asked
    /// of the result with an unbounded exponent (SDM vol. 1, 4.9.1.6).
    fn lane_inexact(&self, op: Op, format: Format, a: u64, b: u64) -> u32 {
        let run =
            |a: u64, b: u64, mxcsr| host::arithmetic(op, format.shape, a.into(), b.into(), mxcsr);
        let (_, flags) = self.run_unmasked(|mxcsr| run(a, b, mxcsr));
        if self.unmasked(flags & (OE | UE)) == 0 {
            return flags & PE;
        }
        let control = self.mxcsr & !FLAGS & !FTZ | MASKS;
        let rescaled = match op {
            // A tiny sum is exact: it is a multiple of the smallest denormal.
            Op::Add | Op::Sub if flags & UE != 0 => return 0,
            Op::Add | Op::Sub => run(format.halve(a), format.halve(b), control),
            Op::Mul | Op::Div => run(format.significand(a), format.significand(b), control),
            // A square root neither overflows nor is tiny.
            Op::Sqrt => return flags & PE,
        };
        rescaled.1 & PE
    }
}

/// A binary floating-point format.
#[derive(Clone, Copy)]
pub(super) struct Format {
    /// Width of the fraction.
    pub(super) fraction_bits: u32,
    /// The exponent field of 1.0.
    pub(super) bias: u64,
    /// The scalar shape that works on it.
    shape: Shape,
}

impl Format {
    pub(super) const SINGLE: Format = Format { fraction_bits: 23, bias: 127, shape: Shape::Ss };
    pub(super) const DOUBLE: Format = Format { fraction_bits: 52, bias: 1023, shape: Shape::Sd };

    /// The biased exponent.
    pub(super) fn exponent(self, bits: u64) -> u64 {
        bits >> self.fraction_bits & (2 * self.bias + 1)
    }

    /// Half of a normal number. A denormal one, or one that would become so, stays as it is: next to
    /// a summand that overflows it only matters whether it is zero.
    fn halve(self, bits: u64) -> u64 {
        if self.exponent(bits) > 1 { bits - (1 << self.fraction_bits) } else { bits }
    }

    /// The significand of a nonzero number, as a number in [1, 2).
    pub(super) fn significand(self, bits: u64) -> u64 {
        let hidden = 1 << self.fraction_bits;
        let mut fraction = bits & (hidden - 1);
        if self.exponent(bits) == 0 {
            assert!(fraction != 0, "neither zero nor a quotient by it overflows or is tiny");
            fraction <<= self.fraction_bits + fraction.leading_zeros() - 63;
        }
        self.bias << self.fraction_bits | fraction & (hidden - 1)
    }
}
