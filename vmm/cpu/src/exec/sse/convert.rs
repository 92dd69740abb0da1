//! Conversions between integers, singles and doubles.

use super::float::Format;
use super::host::{self, Conversion, FromInteger, ToInteger};
use super::lanes::Lane;
use super::mxcsr::{FLAGS, FTZ, MASKS, OE, PE, UE};
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction};

const LOW32: u128 = 0xffff_ffff;
const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Cvtsi2sd_xmm_rm32 => exact_double,
        Code::Cvtsi2sd_xmm_rm64 => |cpu, i| from_integer(cpu, i, FromInteger::Sd64),
        Code::Cvtsi2ss_xmm_rm32 => integer_to_single,
        Code::Cvtsi2ss_xmm_rm64 => |cpu, i| from_integer(cpu, i, FromInteger::Ss64),
        Code::Cvtss2si_r32_xmmm32 => |cpu, i| single_to(cpu, i, ToInteger::Ss32),
        Code::Cvtss2si_r64_xmmm32 => |cpu, i| single_to(cpu, i, ToInteger::Ss64),
        Code::Cvttss2si_r32_xmmm32 => |cpu, i| single_to(cpu, i, ToInteger::TruncateSs32),
        Code::Cvttss2si_r64_xmmm32 => |cpu, i| single_to(cpu, i, ToInteger::TruncateSs64),
        Code::Cvtsd2si_r32_xmmm64 => |cpu, i| double_to(cpu, i, ToInteger::Sd32),
        Code::Cvtsd2si_r64_xmmm64 => |cpu, i| double_to(cpu, i, ToInteger::Sd64),
        Code::Cvttsd2si_r32_xmmm64 => |cpu, i| double_to(cpu, i, ToInteger::TruncateSd32),
        Code::Cvttsd2si_r64_xmmm64 => |cpu, i| double_to(cpu, i, ToInteger::TruncateSd64),
        Code::Cvtdq2ps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::Dq2Ps),
        Code::Cvtps2dq_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::Ps2Dq),
        Code::Cvttps2dq_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::TruncatePs2Dq),
        Code::Cvtpd2dq_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::Pd2Dq),
        Code::Cvttpd2dq_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::TruncatePd2Dq),
        Code::Cvtpd2ps_xmm_xmmm128 => |cpu, i| packed(cpu, i, Conversion::Pd2Ps),
        Code::Cvtdq2pd_xmm_xmmm64 => |cpu, i| cpu.unary64(i, integers_to_doubles),
        Code::Cvtps2pd_xmm_xmmm64 => |cpu, i| {
            cpu.sse()?;
            let source = cpu.source64(i, 1)?;
            let result = cpu.convert(Conversion::Ps2Pd, 0, source.into())?;
            cpu.set_xmm_at(i, 0, result);
            Ok(())
        },
        Code::Cvtss2sd_xmm_xmmm32 => |cpu, i| {
            cpu.sse()?;
            let source = cpu.source32(i, 1)?;
            let result = cpu.convert(Conversion::Ss2Sd, cpu.xmm_at(i, 0), source.into())?;
            cpu.set_xmm_at(i, 0, result);
            Ok(())
        },
        Code::Cvtsd2ss_xmm_xmmm64 => |cpu, i| {
            cpu.sse()?;
            let source = cpu.source64(i, 1)?;
            let result = cpu.convert(Conversion::Sd2Ss, cpu.xmm_at(i, 0), source.into())?;
            cpu.set_xmm_at(i, 0, result);
            Ok(())
        },
        _ => return None,
    };
    Some(exec)
}

#[inline(always)]
fn packed(cpu: &mut Cpu, i: &Instruction, conversion: Conversion) -> Done {
    cpu.sse()?;
    let source = cpu.source128(i, 1)?;
    let result = cpu.convert(conversion, 0, source)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

/// CVTDQ2PD, CVTPI2PD: exact.
pub(super) fn integers_to_doubles(source: u64) -> u128 {
    let integers = i32::split(source.into());
    u64::join([f64::from(integers[0]).to_bits(), f64::from(integers[1]).to_bits()])
}

/// CVTSI2SD of a doubleword: exact.
fn exact_double(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let integer = cpu.read_operand(i, 1)? as i32;
    let kept = cpu.xmm_at(i, 0) & !LOW64;
    cpu.set_xmm_at(i, 0, kept | u128::from(f64::from(integer).to_bits()));
    Ok(())
}

/// CVTSI2SS of a doubleword.
fn integer_to_single(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse()?;
    let integer = cpu.read_operand(i, 1)? as u32;
    let single = cpu.convert(Conversion::Dq2Ps, 0, integer.into())?;
    let kept = cpu.xmm_at(i, 0) & !LOW32;
    cpu.set_xmm_at(i, 0, kept | single & LOW32);
    Ok(())
}

/// CVTSI2SS, CVTSI2SD of a quadword.
#[inline(always)]
fn from_integer(cpu: &mut Cpu, i: &Instruction, to: FromInteger) -> Done {
    cpu.sse()?;
    let integer = cpu.read_operand(i, 1)? as i64;
    let control = cpu.mxcsr & !FLAGS | MASKS;
    let (result, mxcsr) = host::from_integer(to, cpu.xmm_at(i, 0), integer, control | cpu.sticky());
    cpu.signal_run(mxcsr)?;
    cpu.set_xmm_at(i, 0, result);
    Ok(())
}

#[inline(always)]
fn single_to(cpu: &mut Cpu, i: &Instruction, conversion: ToInteger) -> Done {
    cpu.sse()?;
    let source = cpu.source32(i, 1)?;
    to_integer(cpu, i, conversion, source.into())
}

#[inline(always)]
fn double_to(cpu: &mut Cpu, i: &Instruction, conversion: ToInteger) -> Done {
    cpu.sse()?;
    let source = cpu.source64(i, 1)?;
    to_integer(cpu, i, conversion, source.into())
}

#[inline(always)]
fn to_integer(cpu: &mut Cpu, i: &Instruction, conversion: ToInteger, source: u128) -> Done {
    let control = cpu.mxcsr & !FLAGS | MASKS;
    let (integer, mxcsr) = host::to_integer(conversion, source, control | cpu.sticky());
    cpu.signal_run(mxcsr)?;
    cpu.set_reg(i.op0_register(), integer);
    Ok(())
}

impl Cpu {
    /// The sticky flags to start an operation with: the guest's own when nothing can fault, none
    /// when it must be seen which are new.
    #[inline(always)]
    fn sticky(&self) -> u32 {
        if self.all_masked() { self.mxcsr & FLAGS } else { 0 }
    }

    /// Records the flags in `mxcsr` as an operation that can neither overflow nor underflow left
    /// them.
    #[inline(always)]
    fn signal_run(&mut self, mxcsr: u32) -> Done {
        self.signal(mxcsr & FLAGS)
    }

    /// Converts `b` under the guest's MXCSR, in which the exceptions detected are recorded; #XM if
    /// one of them is unmasked.
    #[inline(always)]
    pub(super) fn convert(
        &mut self,
        conversion: Conversion,
        a: u128,
        b: u128,
    ) -> Result<u128, Abort> {
        if !self.all_masked() {
            return self.convert_unmasked(conversion, a, b);
        }
        let (result, mxcsr) = host::convert(conversion, a, b, self.mxcsr);
        self.mxcsr = mxcsr;
        Ok(result)
    }

    #[cold]
    fn convert_unmasked(
        &mut self,
        conversion: Conversion,
        a: u128,
        b: u128,
    ) -> Result<u128, Abort> {
        let (result, mut flags) = self.run_unmasked(|mxcsr| host::convert(conversion, a, b, mxcsr));
        if self.unmasked(flags & (OE | UE)) != 0 {
            let lanes = u64::split(b);
            let lanes = if conversion == Conversion::Pd2Ps { &lanes[..] } else { &lanes[..1] };
            flags &= !PE;
            for lane in lanes {
                flags |= self.narrowing_inexact(*lane);
            }
        }
        self.signal(flags)?;
        Ok(result)
    }

    /// PE if a double has no exact single; exponents are unbounded if its overflow or underflow is
    /// unmasked.
    fn narrowing_inexact(&self, lane: u64) -> u32 {
        let run = |lane: u64, mxcsr| host::convert(Conversion::Sd2Ss, 0, lane.into(), mxcsr);
        let (_, flags) = self.run_unmasked(|mxcsr| run(lane, mxcsr));
        if self.unmasked(flags & (OE | UE)) == 0 {
            return flags & PE;
        }
        run(Format::DOUBLE.significand(lane), self.mxcsr & !FLAGS & !FTZ | MASKS).1 & PE
    }
}
