//! MMX, and the forms of SSE to SSSE3 integer instructions on MMX registers (SDM vol. 1, chapter 9;
//! vol. 2). What joins MMX and XMM registers (MOVQ2DQ, MOVDQ2Q, CVTPI2PS and kin) is with SSE.
//!
//! Every instruction sets TOP to 0 and all tags to valid (EMMS: to empty), once nothing can fault any
//! more.

use super::lanes as l;
use super::{Done, Exec};
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use iced_x86::{Code, Instruction, OpKind, Register};

/// Selects the semantics of an instruction on MMX registers.
pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    /// `MM = f(MM, source)`.
    macro_rules! binary {
        ($f:expr) => {
            |cpu, i| cpu.mmx_binary(i, $f)
        };
    }
    use Code as C;
    Some(match i.code() {
        C::Emms => empty,
        C::Movq_mm_mmm64 => |cpu, i| {
            cpu.mmx_ready()?;
            let value = cpu.mmx_source(i, 1)?;
            cpu.finish_mmx(i, value)
        },
        C::Movd_mm_rm32 | C::Movq_mm_rm64 => |cpu, i| {
            cpu.mmx_ready()?;
            let value = cpu.read_operand(i, 1)?;
            cpu.finish_mmx(i, value)
        },
        C::Movd_rm32_mm | C::Movq_rm64_mm | C::Movq_mmm64_mm | C::Movntq_m64_mm => store,
        C::Maskmovq_rDI_mm_mm => masked_move,
        C::Pshufw_mm_mmm64_imm8 => |cpu, i| {
            cpu.mmx_ready()?;
            let (value, order) = (cpu.mmx_source(i, 1)?, i.immediate8());
            let words = l::to_words(value);
            let shuffled = std::array::from_fn(|n| words[usize::from(order >> (2 * n) & 3)]);
            cpu.finish_mmx(i, l::from_words(shuffled))
        },
        C::Pinsrw_mm_r32m16_imm8 | C::Pinsrw_mm_r64m16_imm8 => |cpu, i| {
            cpu.mmx_ready()?;
            let word = cpu.read_operand(i, 1)? & 0xffff;
            let shift = 16 * u32::from(i.immediate8() & 3);
            let old = cpu.fpu.mm(i.op0_register().number());
            cpu.finish_mmx(i, old & !(0xffff << shift) | word << shift)
        },
        C::Pextrw_r32_mm_imm8 | C::Pextrw_r64_mm_imm8 => |cpu, i| {
            cpu.mmx_to_general(i, |i, value| value >> (16 * u32::from(i.immediate8() & 3)) & 0xffff)
        },
        C::Pmovmskb_r32_mm | C::Pmovmskb_r64_mm => {
            |cpu, i| cpu.mmx_to_general(i, |_, value| l::byte_mask(value))
        }
        C::Palignr_mm_mmm64_imm8 => |cpu, i| {
            cpu.mmx_ready()?;
            let low = cpu.mmx_source(i, 1)?;
            let high = cpu.fpu.mm(i.op0_register().number());
            let both = u128::from(high) << 64 | u128::from(low);
            let bits = 8 * u32::from(i.immediate8());
            cpu.finish_mmx(i, if bits < 128 { (both >> bits) as u64 } else { 0 })
        },

        C::Paddb_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::wrapping_add)),
        C::Paddw_mm_mmm64 => binary!(|a, b| l::words(a, b, u16::wrapping_add)),
        C::Paddd_mm_mmm64 => binary!(|a, b| l::dwords(a, b, u32::wrapping_add)),
        C::Paddq_mm_mmm64 => binary!(u64::wrapping_add),
        C::Paddsb_mm_mmm64 => binary!(|a, b| l::signed_bytes(a, b, i8::saturating_add)),
        C::Paddsw_mm_mmm64 => binary!(|a, b| l::signed_words(a, b, i16::saturating_add)),
        C::Paddusb_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::saturating_add)),
        C::Paddusw_mm_mmm64 => binary!(|a, b| l::words(a, b, u16::saturating_add)),
        C::Psubb_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::wrapping_sub)),
        C::Psubw_mm_mmm64 => binary!(|a, b| l::words(a, b, u16::wrapping_sub)),
        C::Psubd_mm_mmm64 => binary!(|a, b| l::dwords(a, b, u32::wrapping_sub)),
        C::Psubq_mm_mmm64 => binary!(u64::wrapping_sub),
        C::Psubsb_mm_mmm64 => binary!(|a, b| l::signed_bytes(a, b, i8::saturating_sub)),
        C::Psubsw_mm_mmm64 => binary!(|a, b| l::signed_words(a, b, i16::saturating_sub)),
        C::Psubusb_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::saturating_sub)),
        C::Psubusw_mm_mmm64 => binary!(|a, b| l::words(a, b, u16::saturating_sub)),

        C::Pmullw_mm_mmm64 => binary!(|a, b| l::words(a, b, u16::wrapping_mul)),
        C::Pmulhw_mm_mmm64 => binary!(l::multiply_high_signed),
        C::Pmulhuw_mm_mmm64 => binary!(l::multiply_high_unsigned),
        C::Pmulhrsw_mm_mmm64 => binary!(l::multiply_high_rounded),
        C::Pmuludq_mm_mmm64 => binary!(l::multiply_dword),
        C::Pmaddwd_mm_mmm64 => binary!(l::multiply_add_words),
        C::Pmaddubsw_mm_mmm64 => binary!(l::multiply_add_bytes),
        C::Psadbw_mm_mmm64 => binary!(l::sum_of_differences),
        C::Pavgb_mm_mmm64 => binary!(l::average_bytes),
        C::Pavgw_mm_mmm64 => binary!(l::average_words),
        C::Pmaxub_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::max)),
        C::Pminub_mm_mmm64 => binary!(|a, b| l::bytes(a, b, u8::min)),
        C::Pmaxsw_mm_mmm64 => binary!(|a, b| l::signed_words(a, b, i16::max)),
        C::Pminsw_mm_mmm64 => binary!(|a, b| l::signed_words(a, b, i16::min)),

        C::Pand_mm_mmm64 => binary!(|a, b| a & b),
        C::Pandn_mm_mmm64 => binary!(|a, b| !a & b),
        C::Por_mm_mmm64 => binary!(|a, b| a | b),
        C::Pxor_mm_mmm64 => binary!(|a, b| a ^ b),
        C::Pcmpeqb_mm_mmm64 => binary!(l::equal_bytes),
        C::Pcmpeqw_mm_mmm64 => binary!(l::equal_words),
        C::Pcmpeqd_mm_mmm64 => binary!(l::equal_dwords),
        C::Pcmpgtb_mm_mmm64 => binary!(l::greater_bytes),
        C::Pcmpgtw_mm_mmm64 => binary!(l::greater_words),
        C::Pcmpgtd_mm_mmm64 => binary!(l::greater_dwords),

        C::Packsswb_mm_mmm64 => binary!(l::pack_words_signed),
        C::Packssdw_mm_mmm64 => binary!(l::pack_dwords_signed),
        C::Packuswb_mm_mmm64 => binary!(l::pack_words_unsigned),
        C::Punpcklbw_mm_mmm32 => binary!(l::interleave_bytes),
        C::Punpcklwd_mm_mmm32 => binary!(l::interleave_words),
        C::Punpckldq_mm_mmm32 => binary!(l::interleave_dwords),
        C::Punpckhbw_mm_mmm64 => binary!(|a, b| l::interleave_bytes(a >> 32, b >> 32)),
        C::Punpckhwd_mm_mmm64 => binary!(|a, b| l::interleave_words(a >> 32, b >> 32)),
        C::Punpckhdq_mm_mmm64 => binary!(|a, b| l::interleave_dwords(a >> 32, b >> 32)),

        C::Psllw_mm_mmm64 | C::Psllw_mm_imm8 => binary!(l::shift_left_words),
        C::Pslld_mm_mmm64 | C::Pslld_mm_imm8 => binary!(l::shift_left_dwords),
        C::Psllq_mm_mmm64 | C::Psllq_mm_imm8 => binary!(l::shift_left_qword),
        C::Psrlw_mm_mmm64 | C::Psrlw_mm_imm8 => binary!(l::shift_right_words),
        C::Psrld_mm_mmm64 | C::Psrld_mm_imm8 => binary!(l::shift_right_dwords),
        C::Psrlq_mm_mmm64 | C::Psrlq_mm_imm8 => binary!(l::shift_right_qword),
        C::Psraw_mm_mmm64 | C::Psraw_mm_imm8 => binary!(l::shift_right_signed_words),
        C::Psrad_mm_mmm64 | C::Psrad_mm_imm8 => binary!(l::shift_right_signed_dwords),

        C::Pshufb_mm_mmm64 => binary!(shuffle_bytes),
        C::Phaddw_mm_mmm64 => binary!(|a, b| l::horizontal_words(a, b, i16::wrapping_add)),
        C::Phaddd_mm_mmm64 => binary!(|a, b| l::horizontal_dwords(a, b, u32::wrapping_add)),
        C::Phaddsw_mm_mmm64 => binary!(|a, b| l::horizontal_words(a, b, i16::saturating_add)),
        C::Phsubw_mm_mmm64 => binary!(|a, b| l::horizontal_words(a, b, i16::wrapping_sub)),
        C::Phsubd_mm_mmm64 => binary!(|a, b| l::horizontal_dwords(a, b, u32::wrapping_sub)),
        C::Phsubsw_mm_mmm64 => binary!(|a, b| l::horizontal_words(a, b, i16::saturating_sub)),
        C::Psignb_mm_mmm64 => binary!(l::sign_bytes),
        C::Psignw_mm_mmm64 => binary!(l::sign_words),
        C::Psignd_mm_mmm64 => binary!(l::sign_dwords),
        C::Pabsb_mm_mmm64 => binary!(|_, b| l::signed_bytes(b, 0, |b, _| b.wrapping_abs())),
        C::Pabsw_mm_mmm64 => binary!(|_, b| l::signed_words(b, 0, |b, _| b.wrapping_abs())),
        C::Pabsd_mm_mmm64 => binary!(|_, b| l::signed_dwords(b, 0, |b, _| b.wrapping_abs())),
        _ => return None,
    })
}

/// PSHUFB: byte n of the result is byte `b[n] & 7` of `a`, or zero if bit 7 of `b[n]` is set.
fn shuffle_bytes(a: u64, b: u64) -> u64 {
    let table = a.to_le_bytes();
    l::bytes(b, 0, |b, _| if b & 0x80 != 0 { 0 } else { table[usize::from(b & 7)] })
}

/// EMMS: all registers empty, TOP = 0.
fn empty(cpu: &mut Cpu, _i: &Instruction) -> Done {
    cpu.mmx_ready()?;
    cpu.fpu.enter_mmx();
    cpu.fpu.valid = 0;
    Ok(())
}

/// MOVD, MOVQ, MOVNTQ from an MMX register.
fn store(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.mmx_ready()?;
    let value = cpu.fpu.mm(i.op1_register().number());
    if i.op0_register().is_mm() {
        return cpu.finish_mmx(i, value);
    }
    cpu.write_operand(i, 0, value)?;
    cpu.fpu.enter_mmx();
    Ok(())
}

/// MASKMOVQ: the bytes whose mask has its top bit set go to the segment's (R/E)DI, one by one; all
/// are probed before the first is written. With a mask of zeros memory is not touched.
fn masked_move(cpu: &mut Cpu, i: &Instruction) -> Done {
    cpu.mmx_ready()?;
    let value = cpu.fpu.mm(i.op1_register().number()).to_le_bytes();
    let mask = cpu.fpu.mm(i.op2_register().number());
    let size = match i.op0_kind() {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    let segment = cpu.operand_segment(i);
    let offset = crate::flags::zero_extend(cpu.gpr[gpr::RDI], size);
    let wanted = l::byte_mask(mask);
    if wanted != 0 {
        let linear = cpu.linear(segment, offset, 8, true)?;
        let chosen = |n: &u64| wanted >> n & 1 != 0;
        for n in (0..8).filter(chosen) {
            cpu.probe_store(linear.wrapping_add(n), 1)?;
        }
        for n in (0..8).filter(chosen) {
            cpu.store(linear.wrapping_add(n), value[n as usize].into(), 1)?;
        }
    }
    cpu.fpu.enter_mmx();
    Ok(())
}

impl Cpu {
    /// Reads operand `n`: an MMX register, memory (4 or 8 bytes) or an unsigned immediate byte.
    #[inline]
    fn mmx_source(&mut self, i: &Instruction, n: u32) -> Result<u64, Abort> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.fpu.mm(i.op_register(n).number())),
            OpKind::Memory => self.read_operand(i, n),
            _ => Ok(i.immediate8().into()),
        }
    }

    /// Writes the MMX register that is the first operand; the FPU enters MMX.
    #[inline]
    fn finish_mmx(&mut self, i: &Instruction, value: u64) -> Done {
        debug_assert!(i.op0_register() >= Register::MM0);
        self.fpu.enter_mmx();
        self.fpu.set_mm(i.op0_register().number(), value);
        Ok(())
    }

    #[inline]
    fn mmx_binary(&mut self, i: &Instruction, f: impl FnOnce(u64, u64) -> u64) -> Done {
        self.mmx_ready()?;
        let b = self.mmx_source(i, 1)?;
        let a = self.fpu.mm(i.op0_register().number());
        self.finish_mmx(i, f(a, b))
    }

    /// PEXTRW, PMOVMSKB.
    fn mmx_to_general(
        &mut self,
        i: &Instruction,
        f: impl FnOnce(&Instruction, u64) -> u64,
    ) -> Done {
        self.mmx_ready()?;
        let value = f(i, self.fpu.mm(i.op1_register().number()));
        self.set_reg(i.op0_register(), value);
        self.fpu.enter_mmx();
        Ok(())
    }
}
