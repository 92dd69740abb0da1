//! Operands of SSE instructions, and the checks that all of them begin with.

use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::exec::Done;
use crate::segment::SegReg;
use iced_x86::{Instruction, OpKind, Register};

/// Index of an XMM register.
#[inline(always)]
pub(super) fn xmm_index(i: &Instruction, n: u32) -> usize {
    (i.op_register(n) as usize).wrapping_sub(Register::XMM0 as usize) & 15
}

/// Whether operand `n` is a register.
#[inline(always)]
pub(super) fn is_register(i: &Instruction, n: u32) -> bool {
    i.op_kind(n) == OpKind::Register
}

impl Cpu {
    /// #UD unless the system has enabled SSE, then #NM if the task's state is not loaded (SDM
    /// vol. 3A, table 2-2 and section 15.1).
    #[inline(always)]
    pub(super) fn sse(&mut self) -> Done {
        let bad_cr0 = self.cr0 & (control::CR0_EM | control::CR0_TS);
        let bad_cr4 = !self.cr4 & control::CR4_OSFXSR;
        if bad_cr0 | bad_cr4 == 0 { Ok(()) } else { Err(self.sse_refused()) }
    }

    #[cold]
    fn sse_refused(&mut self) -> Abort {
        if self.cr0 & control::CR0_EM != 0 || self.cr4 & control::CR4_OSFXSR == 0 {
            return self.undefined_opcode();
        }
        self.exception(vector::NM, None)
    }

    /// XMM register that is operand `n`.
    #[inline(always)]
    pub(super) fn xmm_at(&self, i: &Instruction, n: u32) -> u128 {
        self.xmm[xmm_index(i, n)]
    }

    /// Writes the XMM register that is operand `n`.
    #[inline(always)]
    pub(super) fn set_xmm_at(&mut self, i: &Instruction, n: u32, value: u128) {
        self.xmm[xmm_index(i, n)] = value;
    }

    /// The linear address of `size` bytes at the memory operand, a multiple of `alignment` or
    /// #GP(0).
    pub(super) fn aligned_linear(
        &mut self,
        i: &Instruction,
        size: u32,
        alignment: u64,
        write: bool,
    ) -> Result<u64, Abort> {
        let (segment, offset) = self.operand_offset(i);
        let has_base = !self.is_64bit() || matches!(segment, SegReg::Fs | SegReg::Gs);
        let base = if has_base { self.seg[segment as usize].base } else { 0 };
        // Before the segment is asked: on the stack, #GP for the alignment wins over #SS.
        if base.wrapping_add(offset) & (alignment - 1) != 0 {
            return Err(self.general_protection(0));
        }
        self.linear(segment, offset, size, write)
    }

    /// Reads 16 bytes of memory on a 16-byte boundary.
    pub(super) fn load_aligned(&mut self, i: &Instruction) -> Result<u128, Abort> {
        let linear = self.aligned_linear(i, 16, 16, false)?;
        self.load_u128(linear)
    }

    /// Writes 16 bytes of memory on a 16-byte boundary.
    pub(super) fn store_aligned(&mut self, i: &Instruction, value: u128) -> Done {
        let linear = self.aligned_linear(i, 16, 16, true)?;
        self.store_u128(linear, value)
    }

    /// Reads 16 bytes of memory anywhere.
    pub(super) fn load_unaligned(&mut self, i: &Instruction) -> Result<u128, Abort> {
        let (segment, offset) = self.operand_offset(i);
        let linear = self.linear(segment, offset, 16, false)?;
        self.load_u128(linear)
    }

    /// Writes 16 bytes of memory anywhere, all or nothing.
    pub(super) fn store_unaligned(&mut self, i: &Instruction, value: u128) -> Done {
        let (segment, offset) = self.operand_offset(i);
        let linear = self.linear(segment, offset, 16, true)?;
        self.store_u128(linear, value)
    }

    /// Operand `n`: a register, or memory on a 16-byte boundary.
    #[inline(always)]
    pub(super) fn source128(&mut self, i: &Instruction, n: u32) -> Result<u128, Abort> {
        if is_register(i, n) { Ok(self.xmm_at(i, n)) } else { self.load_aligned(i) }
    }

    /// Operand `n`: the low half of a register, or 8 bytes of memory.
    #[inline(always)]
    pub(super) fn source64(&mut self, i: &Instruction, n: u32) -> Result<u64, Abort> {
        if is_register(i, n) { Ok(self.xmm_at(i, n) as u64) } else { self.load_operand(i, 8) }
    }

    /// Operand `n`: the low doubleword of a register, or 4 bytes of memory.
    #[inline(always)]
    pub(super) fn source32(&mut self, i: &Instruction, n: u32) -> Result<u32, Abort> {
        if is_register(i, n) {
            Ok(self.xmm_at(i, n) as u32)
        } else {
            Ok(self.load_operand(i, 4)? as u32)
        }
    }

    /// Reads 1, 2, 4 or 8 bytes at the memory operand, zero-extended.
    pub(super) fn load_operand(&mut self, i: &Instruction, size: u32) -> Result<u64, Abort> {
        let (segment, offset) = self.operand_offset(i);
        self.read_sized(segment, offset, size)
    }

    /// Writes 1, 2, 4 or 8 bytes at the memory operand.
    pub(super) fn store_operand(&mut self, i: &Instruction, value: u64, size: u32) -> Done {
        let (segment, offset) = self.operand_offset(i);
        self.write_sized(segment, offset, value, size)
    }

    /// Segment, offset and address mask of operand `n`, which lies at RDI, EDI or DI.
    pub(super) fn rdi_operand(&self, i: &Instruction, n: u32) -> (SegReg, u64, u64) {
        let mask = match i.op_kind(n) {
            OpKind::MemorySegDI => 0xffff,
            OpKind::MemorySegEDI => 0xffff_ffff,
            _ => u64::MAX,
        };
        let segment = self.operand_segment(i);
        (segment, self.gpr[crate::gpr::RDI] & mask, mask)
    }

    /// `xmm1 = f(xmm1, xmm2/m128)`.
    #[inline(always)]
    pub(super) fn binary(&mut self, i: &Instruction, f: impl Fn(u128, u128) -> u128) -> Done {
        self.sse()?;
        let b = self.source128(i, 1)?;
        let a = self.xmm_at(i, 0);
        self.set_xmm_at(i, 0, f(a, b));
        Ok(())
    }

    /// `xmm1 = f(xmm1, xmm2/m128, imm8)`.
    #[inline(always)]
    pub(super) fn ternary(&mut self, i: &Instruction, f: impl Fn(u128, u128, u8) -> u128) -> Done {
        let selector = i.immediate8();
        self.binary(i, |a, b| f(a, b, selector))
    }

    /// `xmm1 = f(xmm2/m64)`.
    #[inline(always)]
    pub(super) fn unary64(&mut self, i: &Instruction, f: impl Fn(u64) -> u128) -> Done {
        self.sse()?;
        let b = self.source64(i, 1)?;
        self.set_xmm_at(i, 0, f(b));
        Ok(())
    }
}
