//! Loads, stores, constants, conditional moves and the moves of the stack itself.

use super::host;
use super::{Destination, plain, st_number};
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::exec::x87::host::Outcome;
use crate::exec::{Done, Exec};
use crate::fpu::{F80, status};
use iced_x86::{Instruction, MemorySize, Mnemonic, OpKind};

pub(super) fn select(i: &Instruction) -> Option<Exec> {
    use Mnemonic as M;
    Some(match i.mnemonic() {
        M::Fld => match (i.op0_kind(), i.memory_size()) {
            (OpKind::Memory, MemorySize::Float32) => |cpu, i| {
                cpu.x87_ready()?;
                let value = extend_single(cpu.read_operand(i, 0)? as u32);
                cpu.push_checked(i, value.value, value.status);
                Ok(())
            },
            (OpKind::Memory, MemorySize::Float64) => |cpu, i| {
                cpu.x87_ready()?;
                let value = extend_double(cpu.read_operand(i, 0)?);
                cpu.push_checked(i, value.value, value.status);
                Ok(())
            },
            (OpKind::Memory, _) => |cpu, i| {
                cpu.x87_ready()?;
                let value = F80::from_bits(cpu.read_ten_bytes(i)?);
                cpu.push_checked(i, value, 0);
                Ok(())
            },
            _ => load_register,
        },
        M::Fild => match i.memory_size() {
            MemorySize::Int16 => load_integer::<2>,
            MemorySize::Int32 => load_integer::<4>,
            _ => load_integer::<8>,
        },
        M::Fst => match (i.op0_kind(), i.memory_size()) {
            (OpKind::Memory, MemorySize::Float32) => store_single::<false>,
            (OpKind::Memory, _) => store_double::<false>,
            _ => store_register::<false>,
        },
        M::Fstp => match (i.op0_kind(), i.memory_size()) {
            (OpKind::Memory, MemorySize::Float32) => store_single::<true>,
            (OpKind::Memory, MemorySize::Float64) => store_double::<true>,
            (OpKind::Memory, _) => store_extended,
            _ => store_register::<true>,
        },
        M::Fstpnce => store_no_empty_check,
        M::Fist => match i.memory_size() {
            MemorySize::Int16 => store_word::<false>,
            _ => store_dword::<false>,
        },
        M::Fistp => match i.memory_size() {
            MemorySize::Int16 => store_word::<true>,
            MemorySize::Int32 => store_dword::<true>,
            _ => |cpu, i| {
                cpu.store_integer(i, true, 1 << 63, |control, value| {
                    plain::store_integer(control, value, 64)
                        .unwrap_or_else(|| host::store_qword(control, value))
                })
            },
        },
        M::Fisttp => match i.memory_size() {
            MemorySize::Int16 => |cpu, i| {
                cpu.store_integer(i, true, 1 << 15, |control, value| {
                    let (integer, word) = host::truncate_word(control, value);
                    (integer, word & !status::C1)
                })
            },
            MemorySize::Int32 => |cpu, i| {
                cpu.store_integer(i, true, 1 << 31, |control, value| {
                    let (integer, word) = host::truncate_dword(control, value);
                    (integer, word & !status::C1)
                })
            },
            _ => |cpu, i| {
                cpu.store_integer(i, true, 1 << 63, |control, value| {
                    let (integer, word) = host::truncate_qword(control, value);
                    (integer, word & !status::C1)
                })
            },
        },
        M::Fxch => exchange,
        M::Fcmovb => |cpu, i| conditional_move(cpu, i, 2),
        M::Fcmovnb => |cpu, i| conditional_move(cpu, i, 3),
        M::Fcmove => |cpu, i| conditional_move(cpu, i, 4),
        M::Fcmovne => |cpu, i| conditional_move(cpu, i, 5),
        M::Fcmovbe => |cpu, i| conditional_move(cpu, i, 6),
        M::Fcmovnbe => |cpu, i| conditional_move(cpu, i, 7),
        M::Fcmovu => |cpu, i| conditional_move(cpu, i, 10),
        M::Fcmovnu => |cpu, i| conditional_move(cpu, i, 11),
        M::Fldz => |cpu, i| constant(cpu, i, &ZERO),
        M::Fld1 => |cpu, i| constant(cpu, i, &ONE),
        M::Fldpi => |cpu, i| constant(cpu, i, &PI),
        M::Fldl2e => |cpu, i| constant(cpu, i, &LOG2_E),
        M::Fldl2t => |cpu, i| constant(cpu, i, &LOG2_10),
        M::Fldlg2 => |cpu, i| constant(cpu, i, &LOG10_2),
        M::Fldln2 => |cpu, i| constant(cpu, i, &LN_2),
        _ => return None,
    })
}

const INTEGER_BIT: u64 = 1 << 63;
const QUIET_BIT: u64 = 1 << 62;

/// A single-precision value in a register's format; #IA for a signalling NaN, #D for a denormal.
#[inline]
pub(super) fn extend_single(bits: u32) -> Outcome {
    let sign = (bits >> 16 & 0x8000) as u16;
    let fraction = u64::from(bits & 0x7f_ffff) << 40;
    extend(sign, bits >> 23 & 0xff, fraction, 0xff, 127)
}

/// A double-precision value in a register's format; #IA for a signalling NaN, #D for a denormal.
#[inline]
pub(super) fn extend_double(bits: u64) -> Outcome {
    let sign = (bits >> 48 & 0x8000) as u16;
    let fraction = (bits & 0xf_ffff_ffff_ffff) << 11;
    extend(sign, (bits >> 52 & 0x7ff) as u32, fraction, 0x7ff, 1023)
}

/// `fraction` is aligned below the integer bit of the 64-bit significand.
#[inline]
fn extend(sign: u16, exponent: u32, fraction: u64, largest: u32, bias: u32) -> Outcome {
    let rebias = 16383 - bias;
    let value =
        |exponent: u32, significand| F80 { significand, sign_exponent: sign | exponent as u16 };
    if exponent == largest {
        let significand = INTEGER_BIT | fraction;
        let signalling = fraction != 0 && fraction & QUIET_BIT == 0;
        let quiet = if signalling { QUIET_BIT } else { 0 };
        let status = if signalling { status::IE } else { 0 };
        return Outcome { value: value(0x7fff, significand | quiet), status };
    }
    if exponent != 0 {
        return Outcome { value: value(exponent + rebias, INTEGER_BIT | fraction), status: 0 };
    }
    if fraction == 0 {
        return Outcome { value: value(0, 0), status: 0 };
    }
    let shift = fraction.leading_zeros();
    Outcome { value: value(1 + rebias - shift, fraction << shift), status: status::DE }
}

/// An integer in a register's format: always exact.
#[inline]
pub(super) fn of_integer(integer: i64) -> F80 {
    if integer == 0 {
        return F80::default();
    }
    let magnitude = integer.unsigned_abs();
    let shift = magnitude.leading_zeros();
    let sign = if integer < 0 { 0x8000 } else { 0 };
    F80 { significand: magnitude << shift, sign_exponent: sign | (16383 + 63 - shift as u16) }
}

fn load_integer<const SIZE: u32>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let value = cpu.read_operand(i, 0)?;
    let value = crate::flags::sign_extend(value, SIZE) as i64;
    cpu.push_checked(i, of_integer(value), 0);
    Ok(())
}

/// FLD ST(i). With ST(i) empty and room on the stack it is an underflow; a full stack comes first.
fn load_register(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let from = st_number(i, 0);
    if cpu.fpu.is_empty(from) {
        if cpu.stack_fault(i, false) {
            cpu.fpu.push(F80::INDEFINITE);
        }
        return Ok(());
    }
    cpu.push_checked(i, cpu.fpu.st(from), 0);
    Ok(())
}

fn store_single<const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    const INDEFINITE: u64 = 0xffc0_0000;
    cpu.store_float(i, POP, INDEFINITE, |control, value| {
        if let Some((bits, flags)) = plain::store_single(control, value) {
            return (bits, flags, false);
        }
        let (bits, word) = host::store_single(control, value);
        (bits.into(), word, bits & 0x7f80_0000 == 0 && bits & 0x7f_ffff != 0)
    })
}

fn store_double<const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    const INDEFINITE: u64 = 0xfff8 << 48;
    cpu.store_float(i, POP, INDEFINITE, |control, value| {
        if let Some((bits, flags)) = plain::store_double(control, value) {
            return (bits, flags, false);
        }
        let (bits, word) = host::store_double(control, value);
        (bits, word, bits & 0x7ff0 << 48 == 0 && bits & 0xf_ffff_ffff_ffff != 0)
    })
}

fn store_word<const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.store_integer(i, POP, 1 << 15, |control, value| {
        plain::store_integer(control, value, 16).unwrap_or_else(|| {
            let (integer, word) = host::store_word(control, value);
            (integer.into(), word)
        })
    })
}

fn store_dword<const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.store_integer(i, POP, 1 << 31, |control, value| {
        plain::store_integer(control, value, 32).unwrap_or_else(|| {
            let (integer, word) = host::store_dword(control, value);
            (integer.into(), word)
        })
    })
}

/// FSTP m80fp: the bytes as they are.
fn store_extended(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    if cpu.fpu.is_empty(0) {
        return cpu.finish_store(i, status::IE | status::SF, true, |cpu| {
            cpu.write_ten_bytes(i, F80::INDEFINITE.bits())
        });
    }
    let value = cpu.fpu.st(0);
    cpu.finish_store(i, 0, true, |cpu| cpu.write_ten_bytes(i, value.bits()))
}

fn store_register<const POP: bool>(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let to = st_number(i, 0);
    let value = if cpu.fpu.is_empty(0) {
        if !cpu.stack_fault(i, false) {
            return Ok(());
        }
        F80::INDEFINITE
    } else {
        cpu.fpu.status &= !status::C1;
        cpu.fpu.st(0)
    };
    cpu.fpu.set_st(to, value);
    if POP {
        cpu.fpu.pop();
    }
    Ok(())
}

/// FSTPNCE (D9 D8+i), an undocumented FSTP ST(i) that does not mind an empty ST(0).
fn store_no_empty_check(cpu: &mut Cpu, i: &Instruction) -> Done {
    if cpu.fpu.is_empty(0) {
        cpu.x87_ready()?;
        let to = st_number(i, 0);
        cpu.fpu.status &= !status::C1;
        cpu.fpu.free(to);
        cpu.fpu.pop();
        return Ok(());
    }
    store_register::<true>(cpu, i)
}

fn exchange(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.x87_ready()?;
    let with = st_number(i, 1);
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(with) {
        if !cpu.stack_fault(i, false) {
            return Ok(());
        }
        for n in [0, with] {
            if cpu.fpu.is_empty(n) {
                cpu.fpu.set_st(n, F80::INDEFINITE);
            }
        }
    } else {
        cpu.fpu.status &= !status::C1;
    }
    let (a, b) = (cpu.fpu.st(0), cpu.fpu.st(with));
    cpu.fpu.set_st(0, b);
    cpu.fpu.set_st(with, a);
    Ok(())
}

/// FCMOVcc with the condition code of Jcc. An empty register faults whether or not the condition
/// holds.
fn conditional_move(cpu: &mut Cpu, i: &Instruction, condition: u8) -> Done {
    cpu.x87_ready()?;
    let from = st_number(i, 1);
    if cpu.fpu.is_empty(0) || cpu.fpu.is_empty(from) {
        if cpu.stack_fault(i, false) {
            cpu.fpu.set_st(0, F80::INDEFINITE);
        }
        return Ok(());
    }
    if cpu.arith.condition(condition) {
        cpu.fpu.set_st(0, cpu.fpu.st(from));
    }
    Ok(())
}

/// A constant's exponent, its significand truncated, and whether the bits cut off make half a unit
/// or more (SDM vol. 1, 8.3.8: the constants have 66 bits and are rounded by RC).
struct Constant {
    exponent: u16,
    significand: u64,
    exact: bool,
    nearest_is_up: bool,
}

const fn inexact(exponent: u16, significand: u64, nearest_is_up: bool) -> Constant {
    Constant { exponent, significand, exact: false, nearest_is_up }
}

const ZERO: Constant = Constant { exponent: 0, significand: 0, exact: true, nearest_is_up: false };
const ONE: Constant =
    Constant { exponent: 0x3fff, significand: 1 << 63, exact: true, nearest_is_up: false };
const PI: Constant = inexact(0x4000, 0xc90f_daa2_2168_c234, true);
const LOG2_10: Constant = inexact(0x4000, 0xd49a_784b_cd1b_8afe, false);
const LOG2_E: Constant = inexact(0x3fff, 0xb8aa_3b29_5c17_f0bb, true);
const LOG10_2: Constant = inexact(0x3ffd, 0x9a20_9a84_fbcf_f798, true);
const LN_2: Constant = inexact(0x3ffe, 0xb172_17f7_d1cf_79ab, true);

fn constant(cpu: &mut Cpu, i: &Instruction, constant: &Constant) -> Done {
    cpu.x87_ready()?;
    // All are positive: only nearest (0) and up (2) can round away from zero.
    let up = match cpu.fpu.control >> 10 & 3 {
        0 => constant.nearest_is_up,
        2 => !constant.exact,
        _ => false,
    };
    let significand = constant.significand + u64::from(up);
    let value = F80 { significand, sign_exponent: constant.exponent };
    cpu.push_checked(i, value, 0);
    Ok(())
}

impl Cpu {
    /// Reads a ten-byte memory operand.
    pub(super) fn read_ten_bytes(&mut self, i: &Instruction) -> Result<u128, Abort> {
        let (segment, offset) = self.operand_offset(i);
        let linear = self.linear(segment, offset, 10, false)?;
        let low = self.load(linear, 8)?;
        let high = self.load(linear.wrapping_add(8), 2)?;
        Ok(u128::from(high) << 64 | u128::from(low))
    }

    /// Writes a ten-byte memory operand, all or nothing.
    pub(super) fn write_ten_bytes(&mut self, i: &Instruction, bits: u128) -> Done {
        let (segment, offset) = self.operand_offset(i);
        let linear = self.linear(segment, offset, 10, true)?;
        self.probe_store(linear, 10)?;
        self.store(linear, bits as u64, 8)?;
        self.store(linear.wrapping_add(8), (bits >> 64) as u64, 2)
    }

    /// Writes to memory unless an unmasked exception forbids it; only when that has worked are the
    /// exceptions noted and the stack popped.
    pub(super) fn finish_store(
        &mut self,
        i: &Instruction,
        raised: u16,
        pop: bool,
        write: impl FnOnce(&mut Cpu) -> Done,
    ) -> Done {
        use status::{EXCEPTIONS, PE};
        let forbidding = raised & !self.fpu.control & EXCEPTIONS & !PE;
        if forbidding == 0 {
            write(self)?;
        }
        if self.accept(i, raised, Destination::Memory) && pop {
            self.fpu.pop();
        }
        Ok(())
    }

    /// FST and FSTP m32fp, m64fp. `convert` gives the bits, the status word, and whether the result
    /// is tiny.
    #[inline]
    fn store_float(
        &mut self,
        i: &Instruction,
        pop: bool,
        indefinite: u64,
        convert: impl FnOnce(u16, F80) -> (u64, u16, bool),
    ) -> Done {
        self.x87_ready()?;
        let (bits, raised) = if self.fpu.is_empty(0) {
            (indefinite, status::IE | status::SF)
        } else {
            let (bits, word, tiny) = convert(self.fpu.control, self.fpu.st(0));
            let unmasked = self.fpu.control & status::UE == 0;
            // An exact tiny result is an underflow only if that is unmasked.
            let underflow = if tiny && unmasked { status::UE } else { 0 };
            (bits, host::raised(word) | underflow)
        };
        self.finish_store(i, raised, pop, |cpu| cpu.write_operand(i, 0, bits))
    }

    /// FIST, FISTP, FISTTP.
    #[inline]
    fn store_integer<T: Into<u64>>(
        &mut self,
        i: &Instruction,
        pop: bool,
        indefinite: u64,
        convert: impl FnOnce(u16, F80) -> (T, u16),
    ) -> Done {
        self.x87_ready()?;
        let (bits, raised) = if self.fpu.is_empty(0) {
            (indefinite, status::IE | status::SF)
        } else {
            let (integer, word) = convert(self.fpu.control, self.fpu.st(0));
            (integer.into(), host::raised(word))
        };
        self.finish_store(i, raised, pop, |cpu| cpu.write_operand(i, 0, bits))
    }
}
