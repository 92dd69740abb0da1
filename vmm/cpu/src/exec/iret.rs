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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE, STACK, segment_descriptor, tables};

    const IRETD: [u8; 1] = [0xcf];
    const IRETQ: [u8; 2] = [0x48, 0xcf];
    const TARGET: u64 = CODE + 0x100;

    fn push32(bench: &mut Bench, words: &[u32]) {
        let top = STACK - 4 * words.len() as u64;
        for (n, word) in words.iter().enumerate() {
            bench.poke(top + n as u64 * 4, &word.to_le_bytes());
        }
        bench.change(|state| state.gpr[gpr::RSP] = top);
    }

    fn push64(bench: &mut Bench, words: &[u64]) {
        let top = STACK - 8 * words.len() as u64;
        for (n, word) in words.iter().enumerate() {
            bench.poke(top + n as u64 * 8, &word.to_le_bytes());
        }
        bench.change(|state| state.gpr[gpr::RSP] = top);
    }

    #[test]
    fn a_return_to_level_3_loads_the_stack_and_drops_inner_segments() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.seg[SegReg::Ds as usize].selector = tables::DATA3;
            state.seg[SegReg::Ds as usize].rights.0 |= 0x60;
        });
        push32(&mut bench, &[TARGET as u32, 0x1b, 0x3202, 0x1234, 0x23]);
        assert_eq!(bench.run(&IRETD, 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.gpr[gpr::RSP]), (3, TARGET, 0x1234));
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (0x1b, 0x23));
        assert!(!state.seg[SegReg::Ds as usize].rights.is_null());
        assert!(state.seg[SegReg::Es as usize].rights.is_null(), "ES had level 0");
        assert_eq!(state.rflags, 0x3202);
    }

    #[test]
    fn level_3_changes_neither_iopl_nor_if() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        push32(&mut bench, &[TARGET as u32, 0x1b, 0x20_3ad7]);
        assert_eq!(bench.run(&IRETD, 1), Stop::Limit);
        assert_eq!(bench.cpu.rflags(), 0x20_08d7);
    }

    #[test]
    fn selectors_that_do_not_fit_are_general_protection_faults() {
        for (cs, error) in [(0u32, 0), (0x10, 0x10), (0x18, 0x18), (0xff8 + 0x1000, 0x1ff8)] {
            let mut bench = Bench::protected().with_tables();
            push32(&mut bench, &[TARGET as u32, cs, 2]);
            let before = bench.cpu.gpr[gpr::RSP];
            assert_eq!(bench.run_to_halt(&IRETD), Some(13), "CS {cs:#x}");
            assert_eq!(bench.stack32(0), error, "CS {cs:#x}");
            assert_eq!(bench.cpu.gpr[gpr::RSP], before - 16, "the pops were undone");
        }
        // A segment that is not present, and an offset beyond the limit.
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(tables::FREE, segment_descriptor(0, 0xfffff, 0x1b, 0xc));
        push32(&mut bench, &[TARGET as u32, tables::FREE.into(), 2]);
        assert_eq!(bench.run_to_halt(&IRETD), Some(11));
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(tables::FREE, segment_descriptor(0, 0xfff, 0x9b, 0x4));
        push32(&mut bench, &[0x1000, tables::FREE.into(), 2]);
        assert_eq!(bench.run_to_halt(&IRETD), Some(13));
        assert_eq!(bench.stack32(0), 0);
    }

    /// SDM vol. 3A, 20.2.5.
    #[test]
    fn vm_in_the_popped_flags_enters_v86_mode() {
        let mut bench = Bench::protected().with_tables();
        let frame = [0x10, 0x1000, 0x2_3202, 0x80, 0x2000, 0x11, 0x22, 0x33, 0x44];
        push32(&mut bench, &frame);
        assert_eq!(bench.run(&IRETD, 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.gpr[gpr::RSP]), (3, 0x10, 0x80));
        let selectors: Vec<u16> = state.seg.iter().map(|segment| segment.selector).collect();
        assert_eq!(selectors, [0x11, 0x1000, 0x2000, 0x22, 0x33, 0x44]);
        for segment in state.seg {
            assert_eq!(segment.base, u64::from(segment.selector) << 4);
            assert_eq!((segment.limit, segment.rights.0), (0xffff, 0xf3));
        }
        assert_eq!(state.rflags, 0x2_3202);
    }

    #[test]
    fn v86_iret_needs_iopl_3() {
        for iopl in [0u32, 3] {
            let mut bench = Bench::protected().with_tables();
            let flags = 0x2_0202 | iopl << 12;
            push32(&mut bench, &[0, CODE as u32 >> 4, flags, 0x80, 0x2000, 0, 0, 0, 0]);
            // IRETW in V86 code, popping IP 0x20, CS 0x1000, FLAGS 0 from 0x2000:0x80.
            bench.poke(0x2_0080, &[0x20, 0, 0, 0x10, 0x00, 0x00]);
            bench.poke(CODE + 0x20, &[0xf4]);
            if iopl == 3 {
                bench.poke(CODE, &IRETD);
                assert_eq!(bench.go(2), Stop::Limit);
                assert_eq!((bench.cpu.rip, bench.cpu.gpr[gpr::RSP]), (0x20, 0x86));
                assert_eq!(bench.cpu.rflags(), 0x2_3002, "VM and IOPL stay");
            } else {
                assert_eq!(bench.run_to_halt(&IRETD), Some(13));
            }
        }
    }

    #[test]
    fn iretq_pops_five_quadwords_whatever_the_level() {
        let mut bench = Bench::long().with_tables();
        push64(&mut bench, &[TARGET, 8, 0x202, 0x1234_5678_9abc, 0x10]);
        assert_eq!(bench.run(&IRETQ, 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.rip, state.gpr[gpr::RSP]), (TARGET, 0x1234_5678_9abc));
        assert_eq!(state.seg[2].selector, 0x10);
    }

    #[test]
    fn iretq_may_load_a_null_ss_below_level_3_only() {
        let mut bench = Bench::long().with_tables();
        push64(&mut bench, &[TARGET, 8, 2, 0x3000, 0]);
        assert_eq!(bench.run(&IRETQ, 1), Stop::Limit);
        assert!(bench.cpu.seg[2].rights.is_null());
        let mut bench = Bench::long().with_tables();
        push64(&mut bench, &[TARGET, 0x1b, 2, 0x3000, 3]);
        assert_eq!(bench.run_to_halt(&IRETQ), Some(13));
        assert_eq!(bench.stack64(0), 0);
    }

    #[test]
    fn iretq_enters_compatibility_mode() {
        let mut bench = Bench::long().with_tables();
        bench.set_descriptor(tables::FREE, segment_descriptor(0, 0xfffff, 0xfb, 0xc));
        push64(&mut bench, &[TARGET, u64::from(tables::FREE) | 3, 2, 0xffff_f000, 0x23]);
        assert_eq!(bench.run(&IRETQ, 1), Stop::Limit);
        assert_eq!((bench.cpu.code_bits(), bench.cpu.cpl), (32, 3));
        assert_eq!(bench.cpu.gpr[gpr::RSP], 0xffff_f000);
    }

    #[test]
    fn targets_must_be_canonical_and_nt_clear_in_long_mode() {
        let mut bench = Bench::long().with_tables();
        push64(&mut bench, &[0x8000_0000_0000, 8, 2, 0x3000, 0x10]);
        assert_eq!(bench.run_to_halt(&IRETQ), Some(13));
        let mut bench = Bench::long().with_tables();
        push64(&mut bench, &[TARGET, 8, 2, 0x3000, 0x10]);
        bench.change(|state| state.rflags |= rflags::NT);
        assert_eq!(bench.run_to_halt(&IRETQ), Some(13));
        assert_eq!(bench.stack64(0), 0);
    }

    #[test]
    fn real_mode_iret_restores_ip_cs_and_flags() {
        let mut bench = Bench::real();
        bench.change(|state| state.gpr[gpr::RSP] = 0x8000);
        bench.poke(0x8000, &[0x34, 0x12, 0x00, 0x20, 0x02, 0x72]);
        assert_eq!(bench.run(&IRETD, 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!(
            (state.rip, state.seg[1].selector, state.seg[1].base),
            (0x1234, 0x2000, 0x20000)
        );
        assert_eq!((state.rflags, state.gpr[gpr::RSP]), (0x7202, 0x8006));
    }
}
