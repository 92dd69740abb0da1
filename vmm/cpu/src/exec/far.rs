//! Far jumps, calls and returns: to code segments, through call gates, to tasks (SDM vol. 3A, 5.8;
//! vol. 2A, JMP, CALL, RET).

use super::Exec;
use super::descriptor::{Descriptor, error_code, is_null, null_segment, system};
use crate::cpu::{Cpu, gpr};
use crate::exception::Abort;
use crate::flags::zero_extend;
use crate::segment::SegReg;
use iced_x86::{Code, Instruction};

/// Which instruction transfers control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    Jump,
    Call,
}

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Jmp_ptr1616 | Code::Jmp_ptr1632 => |cpu, i| cpu.far_direct(i, Transfer::Jump),
        Code::Call_ptr1616 | Code::Call_ptr1632 => |cpu, i| cpu.far_direct(i, Transfer::Call),
        Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 => {
            |cpu, i| cpu.far_indirect(i, Transfer::Jump)
        }
        Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664 => {
            |cpu, i| cpu.far_indirect(i, Transfer::Call)
        }
        Code::Retfw => |cpu, _| cpu.far_return(2, 0),
        Code::Retfd => |cpu, _| cpu.far_return(4, 0),
        Code::Retfq => |cpu, _| cpu.far_return(8, 0),
        Code::Retfw_imm16 => |cpu, i| cpu.far_return(2, i.immediate16()),
        Code::Retfd_imm16 => |cpu, i| cpu.far_return(4, i.immediate16()),
        Code::Retfq_imm16 => |cpu, i| cpu.far_return(8, i.immediate16()),
        _ => return None,
    })
}

impl Cpu {
    fn far_direct(&mut self, i: &Instruction, transfer: Transfer) -> Result<(), Abort> {
        let (offset, size) = match i.code() {
            Code::Jmp_ptr1616 | Code::Call_ptr1616 => (u64::from(i.far_branch16()), 2),
            _ => (u64::from(i.far_branch32()), 4),
        };
        self.far_transfer(transfer, i.far_branch_selector(), offset, size)
    }

    fn far_indirect(&mut self, i: &Instruction, transfer: Transfer) -> Result<(), Abort> {
        let size = match i.code() {
            Code::Jmp_m1616 | Code::Call_m1616 => 2,
            Code::Jmp_m1632 | Code::Call_m1632 => 4,
            _ => 8,
        };
        let (segment, at) = self.operand_offset(i);
        let offset = self.read_sized(segment, at, size)?;
        let selector_at = zero_extend(at.wrapping_add(size.into()), self.address_size(i));
        let selector = self.read_sized(segment, selector_at, 2)? as u16;
        self.far_transfer(transfer, selector, offset, size)
    }

    fn far_transfer(
        &mut self,
        transfer: Transfer,
        selector: u16,
        offset: u64,
        size: u32,
    ) -> Result<(), Abort> {
        self.require_alone()?;
        if self.is_real_mode() || self.is_v86() {
            return self.far_transfer_real_mode(transfer, selector, offset, size);
        }
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let Some(target) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        if target.rights().is_code_or_data() {
            return self.far_transfer_to_code(transfer, &target, offset, size);
        }
        // Everything else must be visible to both levels.
        let dpl = target.rights().dpl();
        let kind = target.rights().kind();
        let known = match kind {
            system::CALL_GATE32 => true,
            system::CALL_GATE16 | system::TASK_GATE => !self.is_long_mode(),
            // TSS descriptors live in the GDT.
            system::TSS16_AVAILABLE | system::TSS32_AVAILABLE => {
                !self.is_long_mode() && selector & 4 == 0
            }
            _ => false,
        };
        if !known || dpl < self.cpl || dpl < target.rpl() {
            return Err(self.general_protection(target.error_code()));
        }
        if !target.rights().is_present() {
            return Err(self.not_present(target.error_code()));
        }
        match kind {
            system::CALL_GATE16 | system::CALL_GATE32 => self.through_call_gate(transfer, &target),
            system::TASK_GATE => self.switch_task_by_task_gate(transfer, &target),
            _ => self.switch_task_by_transfer(transfer, &target),
        }
    }

    fn far_transfer_real_mode(
        &mut self,
        transfer: Transfer,
        selector: u16,
        offset: u64,
        size: u32,
    ) -> Result<(), Abort> {
        let limit = if self.is_v86() { 0xffff } else { u64::from(self.cs().limit) };
        if transfer == Transfer::Call {
            let mut stack = self.current_stack();
            self.push_on(&mut stack, self.cs().selector.into(), size)?;
            self.push_on(&mut stack, self.next_rip, size)?;
            if offset > limit {
                return Err(self.general_protection(0));
            }
            self.commit_stack_pointer(&stack);
        } else if offset > limit {
            return Err(self.general_protection(0));
        }
        self.load_real_mode_segment(SegReg::Cs, selector);
        self.next_rip = offset;
        Ok(())
    }

    /// To a code segment, at the same privilege level.
    fn far_transfer_to_code(
        &mut self,
        transfer: Transfer,
        code: &Descriptor,
        offset: u64,
        size: u32,
    ) -> Result<(), Abort> {
        let rights = code.rights();
        let privileged = if rights.is_conforming() {
            rights.dpl() <= self.cpl
        } else {
            code.rpl() <= self.cpl && rights.dpl() == self.cpl
        };
        if !rights.is_code() || !privileged {
            return Err(self.general_protection(code.error_code()));
        }
        if !rights.is_present() {
            return Err(self.not_present(code.error_code()));
        }
        let mut stack = self.current_stack();
        if transfer == Transfer::Call {
            self.push_on(&mut stack, self.cs().selector.into(), size)?;
            self.push_on(&mut stack, self.next_rip, size)?;
        }
        self.check_code_offset(code, offset)?;
        self.set_accessed(code)?;
        if transfer == Transfer::Call {
            self.commit_stack_pointer(&stack);
        }
        let selector = code.selector & !3 | u16::from(self.cpl);
        self.commit_cs(code.segment(selector), self.cpl);
        self.next_rip = offset;
        Ok(())
    }

    /// Through a call gate, perhaps to an inner privilege level.
    fn through_call_gate(&mut self, transfer: Transfer, gate: &Descriptor) -> Result<(), Abort> {
        let long = self.is_long_mode();
        let mut offset = gate.gate_offset();
        let mut size = if gate.rights().kind() & 8 != 0 { 4 } else { 2 };
        if long {
            let Some((_, upper)) = self.wide_descriptor(gate.selector)? else {
                return Err(self.general_protection(gate.error_code()));
            };
            // The type field of the upper half must be zero.
            if upper >> 40 & 0x1f != 0 {
                return Err(self.general_protection(gate.error_code()));
            }
            offset |= upper << 32;
            size = 8;
        } else if size == 2 {
            offset &= 0xffff;
        }
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let Some(code) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        let rights = code.rights();
        let same_level = rights.is_conforming() || rights.dpl() == self.cpl;
        let reachable = rights.dpl() <= self.cpl && (transfer == Transfer::Call || same_level);
        let mode_fits = !long || rights.is_long() && !rights.is_big();
        if !rights.is_code() || !reachable || !mode_fits {
            return Err(self.general_protection(code.error_code()));
        }
        if !rights.is_present() {
            return Err(self.not_present(code.error_code()));
        }
        let inner = transfer == Transfer::Call && !same_level;
        let cpl = if inner { rights.dpl() } else { self.cpl };
        let old = self.current_stack();
        let mut stack = match (inner, long) {
            (false, false) => old,
            (false, true) => super::stack::Stack::flat(self.gpr[gpr::RSP], cpl),
            (true, false) => self.inner_stack(cpl)?,
            (true, true) => self.long_mode_inner_stack(cpl, 0)?,
        };
        if inner {
            let ss = self.seg[SegReg::Ss as usize].selector;
            self.push_on(&mut stack, ss.into(), size)?;
            self.push_on(&mut stack, self.gpr[gpr::RSP], size)?;
            let parameters = if long { 0 } else { gate.gate_parameters() };
            for n in (0..parameters).rev() {
                let value = self.peek_stack(&old, u64::from(n * size), size)?;
                self.push_on(&mut stack, value, size)?;
            }
        }
        if transfer == Transfer::Call {
            self.push_on(&mut stack, self.cs().selector.into(), size)?;
            self.push_on(&mut stack, self.next_rip, size)?;
        }
        self.check_code_offset(&code, offset)?;
        self.set_accessed(&code)?;
        self.commit_cs(code.segment(code.selector & !3 | u16::from(cpl)), cpl);
        if inner && !long {
            self.commit_stack(&stack);
        } else {
            if inner {
                self.seg[SegReg::Ss as usize] = null_segment(cpl.into());
            }
            self.commit_stack_pointer(&stack);
        }
        self.next_rip = offset;
        Ok(())
    }

    fn far_return(&mut self, size: u32, release: u16) -> Result<(), Abort> {
        self.require_alone()?;
        let mut stack = self.current_stack();
        let rip = self.pop_from(&mut stack, size)?;
        let selector = self.pop_from(&mut stack, size)? as u16;
        if self.is_real_mode() || self.is_v86() {
            let limit = if self.is_v86() { 0xffff } else { u64::from(self.cs().limit) };
            if rip > limit {
                return Err(self.general_protection(0));
            }
            self.release_stack(&mut stack, release.into());
            self.commit_stack_pointer(&stack);
            self.load_real_mode_segment(SegReg::Cs, selector);
            self.next_rip = rip;
            return Ok(());
        }
        let code = self.return_code_segment(selector, rip)?;
        self.release_stack(&mut stack, release.into());
        if code.rpl() == self.cpl {
            self.set_accessed(&code)?;
            self.commit_cs(code.segment(selector), self.cpl);
            self.commit_stack_pointer(&stack);
            self.next_rip = rip;
            return Ok(());
        }
        let pointer = self.pop_from(&mut stack, size)?;
        let ss = self.pop_from(&mut stack, size)? as u16;
        let segment = self.return_stack_segment(ss, &code)?;
        self.set_accessed(&code)?;
        self.commit_cs(code.segment(selector), code.rpl());
        self.seg[SegReg::Ss as usize] = segment;
        // The outer stack drops its copies of the parameters too; a 16-bit one wraps.
        let width = if size == 8 || segment.rights.is_big() || self.is_64bit() { 8 } else { 2 };
        let pointer = pointer.wrapping_add(release.into());
        let pointer = match (width, self.is_64bit()) {
            (8, true) => pointer,
            (8, false) => pointer & 0xffff_ffff,
            _ => pointer & 0xffff,
        };
        self.commit_return_pointer(pointer, size);
        self.drop_inner_data_segments();
        self.next_rip = rip;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE, DATA, STACK, gate_descriptor, segment_descriptor, tables};
    use tables::FREE;

    const TARGET: u32 = 0x1_0100;

    /// JMP or CALL FAR selector:offset in 32-bit code.
    fn far32(opcode: u8, selector: u16, offset: u32) -> Vec<u8> {
        let mut code = vec![opcode];
        code.extend(offset.to_le_bytes());
        code.extend(selector.to_le_bytes());
        code
    }
    const JMP: u8 = 0xea;
    const CALL: u8 = 0x9a;

    #[test]
    fn a_real_mode_far_call_pushes_cs_and_ip() {
        let mut bench = Bench::real();
        assert_eq!(bench.run(&[0x9a, 0x34, 0x12, 0x00, 0x20], 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!(
            (state.rip, state.seg[1].selector, state.seg[1].base),
            (0x1234, 0x2000, 0x20000)
        );
        assert_eq!(bench.peek::<4>(0xffec), [5, 0, 0x00, 0x10]);
        // RETF 2 at the target.
        bench.poke(0x2_1234, &[0xca, 2, 0]);
        assert_eq!(bench.go(1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.rip, state.seg[1].selector, state.gpr[4]), (5, 0x1000, 0xfff2));
    }

    #[test]
    fn a_far_jump_loads_code_segments_by_the_rules_of_privilege() {
        // (selector, access byte of its descriptor, error: None if it succeeds), at level 0.
        for (access, rpl, vector) in [
            (0x9a, 0, None),
            (0x9a, 1, Some(13)),
            (0x9e, 3, None),
            (0xfa, 0, Some(13)),
            (0xfe, 0, Some(13)),
            (0x92, 0, Some(13)),
            (0x1a, 0, Some(11)),
        ] {
            let mut bench = Bench::protected().with_tables();
            bench.set_descriptor(FREE, segment_descriptor(0, 0xfffff, access, 0xc));
            bench.poke(TARGET.into(), &[0x90]);
            let code = far32(JMP, FREE | rpl, TARGET);
            match vector {
                None => {
                    assert_eq!(bench.run(&code, 1), Stop::Limit, "{access:#x} RPL {rpl}");
                    assert_eq!(bench.cpu.rip, u64::from(TARGET));
                    assert_eq!(bench.cpu.seg[1].selector, FREE, "RPL becomes CPL");
                    let [_, _, _, _, _, in_memory, ..] =
                        bench.peek::<8>(tables::GDT + u64::from(FREE));
                    assert_eq!(in_memory, access | 1, "the accessed bit");
                }
                Some(vector) => {
                    assert_eq!(bench.run_to_halt(&code), Some(vector), "{access:#x} RPL {rpl}");
                    assert_eq!(bench.stack32(0), u32::from(FREE));
                    assert_eq!(bench.stack32(1), CODE as u32);
                }
            }
        }
    }

    #[test]
    fn a_jump_beyond_the_limit_is_refused() {
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(FREE, segment_descriptor(0, 0xfff, 0x9a, 0x4));
        assert_eq!(bench.run_to_halt(&far32(JMP, FREE, 0x1000)), Some(13));
        assert_eq!(bench.stack32(0), 0);
    }

    /// SDM vol. 3A, 5.8.5.
    #[test]
    fn a_call_gate_switches_stacks_and_copies_parameters() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.set_descriptor(FREE, gate_descriptor(tables::CODE0, TARGET, 0xec, 2));
        bench.poke(STACK - 8, &[1, 0, 0, 0, 2, 0, 0, 0]);
        bench.change(|state| state.gpr[gpr::RSP] = STACK - 8);
        // At the gate: RETF 8.
        bench.poke(TARGET.into(), &[0xca, 8, 0]);
        assert_eq!(bench.run(&far32(CALL, FREE | 3, 0xdead_beef), 1), Stop::Limit);
        assert_eq!((bench.cpu.cpl, bench.cpu.rip), (0, TARGET.into()));
        assert_eq!(bench.cpu.gpr[gpr::RSP], tables::STACK0 - 24);
        let frame: Vec<u32> = (0..6).map(|n| bench.stack32(n)).collect();
        assert_eq!(frame, [CODE as u32 + 7, 0x1b, 1, 2, STACK as u32 - 8, 0x23]);
        assert_eq!(bench.go(1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip), (3, CODE + 7));
        assert_eq!((state.gpr[gpr::RSP], state.seg[2].selector), (STACK, 0x23));
    }

    #[test]
    fn a_call_gate_must_be_visible_and_a_jump_may_not_change_level() {
        // DPL of the gate below CPL.
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.set_descriptor(FREE, gate_descriptor(tables::CODE0, TARGET, 0x8c, 0));
        assert_eq!(bench.run_to_halt(&far32(CALL, FREE | 3, 0)), Some(13));
        assert_eq!(bench.stack32(0), u32::from(FREE));
        // A jump to an inner level: #GP(code selector).
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.set_descriptor(FREE, gate_descriptor(tables::CODE0, TARGET, 0xec, 0));
        assert_eq!(bench.run_to_halt(&far32(JMP, FREE | 3, 0)), Some(13));
        assert_eq!(bench.stack32(0), u32::from(tables::CODE0));
        // A gate that is not present.
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.set_descriptor(FREE, gate_descriptor(tables::CODE0, TARGET, 0x6c, 0));
        assert_eq!(bench.run_to_halt(&far32(CALL, FREE | 3, 0)), Some(11));
    }

    #[test]
    fn a_64_bit_call_gate_pushes_quadwords_and_nulls_ss() {
        let mut bench = Bench::long().with_tables().at_level_3();
        bench.set_descriptor(FREE, gate_descriptor(tables::CODE0, TARGET, 0xec, 0));
        bench.set_descriptor(FREE + 8, 0);
        // CALL FAR [DATA]: m16:32.
        bench.poke(DATA, &[0, 0, 0, 0, FREE as u8 | 3, 0]);
        assert_eq!(bench.run(&[0xff, 0x1c, 0x25, 0, 0, 3, 0], 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rip, state.seg[2].selector), (0, TARGET.into(), 0));
        assert_eq!(state.gpr[gpr::RSP], tables::STACK0 - 32);
        let frame: Vec<u64> = (0..4).map(|n| bench.stack64(n)).collect();
        assert_eq!(frame, [CODE + 7, 0x1b, STACK, 0x23]);
    }

    #[test]
    fn retf_to_an_outer_level_checks_its_stack() {
        let mut bench = Bench::protected().with_tables();
        for (n, word) in [TARGET, 0x1b, 0x1000, 0x10].into_iter().enumerate() {
            bench.poke(STACK - 16 + n as u64 * 4, &word.to_le_bytes());
        }
        bench.change(|state| state.gpr[gpr::RSP] = STACK - 16);
        assert_eq!(bench.run_to_halt(&[0xcb]), Some(13), "SS of level 0");
        assert_eq!(bench.stack32(0), 0x10);
    }
}
