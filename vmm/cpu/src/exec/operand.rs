//! Operands of decoded instructions: registers, immediates and memory by the decoder's numbering.

use crate::cpu::{Cpu, ZERO_REG};
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

/// Where a general register lies in [`Cpu::gpr`].
#[derive(Clone, Copy)]
struct Place {
    index: u8,
    /// Bytes; zero for what is no general register.
    size: u8,
    /// Lowest bit: 8 for AH, CH, DH, BH.
    shift: u8,
}

/// [`Place`]s by the decoder's register numbers: the decoder's own answers are table look-ups too,
/// but several per operand.
static PLACES: [Place; 256] = {
    let mut places = [Place { index: ZERO_REG, size: 0, shift: 0 }; 256];
    let mut n = 0;
    while n < 16 {
        let index = n as u8;
        places[Register::RAX as usize + n] = Place { index, size: 8, shift: 0 };
        places[Register::EAX as usize + n] = Place { index, size: 4, shift: 0 };
        places[Register::AX as usize + n] = Place { index, size: 2, shift: 0 };
        // The byte registers are AL to BL, AH to BH, SPL to R15L.
        let byte = Register::AL as usize + n;
        if n < 4 {
            places[byte] = Place { index, size: 1, shift: 0 };
            places[byte + 4] = Place { index, size: 1, shift: 8 };
        } else {
            places[byte + 4] = Place { index, size: 1, shift: 0 };
        }
        n += 1;
    }
    places
};

impl Cpu {
    /// Reads a general register by the decoder's name, zero-extended to 64 bits; zero for none.
    #[inline]
    pub(crate) fn reg(&self, register: Register) -> u64 {
        let place = PLACES[register as usize & 0xff];
        zero_extend(self.gpr[(place.index & 31) as usize] >> place.shift, place.size.into())
    }

    /// Writes a general register: 8- and 16-bit writes keep the rest, 32-bit writes clear it.
    #[inline]
    pub(crate) fn set_reg(&mut self, register: Register, value: u64) {
        let place = PLACES[register as usize & 0xff];
        let full = &mut self.gpr[(place.index & 31) as usize];
        *full = match (place.size, place.shift) {
            (1, 0) => *full & !0xff | value & 0xff,
            (1, _) => *full & !0xff00 | (value & 0xff) << 8,
            (2, _) => *full & !0xffff | value & 0xffff,
            (4, _) => value & 0xffff_ffff,
            (8, _) => value,
            _ => panic!("{register:?} is no general register"),
        };
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

    /// Segment of the instruction's memory operand. In 64-bit mode prefixes for ES, CS, SS and DS are
    /// ignored (SDM vol. 1, 3.7.4), so that the base register alone says whether a fault is #SS.
    pub(crate) fn operand_segment(&self, i: &Instruction) -> SegReg {
        let segment = segment_of(i.memory_segment());
        if matches!(segment, SegReg::Fs | SegReg::Gs) || !self.is_64bit() {
            return segment;
        }
        match i.memory_base() {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => SegReg::Ss,
            _ => SegReg::Ds,
        }
    }

    /// Segment and offset of the instruction's memory operand.
    pub(crate) fn operand_offset(&self, i: &Instruction) -> (SegReg, u64) {
        let segment = self.operand_segment(i);
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
        let linear = self.linear(segment, offset, size, true)?;
        match size {
            1 => self.modify_linear::<1>(linear, change),
            2 => self.modify_linear::<2>(linear, change),
            4 => self.modify_linear::<4>(linear, change),
            _ => self.modify_linear::<8>(linear, change),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    #[test]
    fn every_general_register_has_its_place() {
        for register in Register::values().filter(|register| register.is_gpr()) {
            let mut cpu = Bench::long().cpu;
            cpu.gpr[..16].fill(u64::MAX);
            cpu.set_reg(register, 0);
            let high = (Register::AH..=Register::BH).contains(&register);
            let index = register.full_register().number();
            let expected = match (register.size(), high) {
                (1, true) => !0xff00,
                (1, false) => !0xff,
                (2, _) => !0xffff,
                _ => 0,
            };
            for (n, value) in cpu.gpr[..16].iter().enumerate() {
                assert_eq!(*value, if n == index { expected } else { u64::MAX }, "{register:?}");
            }
            assert_eq!(cpu.reg(register), 0);
            cpu.set_reg(register, u64::MAX);
            assert_eq!(cpu.reg(register), u64::MAX >> (64 - register.size() * 8));
        }
        assert_eq!(Bench::long().cpu.reg(Register::None), 0);
    }
}
