//! Loads and stores of segment registers, and the instructions that examine selectors (SDM vol. 3A,
//! 5.4 to 5.6 and 5.10).

use super::Exec;
use super::descriptor::{Descriptor, error_code, is_null, null_segment, system, v86_segment};
use super::operand::segment_of;
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::flags::{rflags, zero_extend};
use crate::segment::{Rights, SegReg};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    let segment = |n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_segment_register();
    Some(match i.mnemonic() {
        Mnemonic::Mov if segment(0) => |cpu, i| cpu.mov_to_segment(i),
        Mnemonic::Mov if segment(1) => |cpu, i| cpu.mov_from_segment(i),
        Mnemonic::Push if segment(0) => |cpu, i| cpu.push_segment(i),
        Mnemonic::Pop if segment(0) => |cpu, i| cpu.pop_segment(i),
        Mnemonic::Lds => |cpu, i| cpu.load_far_pointer(i, SegReg::Ds),
        Mnemonic::Les => |cpu, i| cpu.load_far_pointer(i, SegReg::Es),
        Mnemonic::Lfs => |cpu, i| cpu.load_far_pointer(i, SegReg::Fs),
        Mnemonic::Lgs => |cpu, i| cpu.load_far_pointer(i, SegReg::Gs),
        Mnemonic::Lss => |cpu, i| cpu.load_far_pointer(i, SegReg::Ss),
        Mnemonic::Lar => |cpu, i| cpu.load_access_rights(i),
        Mnemonic::Lsl => |cpu, i| cpu.load_segment_limit(i),
        Mnemonic::Verr => |cpu, i| cpu.verify(i, false),
        Mnemonic::Verw => |cpu, i| cpu.verify(i, true),
        Mnemonic::Arpl => |cpu, i| cpu.adjust_rpl(i),
        _ => return None,
    })
}

/// Width in bytes of a segment-register push or pop.
fn stack_operand_size(i: &Instruction) -> u32 {
    i.stack_pointer_increment().unsigned_abs()
}

impl Cpu {
    /// Loads a segment register in real mode: the base follows from the selector, limit and rights
    /// stay. In V86 mode they are V86's.
    pub(crate) fn load_real_mode_segment(&mut self, register: SegReg, selector: u16) {
        let segment = &mut self.seg[register as usize];
        if self.system_flags & rflags::VM != 0 && self.cr0 & crate::cpu::control::CR0_PE != 0 {
            *segment = v86_segment(selector);
        } else {
            segment.selector = selector;
            segment.base = u64::from(selector) << 4;
        }
        self.end_of_block = true;
    }

    /// Loads any segment register but CS with all checks of MOV.
    pub(crate) fn load_segment(&mut self, register: SegReg, selector: u16) -> Result<(), Abort> {
        if self.is_real_mode() || self.is_v86() {
            self.load_real_mode_segment(register, selector);
            return Ok(());
        }
        if is_null(selector) {
            let on_stack = register == SegReg::Ss;
            let allowed = self.is_64bit() && self.cpl != 3 && selector == u16::from(self.cpl);
            if on_stack && !allowed {
                return Err(self.general_protection(0));
            }
            self.seg[register as usize] = null_segment(selector);
            self.end_of_block = true;
            return Ok(());
        }
        let Some(descriptor) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        let (rights, rpl) = (descriptor.rights(), descriptor.rpl());
        if register == SegReg::Ss {
            if rpl != self.cpl || rights.dpl() != self.cpl || !rights.is_writable() {
                return Err(self.general_protection(descriptor.error_code()));
            }
            if !rights.is_present() {
                return Err(self.stack_segment_fault(descriptor.error_code()));
            }
        } else {
            let privileged = rights.is_conforming() || rpl.max(self.cpl) <= rights.dpl();
            if !rights.is_readable() || !privileged {
                return Err(self.general_protection(descriptor.error_code()));
            }
            if !rights.is_present() {
                return Err(self.not_present(descriptor.error_code()));
            }
        }
        let descriptor = Descriptor { marks: true, ..descriptor };
        self.set_accessed(&descriptor)?;
        self.seg[register as usize] = descriptor.segment(selector);
        self.end_of_block = true;
        Ok(())
    }

    /// After a load of SS no interrupt and no debug trap comes before the next instruction has
    /// completed (SDM vol. 3A, 6.8.3).
    pub(crate) fn shadow_of_stack_load(&mut self) {
        self.interrupt_shadow = true;
        self.defer_debug_traps();
    }

    fn mov_to_segment(&mut self, i: &Instruction) -> Result<(), Abort> {
        if i.op_register(0) == Register::CS {
            return Err(self.undefined_opcode());
        }
        let register = segment_of(i.op_register(0));
        let selector = self.selector_operand(i, 1)?;
        self.load_segment(register, selector)?;
        if register == SegReg::Ss {
            self.shadow_of_stack_load();
        }
        Ok(())
    }

    fn mov_from_segment(&mut self, i: &Instruction) -> Result<(), Abort> {
        let selector = self.seg[segment_of(i.op_register(1)) as usize].selector;
        self.write_selector_operand(i, 0, selector.into())
    }

    /// A 16-bit operand that may be a wider register.
    pub(crate) fn selector_operand(&mut self, i: &Instruction, n: u32) -> Result<u16, Abort> {
        if i.op_kind(n) == OpKind::Register {
            return Ok(self.reg(i.op_register(n)) as u16);
        }
        let (segment, offset) = self.operand_offset(i);
        Ok(self.read_sized(segment, offset, 2)? as u16)
    }

    /// Writes a 16-bit value to memory, or to a whole register.
    pub(crate) fn write_selector_operand(
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
        self.write_sized(segment, offset, value & 0xffff, 2)
    }

    fn push_segment(&mut self, i: &Instruction) -> Result<(), Abort> {
        let selector = self.seg[segment_of(i.op_register(0)) as usize].selector;
        let size = stack_operand_size(i);
        let mut stack = self.current_stack();
        // A 32-bit push of a segment register writes two bytes only, as recent processors do; the
        // upper two keep what was there (SDM vol. 2B, PUSH).
        if size == 4 {
            stack.pointer = stack.pointer.wrapping_sub(2);
            self.push_on(&mut stack, selector.into(), 2)?;
        } else {
            self.push_on(&mut stack, selector.into(), size)?;
        }
        self.commit_stack_pointer(&stack);
        Ok(())
    }

    fn pop_segment(&mut self, i: &Instruction) -> Result<(), Abort> {
        let register = segment_of(i.op_register(0));
        let mut stack = self.current_stack();
        let selector = self.peek_stack(&stack, 0, 2)? as u16;
        self.load_segment(register, selector)?;
        self.release_stack(&mut stack, stack_operand_size(i).into());
        self.commit_stack_pointer(&stack);
        if register == SegReg::Ss {
            self.shadow_of_stack_load();
        }
        Ok(())
    }

    fn load_far_pointer(&mut self, i: &Instruction, register: SegReg) -> Result<(), Abort> {
        let size = i.op_register(0).size() as u32;
        let (segment, offset) = self.operand_offset(i);
        let value = self.read_sized(segment, offset, size)?;
        let selector_offset = zero_extend(offset.wrapping_add(size.into()), self.address_size(i));
        let selector = self.read_sized(segment, selector_offset, 2)? as u16;
        self.load_segment(register, selector)?;
        if register == SegReg::Ss {
            self.shadow_of_stack_load();
        }
        self.set_reg(i.op_register(0), value);
        Ok(())
    }

    /// LAR and friends exist in protected mode only.
    fn require_protected_mode(&mut self) -> Result<(), Abort> {
        if self.is_real_mode() || self.is_v86() {
            return Err(self.undefined_opcode());
        }
        Ok(())
    }

    fn set_zero_flag(&mut self, zero: bool) {
        self.change_flags(if zero { rflags::ZF } else { 0 }, rflags::ZF);
    }

    /// The descriptor behind a selector if the current privilege level may know of it and it is of
    /// one of the system types in `kinds` (a bit each), or code or data.
    fn visible_descriptor(
        &mut self,
        selector: u16,
        kinds: u16,
    ) -> Result<Option<super::descriptor::Descriptor>, Abort> {
        if is_null(selector) {
            return Ok(None);
        }
        let Some(descriptor) = self.descriptor(selector)? else { return Ok(None) };
        let rights = descriptor.rights();
        let known = rights.is_code_or_data() || kinds >> rights.kind() & 1 != 0;
        let privileged = rights.is_conforming() || self.cpl.max(descriptor.rpl()) <= rights.dpl();
        if !known || !privileged {
            return Ok(None);
        }
        if !rights.is_code_or_data() && self.is_long_mode() {
            // Descriptors of 16 bytes must lie in the table whole.
            return Ok(self.wide_descriptor(selector)?.map(|(descriptor, _)| descriptor));
        }
        Ok(Some(descriptor))
    }

    fn load_access_rights(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_protected_mode()?;
        let selector = self.selector_operand(i, 1)?;
        let long_kinds = 1 << system::LDT
            | 1 << system::TSS32_AVAILABLE
            | 1 << system::TSS32_BUSY
            | 1 << system::CALL_GATE32;
        let legacy_kinds = long_kinds
            | 1 << system::TSS16_AVAILABLE
            | 1 << system::TSS16_BUSY
            | 1 << system::CALL_GATE16
            | 1 << system::TASK_GATE;
        let kinds = if self.is_long_mode() { long_kinds } else { legacy_kinds };
        let found = self.visible_descriptor(selector, kinds)?;
        if let Some(descriptor) = found {
            self.set_reg(i.op_register(0), descriptor.raw >> 32 & 0x00f0_ff00);
        }
        self.set_zero_flag(found.is_some());
        Ok(())
    }

    fn load_segment_limit(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_protected_mode()?;
        let selector = self.selector_operand(i, 1)?;
        let long_kinds = 1 << system::LDT | 1 << system::TSS32_AVAILABLE | 1 << system::TSS32_BUSY;
        let legacy_kinds = long_kinds | 1 << system::TSS16_AVAILABLE | 1 << system::TSS16_BUSY;
        let kinds = if self.is_long_mode() { long_kinds } else { legacy_kinds };
        let found = self.visible_descriptor(selector, kinds)?;
        if let Some(descriptor) = found {
            self.set_reg(i.op_register(0), descriptor.limit().into());
        }
        self.set_zero_flag(found.is_some());
        Ok(())
    }

    fn verify(&mut self, i: &Instruction, write: bool) -> Result<(), Abort> {
        self.require_protected_mode()?;
        let selector = self.selector_operand(i, 0)?;
        let found = self.visible_descriptor(selector, 0)?;
        let usable =
            |rights: Rights| if write { rights.is_writable() } else { rights.is_readable() };
        self.set_zero_flag(found.is_some_and(|descriptor| usable(descriptor.rights())));
        Ok(())
    }

    fn adjust_rpl(&mut self, i: &Instruction) -> Result<(), Abort> {
        self.require_protected_mode()?;
        let source = self.reg(i.op_register(1)) as u16;
        let adjust = |old: u16| (old & 3 < source & 3).then_some(old & !3 | source & 3);
        let raised = if i.op_kind(0) == OpKind::Register {
            // The 32-bit form writes 16 bits as well.
            let full = i.op_register(0).full_register().number();
            let raised = adjust(self.gpr[full] as u16);
            if let Some(new) = raised {
                self.gpr[full] = self.gpr[full] & !0xffff | u64::from(new);
            }
            raised
        } else {
            let (segment, offset) = self.operand_offset(i);
            // Reads first, and writes only what it changes.
            let raised = adjust(self.read_sized(segment, offset, 2)? as u16);
            if let Some(new) = raised {
                self.write_sized(segment, offset, new.into(), 2)?;
            }
            raised
        };
        self.set_zero_flag(raised.is_some());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, DATA, gate_descriptor, segment_descriptor, tables};
    use tables::FREE;

    fn with_descriptor(access: u8, flags: u8) -> Bench {
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(FREE, segment_descriptor(0x1_2345, 0x12, access, flags));
        bench.change(|state| state.gpr[gpr::RAX] = FREE.into());
        bench
    }

    #[test]
    fn a_load_takes_base_limit_and_rights_and_sets_the_accessed_bit() {
        let mut bench = with_descriptor(0x92, 0xc);
        assert_eq!(bench.run(&[0x8e, 0xd8], 1), Stop::Limit);
        let ds = bench.cpu.seg[SegReg::Ds as usize];
        assert_eq!((ds.selector, ds.base, ds.limit, ds.rights.0), (FREE, 0x1_2345, 0x12fff, 0xc93));
        assert_eq!(bench.peek::<8>(tables::GDT + u64::from(FREE))[5], 0x93);
    }

    /// SDM vol. 2B, MOV, protected mode exceptions.
    #[test]
    fn loads_that_the_manual_forbids() {
        // (access byte, ModRM: SS is 0xd0, DS is 0xd8, selector's RPL, vector)
        for (access, modrm, rpl, vector) in [
            (0x9au8, 0xd8u8, 0u64, None),
            (0x98, 0xd8, 0, Some(13)),
            (0x12, 0xd8, 0, Some(11)),
            (0x92, 0xd8, 3, Some(13)),
            (0xf2, 0xd8, 3, None),
            (0x82, 0xd8, 0, Some(13)),
            (0x92, 0xd0, 0, None),
            (0x90, 0xd0, 0, Some(13)),
            (0x9a, 0xd0, 0, Some(13)),
            (0xf2, 0xd0, 0, Some(13)),
            (0x92, 0xd0, 3, Some(13)),
            (0x12, 0xd0, 0, Some(12)),
        ] {
            let mut bench = with_descriptor(access, 0xc);
            bench.change(|state| state.gpr[gpr::RAX] |= rpl);
            let code = [0x8e, modrm];
            match vector {
                None => assert_eq!(bench.run(&code, 1), Stop::Limit),
                Some(vector) => {
                    assert_eq!(bench.run_to_halt(&code), Some(vector), "{access:#x} {modrm:#x}");
                    assert_eq!(bench.stack32(0), u32::from(FREE));
                }
            }
        }
    }

    #[test]
    fn null_selectors_load_everywhere_but_into_ss() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.gpr[gpr::RAX] = 3);
        assert_eq!(bench.run(&[0x8e, 0xd8], 1), Stop::Limit);
        // MOV AL, [0] through the null DS.
        assert_eq!(bench.run_to_halt(&[0x90, 0x90, 0xa0, 0, 0, 0, 0]), Some(13));
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&[0x8e, 0xd0]), Some(13));
        assert_eq!(bench.stack32(0), 0);
        // In 64-bit mode below level 3 SS may be null.
        let mut bench = Bench::long().with_tables();
        assert_eq!(bench.run(&[0x8e, 0xd0], 1), Stop::Limit);
        assert!(bench.cpu.seg[2].rights.is_null());
    }

    #[test]
    fn cs_cannot_be_loaded() {
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&[0x8e, 0xc8]), Some(6));
    }

    #[test]
    fn a_load_of_ss_holds_interrupts_off() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.gpr[gpr::RAX] = 0x10;
            state.rflags = 0x202;
        });
        // MOV SS, AX; NOP; NOP
        assert_eq!(bench.run(&[0x8e, 0xd0, 0x90, 0x90], 1), Stop::Limit);
        bench.board.interrupt = Some(0x30);
        assert_eq!(bench.go(1), Stop::Limit);
        assert!(bench.cpu.rip < tables::HANDLERS || bench.board.interrupt.is_none());
        assert_eq!(bench.run_to_halt(&[0x8e, 0xd0, 0x90, 0x90]), Some(0x30));
        assert_eq!(bench.stack32(0), crate::testing::CODE as u32 + 3);
    }

    #[test]
    fn limits_are_checked_to_the_byte() {
        for (offset, vector) in [(0x0fu32, None), (0x10, Some(13))] {
            // Limit 0x12: a doubleword fits at 0x0f, not at 0x10.
            let mut bench = with_descriptor(0x92, 0x4);
            let mut code = vec![0x8e, 0xd8, 0xa1];
            code.extend(offset.to_le_bytes());
            match vector {
                None => assert_eq!(bench.run(&code, 2), Stop::Limit),
                Some(vector) => assert_eq!(bench.run_to_halt(&code), Some(vector)),
            }
        }
        // Expand-down: offsets above the limit are the valid ones.
        for (offset, vector) in [(0x12u32, Some(13)), (0x13, None)] {
            let mut bench = with_descriptor(0x96, 0x4);
            let mut code = vec![0x8e, 0xd8, 0xa0];
            code.extend(offset.to_le_bytes());
            match vector {
                None => assert_eq!(bench.run(&code, 2), Stop::Limit),
                Some(vector) => assert_eq!(bench.run_to_halt(&code), Some(vector)),
            }
        }
    }

    #[test]
    fn les_loads_pointer_and_segment() {
        let mut bench = Bench::protected().with_tables();
        bench.poke(DATA, &[0x78, 0x56, 0x34, 0x12, 0x23, 0]);
        // LES ECX, [DATA]
        assert_eq!(bench.run(&[0xc4, 0x0d, 0, 0, 3, 0], 1), Stop::Limit);
        assert_eq!(bench.cpu.gpr[gpr::RCX], 0x1234_5678);
        assert_eq!(bench.cpu.seg[SegReg::Es as usize].selector, 0x23);
    }

    #[test]
    fn lar_lsl_verr_and_verw_answer_by_zf() {
        // (access, opcode bytes after 0F, ZF)
        for (access, code, zf) in [
            (0x92u8, [0x02u8, 0xc8u8], true),
            (0x8b, [0x02, 0xc8], true),
            (0x8e, [0x02, 0xc8], false),
            (0x8c, [0x03, 0xc8], false),
            (0x8b, [0x03, 0xc8], true),
            (0x92, [0x00, 0xe0], true),
            (0x98, [0x00, 0xe0], false),
            (0x90, [0x00, 0xe8], false),
            (0x92, [0x00, 0xe8], true),
            (0x8b, [0x00, 0xe0], false),
        ] {
            let mut bench = with_descriptor(access, 0x4);
            bench.run(&[0x0f, code[0], code[1]], 1);
            assert_eq!(bench.cpu.arith.zf(), zf, "{access:#x} {code:x?}");
            if zf && code[0] == 2 {
                assert_eq!(bench.cpu.gpr[gpr::RCX], 0x40_0000 | u64::from(access) << 8);
            }
            if zf && code[0] == 3 {
                assert_eq!(bench.cpu.gpr[gpr::RCX], 0x12);
            }
        }
        let mut bench = Bench::real();
        bench.change(|state| state.idtr.limit = 0);
        assert_eq!(bench.run(&[0x0f, 0x02, 0xc8], 1), Stop::Shutdown, "#UD in real mode");
        let _ = gate_descriptor;
    }

    #[test]
    fn arpl_raises_the_rpl() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.gpr[gpr::RAX] = 0xffff_0010;
            state.gpr[gpr::RCX] = 3;
        });
        // ARPL AX, CX
        bench.run(&[0x63, 0xc8], 1);
        assert_eq!(bench.cpu.gpr[gpr::RAX], 0xffff_0013);
        assert!(bench.cpu.arith.zf());
    }
}
