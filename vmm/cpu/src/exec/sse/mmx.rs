//! The few instructions that join XMM and MMX registers; each switches the FPU to MMX use (SDM
//! vol. 3A, 14.1).

use super::convert;
use super::host::Conversion;
use super::lanes::Lane;
use super::operand::is_register;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::exec::{Done, Exec};
use iced_x86::{Code, Instruction, Register};

const LOW64: u128 = 0xffff_ffff_ffff_ffff;

/// The semantics of an instruction of this family.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let exec: Exec = match i.code() {
        Code::Movq2dq_xmm_mm => |cpu, i| {
            cpu.sse_with_mmx()?;
            cpu.fpu.enter_mmx();
            let value = cpu.fpu.mm(mm_index(i, 1));
            cpu.set_xmm_at(i, 0, value.into());
            Ok(())
        },
        Code::Movdq2q_mm_xmm => |cpu, i| {
            cpu.sse_with_mmx()?;
            let value = cpu.xmm_at(i, 1) as u64;
            cpu.fpu.enter_mmx();
            cpu.fpu.set_mm(mm_index(i, 0), value);
            Ok(())
        },
        Code::Cvtpi2ps_xmm_mmm64 => integers_to_singles,
        Code::Cvtpi2pd_xmm_mmm64 => integers_to_doubles,
        Code::Cvtps2pi_mm_xmmm64 => |cpu, i| singles_to_integers(cpu, i, Conversion::Ps2Dq),
        Code::Cvttps2pi_mm_xmmm64 => {
            |cpu, i| singles_to_integers(cpu, i, Conversion::TruncatePs2Dq)
        }
        Code::Cvtpd2pi_mm_xmmm128 => |cpu, i| doubles_to_integers(cpu, i, Conversion::Pd2Dq),
        Code::Cvttpd2pi_mm_xmmm128 => {
            |cpu, i| doubles_to_integers(cpu, i, Conversion::TruncatePd2Dq)
        }
        _ => return None,
    };
    Some(exec)
}

impl Cpu {
    /// The checks of [`Cpu::sse`], and #MF if an x87 exception waits. With CR0.NE = 0 a waiting
    /// exception would assert FERR#, which is wired to nothing.
    fn sse_with_mmx(&mut self) -> Done {
        self.sse()?;
        if self.fpu.is_exception_pending() && self.cr0 & control::CR0_NE != 0 {
            return Err(self.exception(vector::MF, None));
        }
        Ok(())
    }

    /// Operand 1: an MMX register or 8 bytes of memory.
    fn mm_source(&mut self, i: &Instruction) -> Result<u64, Abort> {
        if is_register(i, 1) { Ok(self.fpu.mm(mm_index(i, 1))) } else { self.load_operand(i, 8) }
    }
}

fn mm_index(i: &Instruction, n: u32) -> usize {
    (i.op_register(n) as usize).wrapping_sub(Register::MM0 as usize) & 7
}

/// CVTPI2PS: switches to MMX use even when the source is memory, as its page in the manual has it.
fn integers_to_singles(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.sse_with_mmx()?;
    let source = cpu.mm_source(i)?;
    let singles = cpu.convert(Conversion::Dq2Ps, 0, source.into())?;
    cpu.fpu.enter_mmx();
    let kept = cpu.xmm_at(i, 0) & !LOW64;
    cpu.set_xmm_at(i, 0, kept | singles & LOW64);
    Ok(())
}

/// CVTPI2PD: with a memory source it leaves the FPU alone, pending exceptions included.
fn integers_to_doubles(cpu: &mut Cpu, i: &Instruction) -> Done {
    if is_register(i, 1) {
        cpu.sse_with_mmx()?;
        cpu.fpu.enter_mmx();
    } else {
        cpu.sse()?;
    }
    let source = cpu.mm_source(i)?;
    cpu.set_xmm_at(i, 0, convert::integers_to_doubles(source));
    Ok(())
}

fn singles_to_integers(cpu: &mut Cpu, i: &Instruction, conversion: Conversion) -> Done {
    cpu.sse_with_mmx()?;
    let source = cpu.source64(i, 1)?;
    let integers = cpu.convert(conversion, 0, source.into())?;
    cpu.fpu.enter_mmx();
    cpu.fpu.set_mm(mm_index(i, 0), u64::split(integers)[0]);
    Ok(())
}

fn doubles_to_integers(cpu: &mut Cpu, i: &Instruction, conversion: Conversion) -> Done {
    cpu.sse_with_mmx()?;
    let source = cpu.source128(i, 1)?;
    let integers = cpu.convert(conversion, 0, source)?;
    cpu.fpu.enter_mmx();
    cpu.fpu.set_mm(mm_index(i, 0), u64::split(integers)[0]);
    Ok(())
}
