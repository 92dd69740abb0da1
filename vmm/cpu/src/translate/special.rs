//! Instructions with operands of their own, and those whose undefined flags must be made defined.

use super::block::{Flags, Translation};
use super::emit::{Width, at, condition, host};
use super::memory::{Key, Place, Right, stack};
use super::registers::{
    BUDGET, CPL, CR4, KERNEL_GS_BASE, LIMIT, SYSTEM_FLAGS, TEMPORARY, TSC_AHEAD, TSC_AUX,
    TSC_COUNTS_INSTRUCTIONS, TSC_OFFSET, host_of, segment_base, slot,
};
use crate::cpu::{control, gpr};
use crate::flags::rflags;
use crate::interp::general;
use crate::segment::SegReg;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// AH's bits of ZF and AF, cleared.
const WITHOUT_ZF_AF: u8 = !0x50;
/// The guest's number of RBP.
const RBP: u8 = gpr::RBP as u8;
/// AH's bit of AF, cleared.
const WITHOUT_AF: u8 = !0x10;

impl Translation<'_> {
    /// `None` if the instruction is nothing special; `Some(None)` if it has no translation.
    pub(super) fn special(&mut self, i: &Instruction) -> Option<Option<()>> {
        Some(match i.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Pause => {
                self.keeps_held = true;
                Some(())
            }
            Mnemonic::Push => self.push(i),
            Mnemonic::Pop => self.pop(i),
            Mnemonic::Leave => self.leave_frame(i),
            Mnemonic::Lea => self.load_address(i),
            Mnemonic::Cdqe | Mnemonic::Cwde | Mnemonic::Cqo | Mnemonic::Cdq => self.widen(i),
            Mnemonic::Imul if i.op_count() >= 2 => self.multiply(i),
            Mnemonic::Mul | Mnemonic::Imul => self.multiply_wide(i),
            Mnemonic::Div => self.divide(i),
            Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => self.shift(i),
            Mnemonic::Rol | Mnemonic::Ror => self.rotate(i),
            Mnemonic::Bsf | Mnemonic::Bsr => self.scan_bits(i),
            Mnemonic::Cmpxchg => self.compare_exchange(i),
            Mnemonic::Cli => self.clear_interrupt_flag(),
            Mnemonic::Swapgs => self.swap_gs(),
            // Translations are always those of the tables.
            Mnemonic::Invlpg => {
                self.require_supervisor();
                Some(())
            }
            Mnemonic::Pushfq => self.push_flags(),
            Mnemonic::Rdtsc | Mnemonic::Rdtscp => self.read_time_stamp(i),
            _ => return None,
        })
    }

    fn push(&mut self, i: &Instruction) -> Option<()> {
        if i.stack_pointer_increment() != -8 {
            return None;
        }
        let value = match i.op0_kind() {
            OpKind::Register => Some(general(i.op0_register())?),
            OpKind::Memory => {
                let operand = self.reach_operand(i, Right::Load, 8)?;
                self.hot.load(host::R9, operand);
                self.hot.store(TEMPORARY, host::R9);
                None
            }
            _ => None,
        };
        let top = self.reach(stack(-8), Right::Store, 8);
        match (value, i.op0_kind()) {
            (Some(guest), _) => {
                let value = self.value_in(guest, host::R9);
                self.hot.store(top, value);
            }
            (None, OpKind::Memory) => {
                self.hot.load(host::R9, TEMPORARY);
                self.hot.store(top, host::R9);
            }
            (None, _) => {
                let value = i32::try_from(i.immediate(0) as i64).ok()?;
                self.hot.mem(Width::W64, &[0xc7], 0, top);
                self.hot.raw(&value.to_le_bytes());
            }
        }
        self.move_stack(-8);
        Some(())
    }

    fn pop(&mut self, i: &Instruction) -> Option<()> {
        if i.op0_kind() != OpKind::Register || i.stack_pointer_increment() != 8 {
            return None;
        }
        let guest = general(i.op0_register())?;
        let top = self.reach(stack(0), Right::Load, 8);
        // POP RSP keeps the popped value: the increment comes first.
        self.move_stack(8);
        match host_of(guest) {
            Some(register) => self.hot.load(register, top),
            None => {
                self.hot.load(host::R9, top);
                self.hot.store(slot(guest), host::R9);
            }
        }
        self.changed(guest);
        Some(())
    }

    /// RSP moves, by LEA: flags stay.
    fn move_stack(&mut self, by: i32) {
        self.hot.lea(host::R11, at(host::R11, by));
        self.stack_moved(by);
        self.keeps_held = true;
    }

    fn leave_frame(&mut self, i: &Instruction) -> Option<()> {
        if i.code() != Code::Leaveq {
            return None;
        }
        let key = Key { base: Some(RBP), index: None, segment: None };
        let frame = self.reach(Place { key, disp: 0 }, Right::Load, 8);
        self.hot.lea(host::R11, at(host::RBP, 8));
        self.hot.load(host::RBP, frame);
        Some(())
    }

    fn load_address(&mut self, i: &Instruction) -> Option<()> {
        let to = general(i.op0_register())?;
        let width = match i.op0_register().size() {
            8 => Width::W64,
            4 => Width::W32,
            _ => return None,
        };
        let place = self.place_of(i)?;
        let address = self.unsegmented(place);
        match host_of(to) {
            Some(register) => self.hot.mem(width, &[0x8d], register, address),
            None => {
                self.hot.mem(width, &[0x8d], host::R9, address);
                self.hot.store(slot(to), host::R9);
            }
        }
        self.changed_by(i, [to]);
        self.keeps_held = true;
        Some(())
    }

    fn widen(&mut self, i: &Instruction) -> Option<()> {
        match i.mnemonic() {
            // MOVSXD
            Mnemonic::Cdqe => self.hot.reg(Width::W64, &[0x63], host::R10, host::R10),
            // MOVSX r32, r16
            Mnemonic::Cwde => self.hot.reg(Width::W32, &[0x0f, 0xbf], host::R10, host::R10),
            Mnemonic::Cqo => {
                self.save_flags();
                self.hot.mov(host::RDX, host::R10);
                // SAR r64, 63
                self.hot.reg(Width::W64, &[0xc1], 7, host::RDX);
                self.hot.raw(&[63]);
            }
            _ => {
                self.save_flags();
                self.hot.mov32(host::RDX, host::R10);
                self.hot.reg(Width::W32, &[0xc1], 7, host::RDX);
                self.hot.raw(&[31]);
            }
        }
        Some(())
    }

    /// The flags of a product: CF and OF are the host's; SF and PF follow the lower half, in `low`; ZF and
    /// AF are 0.
    fn product_flags(&mut self, low: u8, width: Width) {
        // SETO al; TEST low, low; LAHF; AND ah, ...; OR ah, al
        self.hot.raw(&[0x0f, 0x90, 0xc0]);
        self.hot.reg(width, &[0x85], low, low);
        self.hot.raw(&[0x9f, 0x80, 0xe4, WITHOUT_ZF_AF, 0x08, 0xc4]);
        self.flags = Flags::Saved;
    }

    fn multiply(&mut self, i: &Instruction) -> Option<()> {
        let width = match i.op0_register().size() {
            8 => Width::W64,
            4 => Width::W32,
            _ => return None,
        };
        let to = general(i.op0_register())?;
        let die = self.flags_die();
        self.copy(i)?;
        if !die {
            let low = match host_of(to) {
                Some(register) => register,
                None => {
                    self.hot.load(host::R9, slot(to));
                    host::R9
                }
            };
            self.product_flags(low, width);
        }
        self.keeps_held = true;
        Some(())
    }

    /// MUL and IMUL of RAX into RDX:RAX.
    fn multiply_wide(&mut self, i: &Instruction) -> Option<()> {
        let (width, digit) = wide_operation(i)?;
        let die = self.flags_die();
        if i.op0_kind() == OpKind::Memory {
            let factor = self.reach_operand(i, Right::Load, bytes_of(width))?;
            self.hot.mov(host::RAX, host::R10);
            self.hot.mem(width, &[0xf7], digit, factor);
        } else {
            let factor = self.value_in(general(i.op0_register())?, host::R8);
            self.hot.mov(host::RAX, host::R10);
            self.hot.reg(width, &[0xf7], digit, factor);
        }
        self.hot.mov(host::R10, host::RAX);
        self.flags = Flags::Live;
        if !die {
            self.product_flags(host::R10, width);
        }
        Some(())
    }

    /// DIV: leaves where it would fault. Flags stay.
    fn divide(&mut self, i: &Instruction) -> Option<()> {
        let (width, digit) = wide_operation(i)?;
        self.save_flags();
        if i.op0_kind() == OpKind::Memory {
            let divisor = self.reach_operand(i, Right::Load, bytes_of(width))?;
            self.hot.mem(width, &[0x8b], host::R8, divisor);
        } else {
            let divisor = self.value_in(general(i.op0_register())?, host::R8);
            self.hot.mov(host::R8, divisor);
        }
        let exit = self.exit_here();
        // CMP rdx, r8: the quotient fits if the upper half is below the divisor, which is then not zero.
        self.hot.reg(width, &[0x3b], host::RDX, host::R8);
        self.hot.jcc(condition::AE, exit);
        self.hot.mov(host::R9, host::RAX);
        self.hot.mov(host::RAX, host::R10);
        self.hot.reg(width, &[0xf7], digit, host::R8);
        self.hot.mov(host::R10, host::RAX);
        self.hot.mov(host::RAX, host::R9);
        Some(())
    }

    fn shift(&mut self, i: &Instruction) -> Option<()> {
        let bytes = match i.op0_kind() {
            OpKind::Register => i.op0_register().size(),
            _ => i.memory_size().size(),
        };
        let die = self.flags_die();
        let Some(count) = constant_count(i, bytes) else {
            // By CL: a count of zero leaves the flags alone.
            return if die { self.copy(i) } else { self.shift_by_cl(i, bytes) };
        };
        if count == 0 || count >= bytes as u32 * 8 {
            return None;
        }
        if die {
            self.keeps_held = true;
            return self.copy(i);
        }
        if count == 1 {
            self.keeps_held = true;
            self.copy(i)?;
            self.hot.save_flags();
        } else {
            if i.op0_kind() != OpKind::Register || bytes < 4 {
                return None;
            }
            // OF is that of a shift by one, of a copy.
            let value = self.value_in(general(i.op0_register())?, host::R8);
            self.hot.mov(host::R8, value);
            let width = if bytes == 8 { Width::W64 } else { Width::W32 };
            // D1 /digit; SETO al
            self.hot.reg(width, &[0xd1], shift_digit(i), host::R8);
            self.hot.raw(&[0x0f, 0x90, 0xc0]);
            self.flags = Flags::Live;
            self.copy(i)?;
            // LAHF
            self.hot.raw(&[0x9f]);
        }
        // AND ah, ...
        self.hot.raw(&[0x80, 0xe4, WITHOUT_AF]);
        self.flags = Flags::Saved;
        Some(())
    }

    /// A shift of a register by CL whose flags matter: they stay if the count is zero.
    fn shift_by_cl(&mut self, i: &Instruction, bytes: usize) -> Option<()> {
        let (width, mask) = match bytes {
            4 => (Width::W32, 31),
            8 => (Width::W64, 63),
            _ => return None,
        };
        if i.op0_kind() != OpKind::Register {
            return None;
        }
        let guest = general(i.op0_register())?;
        let digit = shift_digit(i);
        self.save_flags();
        let value = self.value_in(guest, host::R9);
        // TEST cl, mask; JZ over what changes flags
        self.hot.raw(&[0xf6, 0xc1, mask, 0x0f, 0x84, 0, 0, 0, 0]);
        let from = self.hot.bytes.len();
        self.hot.mov(host::R8, value);
        self.hot.reg(width, &[0xd1], digit, host::R8);
        self.hot.raw(&[0x0f, 0x90, 0xc0]);
        self.hot.reg(width, &[0xd3], digit, value);
        self.hot.raw(&[0x9f, 0x80, 0xe4, WITHOUT_AF]);
        let over = (self.hot.bytes.len() - from) as i32;
        self.hot.bytes[from - 4..from].copy_from_slice(&over.to_le_bytes());
        if bytes == 4 {
            // The upper half clears whatever the count.
            self.hot.mov32(value, value);
        }
        if host_of(guest).is_none() {
            self.hot.store(slot(guest), value);
        }
        Some(())
    }

    fn rotate(&mut self, i: &Instruction) -> Option<()> {
        let bytes = match i.op0_kind() {
            OpKind::Register => i.op0_register().size(),
            _ => i.memory_size().size(),
        };
        let count = constant_count(i, bytes)?;
        if count == 0 || count >= bytes as u32 * 8 {
            return None;
        }
        if count == 1 || self.flags_die() {
            return self.copy(i);
        }
        // OF is undefined, and processors differ. The last of the single steps leaves what is wanted.
        if i.op0_kind() != OpKind::Register {
            return None;
        }
        let mut step = *i;
        step.set_immediate8(count as u8 - 1);
        self.copy(&step)?;
        step.set_immediate8(1);
        self.copy(&step)
    }

    /// BSF, BSR: a source of zero leaves all of the destination as it is, which not every processor does
    /// with the upper half.
    fn scan_bits(&mut self, i: &Instruction) -> Option<()> {
        let width = match i.op0_register().size() {
            8 => Width::W64,
            4 => Width::W32,
            _ => return None,
        };
        let opcode = [0x0f, if i.mnemonic() == Mnemonic::Bsf { 0xbc } else { 0xbd }];
        let to = general(i.op0_register())?;
        if i.op1_kind() == OpKind::Memory {
            let source = self.reach_operand(i, Right::Load, bytes_of(width))?;
            self.hot.mem(width, &opcode, host::R9, source);
        } else {
            let source = self.value_in(general(i.op1_register())?, host::R8);
            self.hot.reg(width, &opcode, host::R9, source);
        }
        // CMOVZ r9, to; MOV to, r9
        match host_of(to) {
            Some(register) => {
                self.hot.reg(Width::W64, &[0x0f, 0x44], host::R9, register);
                self.hot.mov(register, host::R9);
            }
            None => {
                self.hot.mem(Width::W64, &[0x0f, 0x44], host::R9, slot(to));
                self.hot.store(slot(to), host::R9);
            }
        }
        self.flags = Flags::Live;
        Some(())
    }

    /// Leaves for the interpreter unless CPL is 0.
    fn require_supervisor(&mut self) {
        self.save_flags();
        let exit = self.exit_here();
        // CMP m8, 0
        self.hot.mem(Width::W32, &[0x80], 7, CPL);
        self.hot.raw(&[0]);
        self.hot.jcc(condition::NE, exit);
    }

    fn clear_interrupt_flag(&mut self) -> Option<()> {
        self.require_supervisor();
        // AND m32, imm32
        self.hot.mem(Width::W32, &[0x81], 4, SYSTEM_FLAGS);
        self.hot.raw(&(!(rflags::IF as u32)).to_le_bytes());
        Some(())
    }

    fn swap_gs(&mut self) -> Option<()> {
        self.require_supervisor();
        let base = segment_base(SegReg::Gs as usize);
        self.hot.load(host::R8, base);
        self.hot.load(host::R9, KERNEL_GS_BASE);
        self.hot.store(base, host::R9);
        self.hot.store(KERNEL_GS_BASE, host::R8);
        Some(())
    }

    /// RDTSC, RDTSCP: the position is what the budget leaves of the limit.
    fn read_time_stamp(&mut self, i: &Instruction) -> Option<()> {
        self.save_flags();
        let exit = self.exit_here();
        // TEST m8, CR4.TSD; CMP m8, 0
        self.hot.mem(Width::W32, &[0xf6], 0, CR4);
        self.hot.raw(&[control::CR4_TSD as u8]);
        self.hot.jcc(condition::NE, exit);
        self.hot.mem(Width::W32, &[0x80], 7, TSC_COUNTS_INSTRUCTIONS);
        self.hot.raw(&[0]);
        self.hot.jcc(condition::E, exit);
        let unexecuted = i32::from(self.operation().rest);
        self.hot.load(host::R9, LIMIT);
        // SUB r9, m64; ADD r9, m64
        self.hot.mem(Width::W64, &[0x2b], host::R9, BUDGET);
        self.hot.mem(Width::W64, &[0x03], host::R9, TSC_AHEAD);
        self.hot.mem(Width::W64, &[0x03], host::R9, TSC_OFFSET);
        self.hot.arith(Width::W64, 5, host::R9, unexecuted);
        self.hot.mov32(host::R10, host::R9);
        self.hot.mov(host::RDX, host::R9);
        // SHR rdx, 32
        self.hot.reg(Width::W64, &[0xc1], 5, host::RDX);
        self.hot.raw(&[32]);
        if i.mnemonic() == Mnemonic::Rdtscp {
            // MOV ecx, m32
            self.hot.mem(Width::W32, &[0x8b], host::RCX, TSC_AUX);
        }
        Some(())
    }

    /// PUSHFQ: there is no virtual-8086 mode among 64-bit code.
    fn push_flags(&mut self) -> Option<()> {
        const LAHF_BITS: i32 = (rflags::ARITHMETIC & 0xff) as i32;
        const HIDDEN: i32 = !((rflags::RF | rflags::VM) as i32);
        self.save_flags();
        let top = self.reach(stack(-8), Right::Store, 8);
        // AH's flags
        self.hot.mov32(host::R9, host::RAX);
        self.hot.reg(Width::W32, &[0xc1], 5, host::R9);
        self.hot.raw(&[8]);
        self.hot.arith(Width::W32, 4, host::R9, LAHF_BITS);
        self.hot.store(TEMPORARY, host::R9);
        // MOVZX r9d, al; SHL r9d, 11: OF
        self.hot.reg(Width::W32, &[0x0f, 0xb6], host::R9, host::RAX);
        self.hot.reg(Width::W32, &[0xc1], 4, host::R9);
        self.hot.raw(&[11]);
        self.hot.mem(Width::W64, &[0x0b], host::R9, TEMPORARY);
        self.hot.mem(Width::W64, &[0x0b], host::R9, SYSTEM_FLAGS);
        self.hot.arith(Width::W64, 1, host::R9, rflags::ONE as i32);
        self.hot.arith(Width::W64, 4, host::R9, HIDDEN);
        self.hot.store(top, host::R9);
        self.move_stack(-8);
        Some(())
    }

    /// CMPXCHG to memory.
    fn compare_exchange(&mut self, i: &Instruction) -> Option<()> {
        if i.op0_kind() != OpKind::Memory {
            return None;
        }
        let bytes = i.memory_size().size();
        let source = general(i.op1_register())?;
        let target = self.reach_operand(i, Right::Store, bytes as u32)?;
        let value = self.value_in(source, host::R9);
        self.hot.mov(host::RAX, host::R10);
        match bytes {
            1 => {
                // R8 as base: there is a REX prefix, so that 4 to 7 mean SPL to DIL.
                self.hot.mem(Width::W32, &[0x0f, 0xb0], value, target);
            }
            2 => {
                self.hot.raw(&[0x66]);
                self.hot.mem(Width::W32, &[0x0f, 0xb1], value, target);
            }
            4 => self.hot.mem(Width::W32, &[0x0f, 0xb1], value, target),
            _ => self.hot.mem(Width::W64, &[0x0f, 0xb1], value, target),
        }
        self.hot.mov(host::R10, host::RAX);
        self.flags = Flags::Live;
        Some(())
    }
}

/// Width and ModRM extension of a one-operand multiplication or division of 4 or 8 bytes.
fn wide_operation(i: &Instruction) -> Option<(Width, u8)> {
    Some(match i.code() {
        Code::Mul_rm32 => (Width::W32, 4),
        Code::Mul_rm64 => (Width::W64, 4),
        Code::Imul_rm32 => (Width::W32, 5),
        Code::Imul_rm64 => (Width::W64, 5),
        Code::Div_rm32 => (Width::W32, 6),
        Code::Div_rm64 => (Width::W64, 6),
        _ => return None,
    })
}

/// Bytes of an operand.
fn bytes_of(width: Width) -> u32 {
    if width == Width::W64 { 8 } else { 4 }
}

/// The ModRM extension of a shift.
fn shift_digit(i: &Instruction) -> u8 {
    match i.mnemonic() {
        Mnemonic::Shr => 5,
        Mnemonic::Sar => 7,
        _ => 4,
    }
}

/// A shift's count, masked as the hardware does, if it is a constant.
fn constant_count(i: &Instruction, bytes: usize) -> Option<u32> {
    if i.op1_kind() == OpKind::Register {
        debug_assert_eq!(i.op1_register(), Register::CL, "only CL counts");
        return None;
    }
    Some(i.immediate(1) as u32 & if bytes == 8 { 63 } else { 31 })
}
