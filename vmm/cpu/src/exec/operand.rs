//! Operands of decoded instructions: registers, immediates and memory by the decoder's numbering.

use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::flags::zero_extend;
use crate::segment::SegReg;
use iced_x86::{Instruction, OpKind, Register};

/// The segment register that the decoder names.
pub(crate) fn segment_of(register: Register) -> SegReg {
    match register {
        Register::ES => SegReg::Es,
        Register::CS => SegReg::Cs,
        Register::SS => SegReg::Ss,
        Register::FS => SegReg::Fs,
        Register::GS => SegReg::Gs,
        _ => SegReg::Ds,
    }
}

impl Cpu {
    /// Reads a general register by the decoder's name, zero-extended to 64 bits.
    pub(crate) fn reg(&self, register: Register) -> u64 {
        match register {
            Register::None => 0,
            Register::AH | Register::CH | Register::DH | Register::BH => {
                self.gpr[register as usize - Register::AH as usize] >> 8 & 0xff
            }
            _ => {
                let value = self.gpr[register.full_register().number() & 31];
                zero_extend(value, register.size() as u32)
            }
        }
    }

    /// Writes a general register: 8- and 16-bit writes keep the rest, 32-bit writes clear it.
    pub(crate) fn set_reg(&mut self, register: Register, value: u64) {
        match register {
            Register::AH | Register::CH | Register::DH | Register::BH => {
                let full = &mut self.gpr[register as usize - Register::AH as usize];
                *full = *full & !0xff00 | (value & 0xff) << 8;
            }
            _ => {
                let full = &mut self.gpr[register.full_register().number() & 31];
                *full = match register.size() {
                    1 => *full & !0xff | value & 0xff,
                    2 => *full & !0xffff | value & 0xffff,
                    4 => value & 0xffff_ffff,
                    _ => value,
                };
            }
        }
    }

    /// Offset in CS of the start of the page that holds the instruction: what page-relative decoder
    /// addresses count from.
    fn page_ip(&self) -> u64 {
        let linear = self.cs_linear(self.rip);
        self.rip.wrapping_sub(linear & 0xfff)
    }

    /// Target of a near relative branch, as an offset in CS, masked to the operand size.
    pub(crate) fn near_target(&self, i: &Instruction) -> u64 {
        let relative = i.near_branch_target().wrapping_add(self.page_ip());
        match i.op0_kind() {
            OpKind::NearBranch16 => relative & 0xffff,
            OpKind::NearBranch32 => relative & 0xffff_ffff,
            _ => relative,
        }
    }

    /// Segment and offset of the instruction's memory operand.
    pub(crate) fn operand_offset(&self, i: &Instruction) -> (SegReg, u64) {
        let segment = segment_of(i.memory_segment());
        if i.is_ip_rel_memory_operand() {
            let address = i.ip_rel_memory_address().wrapping_add(self.page_ip());
            let short = i.memory_base() == Register::EIP;
            return (segment, if short { address & 0xffff_ffff } else { address });
        }
        let (base, index) = (i.memory_base(), i.memory_index());
        let mut offset = i.memory_displacement64();
        offset = offset.wrapping_add(self.reg(base));
        offset = offset.wrapping_add(self.reg(index).wrapping_mul(i.memory_index_scale().into()));
        (segment, zero_extend(offset, self.address_size(i)))
    }

    /// Address size of the instruction in bytes: 2, 4 or 8.
    pub(crate) fn address_size(&self, i: &Instruction) -> u32 {
        let of = |register: Register| if register == Register::None { 0 } else { register.size() };
        match of(i.memory_base()).max(of(i.memory_index())) {
            2 => 2,
            4 => 4,
            8 => 8,
            // No register: the displacement's own width tells.
            _ => match i.memory_displ_size() {
                2 => 2,
                4 => 4,
                _ => {
                    if self.is_64bit() {
                        8
                    } else {
                        4
                    }
                }
            },
        }
    }

    /// Size in bytes of operand `n`: of the register, of the memory access, or of the first operand
    /// for an immediate.
    pub(crate) fn operand_size(&self, i: &Instruction, n: u32) -> u32 {
        match i.op_kind(n) {
            OpKind::Register => i.op_register(n).size() as u32,
            OpKind::Memory => i.memory_size().size() as u32,
            _ => self.operand_size(i, 0),
        }
    }

    /// Reads operand `n` (1, 2, 4 or 8 bytes), zero-extended; immediates are sign-extended to 64
    /// bits as the decoder gives them.
    pub(crate) fn read_operand(&mut self, i: &Instruction, n: u32) -> Result<u64, Abort> {
        match i.op_kind(n) {
            OpKind::Register => Ok(self.reg(i.op_register(n))),
            OpKind::Memory => {
                let (segment, offset) = self.operand_offset(i);
                self.read_sized(segment, offset, i.memory_size().size() as u32)
            }
            _ => Ok(i.immediate(n)),
        }
    }

    /// Writes operand `n` (a register, or 1, 2, 4 or 8 bytes of memory).
    pub(crate) fn write_operand(
        &mut self,
        i: &Instruction,
        n: u32,
        value: u64,
    ) -> Result<(), Abort> {
        if i.op_kind(n) == OpKind::Register {
            self.set_reg(i.op_register(n), value);
            return Ok(());
        }
        let (segment, offset) = self.operand_offset(i);
        self.write_sized(segment, offset, value, i.memory_size().size() as u32)
    }

    /// Read-modify-write of operand `n`: the write permission is checked before the read, as the
    /// hardware does (#PF says W=1). `change` gets the old value zero-extended and returns the new.
    pub(crate) fn modify_operand(
        &mut self,
        i: &Instruction,
        n: u32,
        change: impl FnOnce(&mut Cpu, u64) -> u64,
    ) -> Result<(), Abort> {
        if i.op_kind(n) == OpKind::Register {
            let old = self.reg(i.op_register(n));
            let new = change(self, old);
            self.set_reg(i.op_register(n), new);
            return Ok(());
        }
        let (segment, offset) = self.operand_offset(i);
        self.modify_sized(segment, offset, i.memory_size().size() as u32, change)
    }

    /// Read-modify-write of 1, 2, 4 or 8 bytes at a segment offset; see [`Cpu::modify_operand`].
    pub(crate) fn modify_sized(
        &mut self,
        segment: SegReg,
        offset: u64,
        size: u32,
        change: impl FnOnce(&mut Cpu, u64) -> u64,
    ) -> Result<(), Abort> {
        self.probe_write(segment, offset, size)?;
        let old = self.read_sized(segment, offset, size)?;
        let new = change(self, old);
        self.write_sized(segment, offset, new, size)
            .unwrap_or_else(|_| panic!("a probed write at {:?}:{offset:#x} cannot fault", segment));
        Ok(())
    }

    /// Reads 1, 2, 4 or 8 bytes at a segment offset, zero-extended.
    pub(crate) fn read_sized(&mut self, s: SegReg, offset: u64, size: u32) -> Result<u64, Abort> {
        let linear = self.linear(s, offset, size, false)?;
        self.load(linear, size)
    }

    /// Writes 1, 2, 4 or 8 bytes at a segment offset.
    pub(crate) fn write_sized(
        &mut self,
        s: SegReg,
        offset: u64,
        value: u64,
        size: u32,
    ) -> Result<(), Abort> {
        let linear = self.linear(s, offset, size, true)?;
        self.store(linear, value, size)
    }

    /// Checks that a write of `size` bytes would succeed, with all its side effects on page tables.
    pub(crate) fn probe_write(&mut self, s: SegReg, offset: u64, size: u32) -> Result<(), Abort> {
        let linear = self.linear(s, offset, size, true)?;
        self.probe_store(linear, size)
    }
}
