//! IRET in every mode (SDM vol. 2A, IRET/IRETD/IRETQ).

use super::Exec;
use super::descriptor::{error_code, is_null, null_segment, v86_segment};
use super::stack::Stack;
use crate::cpu::Cpu;
use crate::exception::Abort;
use crate::flags::rflags;
use crate::mmu::is_canonical;
use crate::segment::SegReg;
use iced_x86::{Code, Instruction};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Iretw => |cpu, _| cpu.iret(2),
        Code::Iretd => |cpu, _| cpu.iret(4),
        Code::Iretq => |cpu, _| cpu.iret(8),
        _ => return None,
    })
}

impl Cpu {
    fn iret(&mut self, size: u32) -> Result<(), Abort> {
        // NMIs are unblocked even if the instruction faults (SDM vol. 3A, 6.7.1).
        self.nmi_blocked = false;
        self.end_of_block = true;
        if self.is_real_mode() {
            return self.iret_real_mode(size);
        }
        if self.is_v86() {
            return self.iret_v86(size);
        }
        if self.flag(rflags::NT) {
            if self.is_long_mode() {
                return Err(self.general_protection(0));
            }
            self.require_alone()?;
            return self.return_from_task();
        }
        self.iret_protected_mode(size)
    }

    fn iret_real_mode(&mut self, size: u32) -> Result<(), Abort> {
        let mut stack = self.current_stack();
        let rip = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        let flags = self.pop_from(&mut stack, size)?;
        if rip > u64::from(self.cs().limit) {
            return Err(self.general_protection(0));
        }
        self.commit_stack_pointer(&stack);
        self.load_real_mode_segment(SegReg::Cs, selector);
        let mask = if size == 2 { 0x7fd5 } else { 0x25_7fd5 };
        self.change_flags(flags, mask);
        self.next_rip = rip;
        Ok(())
    }

    fn iret_v86(&mut self, size: u32) -> Result<(), Abort> {
        let virtualised = self.iopl() < 3;
        if virtualised && !(size == 2 && self.has_virtual_8086_extensions()) {
            return Err(self.general_protection(0));
        }
        let mut stack = self.current_stack();
        let rip = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        let flags = self.pop_from(&mut stack, size)?;
        if rip > 0xffff {
            return Err(self.general_protection(0));
        }
        if virtualised {
            self.set_virtual_flags(flags)?;
        } else {
            let mask = rflags::ARITHMETIC | rflags::TF | rflags::IF | rflags::DF | rflags::NT;
            let wide = if size == 4 { rflags::RF | rflags::AC | rflags::ID } else { 0 };
            self.change_flags(flags, mask | wide);
        }
        self.commit_stack_pointer(&stack);
        self.load_real_mode_segment(SegReg::Cs, selector);
        self.next_rip = rip;
        Ok(())
    }

    fn iret_protected_mode(&mut self, size: u32) -> Result<(), Abort> {
        let mut stack = self.current_stack();
        let rip = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        let flags = self.pop_from(&mut stack, size)?;
        let to_v86 = size == 4 && flags & rflags::VM != 0 && self.cpl == 0;
        if to_v86 && !self.is_long_mode() {
            return self.iret_to_v86(stack, rip, selector, flags);
        }

        let code = self.return_code_segment(selector, rip)?;
        let cpl = code.rpl();
        let outer = cpl > self.cpl;
        let mut new_stack = None;
        if outer || self.is_64bit() {
            let pointer = self.pop_from(&mut stack, size)?;
            let ss = self.pop_from(&mut stack, size)? as u16;
            new_stack = Some((pointer, self.return_stack_segment(ss, &code)?));
        }
        self.set_accessed(&code)?;

        let old_cpl = self.cpl;
        self.commit_cs(code.segment(selector), cpl);
        match new_stack {
            Some((pointer, segment)) => {
                self.seg[SegReg::Ss as usize] = segment;
                self.commit_return_pointer(pointer, size);
            }
            None => self.commit_stack_pointer(&stack),
        }
        if outer {
            self.drop_inner_data_segments();
        }
        self.change_flags(flags, self.iret_flags_mask(old_cpl, size));
        self.next_rip = rip;
        Ok(())
    }

    /// The flags that IRET may change at privilege level `cpl`.
    fn iret_flags_mask(&self, cpl: u8, size: u32) -> u64 {
        let mut mask = rflags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT;
        if size > 2 {
            mask |= rflags::RF | rflags::AC | rflags::ID;
        }
        if cpl <= self.iopl() {
            mask |= rflags::IF;
        }
        if cpl == 0 {
            mask |= rflags::IOPL;
            if size > 2 {
                mask |= rflags::VIF | rflags::VIP;
            }
        }
        mask
    }

    /// From privilege level 0 to virtual-8086 mode (SDM vol. 3A, 20.2.5).
    fn iret_to_v86(
        &mut self,
        mut stack: Stack,
        rip: u64,
        cs: u16,
        flags: u64,
    ) -> Result<(), Abort> {
        let pointer = self.pop_from(&mut stack, 4)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = self.pop_from(&mut stack, 4)? as u16;
        }
        if rip > 0xffff {
            return Err(self.general_protection(0));
        }
        let [ss, es, ds, fs, gs] = selectors;
        self.set_rflags(flags);
        for (register, selector) in [
            (SegReg::Es, es),
            (SegReg::Ss, ss),
            (SegReg::Ds, ds),
            (SegReg::Fs, fs),
            (SegReg::Gs, gs),
        ] {
            self.seg[register as usize] = v86_segment(selector);
        }
        self.commit_cs(v86_segment(cs), 3);
        self.gpr[crate::cpu::gpr::RSP] = pointer;
        self.next_rip = rip;
        Ok(())
    }

    /// The code segment that IRET or RETF returns to, checked with the offset.
    pub(crate) fn return_code_segment(
        &mut self,
        selector: u16,
        rip: u64,
    ) -> Result<super::descriptor::Descriptor, Abort> {
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let Some(code) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        let (rights, rpl) = (code.rights(), code.rpl());
        let privilege =
            if rights.is_conforming() { rights.dpl() <= rpl } else { rights.dpl() == rpl };
        if !rights.is_code() || rpl < self.cpl || !privilege {
            return Err(self.general_protection(code.error_code()));
        }
        if !rights.is_present() {
            return Err(self.not_present(code.error_code()));
        }
        self.check_code_offset(&code, rip)?;
        Ok(code)
    }

    /// The stack segment that IRET or RETF returns to, checked against the code segment.
    pub(crate) fn return_stack_segment(
        &mut self,
        selector: u16,
        code: &super::descriptor::Descriptor,
    ) -> Result<crate::segment::Segment, Abort> {
        let cpl = code.rpl();
        if is_null(selector) {
            // 64-bit code below level 3 may run on a null SS.
            let to_64bit = self.is_long_mode() && code.rights().is_long();
            if to_64bit && cpl != 3 && selector & 3 == u16::from(cpl) {
                return Ok(null_segment(selector));
            }
            return Err(self.general_protection(0));
        }
        let Some(data) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        let rights = data.rights();
        if data.rpl() != cpl || rights.dpl() != cpl || !rights.is_writable() {
            return Err(self.general_protection(data.error_code()));
        }
        if !rights.is_present() {
            return Err(self.stack_segment_fault(data.error_code()));
        }
        self.set_accessed(&data)?;
        Ok(data.segment(selector))
    }

    /// #GP(0) unless `rip` lies in the code segment (or is canonical, for 64-bit code), #GP(CS) for
    /// a segment that is both 64- and 32-bit.
    pub(crate) fn check_code_offset(
        &mut self,
        code: &super::descriptor::Descriptor,
        rip: u64,
    ) -> Result<(), Abort> {
        let long = self.is_long_mode() && code.rights().is_long();
        if long && code.rights().is_big() {
            return Err(self.general_protection(code.error_code()));
        }
        let valid = if long { is_canonical(rip) } else { rip <= u64::from(code.limit()) };
        if valid { Ok(()) } else { Err(self.general_protection(0)) }
    }

    /// Loads the stack pointer that a return popped, at the width of the new stack segment.
    pub(crate) fn commit_return_pointer(&mut self, pointer: u64, size: u32) {
        let register = &mut self.gpr[crate::cpu::gpr::RSP];
        let wide = self.seg[SegReg::Ss as usize].rights.is_big();
        let long = self.efer & crate::cpu::control::EFER_LMA != 0
            && self.seg[SegReg::Cs as usize].rights.is_long();
        if size == 8 || long || wide {
            *register = pointer;
        } else {
            *register = *register & !0xffff | pointer & 0xffff;
        }
    }
}
