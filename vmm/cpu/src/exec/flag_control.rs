//! CLI, STI, PUSHF and POPF with their privilege checks, and the virtual interrupt flag of V86 mode
//! and of protected-mode virtual interrupts (SDM vol. 3A, 20.3 and 20.4).

use super::Exec;
use crate::cpu::{Cpu, control};
use crate::exception::Abort;
use crate::flags::rflags;
use iced_x86::{Code, Instruction};

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Cli => |cpu, _| cpu.cli(),
        Code::Sti => |cpu, _| cpu.sti(),
        Code::Pushfw => |cpu, _| cpu.pushf(2),
        Code::Pushfd => |cpu, _| cpu.pushf(4),
        Code::Pushfq => |cpu, _| cpu.pushf(8),
        Code::Popfw => |cpu, _| cpu.popf(2),
        Code::Popfd => |cpu, _| cpu.popf(4),
        Code::Popfq => |cpu, _| cpu.popf(8),
        _ => return None,
    })
}

impl Cpu {
    /// V86 mode with CR4.VME.
    pub(crate) fn has_virtual_8086_extensions(&self) -> bool {
        self.is_v86() && self.cr4 & control::CR4_VME != 0
    }

    /// Whether CLI and STI work on VIF here: below IOPL, in V86 mode with VME, or at level 3 with
    /// PVI.
    fn has_virtual_interrupt_flag(&self) -> bool {
        self.has_virtual_8086_extensions()
            || !self.is_v86() && self.cpl == 3 && self.cr4 & control::CR4_PVI != 0
    }

    /// Replaces the flags in `mask`.
    pub(crate) fn change_flags(&mut self, value: u64, mask: u64) {
        self.set_rflags(self.rflags() & !mask | value & mask);
    }

    /// Taking interrupts away gives nothing to look at, so the block goes on.
    fn cli(&mut self) -> Result<(), Abort> {
        if self.is_real_mode() || self.cpl <= self.iopl() {
            self.system_flags &= !rflags::IF;
        } else if self.has_virtual_interrupt_flag() {
            self.system_flags &= !rflags::VIF;
        } else {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    fn sti(&mut self) -> Result<(), Abort> {
        self.end_of_block = true;
        if self.is_real_mode() || self.cpl <= self.iopl() {
            if !self.flag(rflags::IF) {
                self.system_flags |= rflags::IF;
                self.interrupt_shadow = true;
            }
        } else if self.has_virtual_interrupt_flag() && !self.flag(rflags::VIP) {
            self.system_flags |= rflags::VIF;
        } else {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    /// FLAGS as an 8086 program under VME sees them: IF is VIF, IOPL is 3.
    pub(crate) fn v86_flags_image(&self, flags: u64) -> u64 {
        if self.iopl() == 3 {
            return flags;
        }
        let vif = if self.flag(rflags::VIF) { rflags::IF } else { 0 };
        flags & !rflags::IF | vif | rflags::IOPL
    }

    /// Loads FLAGS as an 8086 program under VME may: IF goes to VIF; #GP(0) if that would unmask a
    /// pending virtual interrupt, or set TF.
    pub(crate) fn set_virtual_flags(&mut self, flags: u64) -> Result<(), Abort> {
        let enables = flags & rflags::IF != 0;
        if enables && self.flag(rflags::VIP) || flags & rflags::TF != 0 {
            return Err(self.general_protection(0));
        }
        self.change_flags(flags, rflags::ARITHMETIC | rflags::DF | rflags::NT | rflags::TF);
        self.change_flags(if enables { rflags::VIF } else { 0 }, rflags::VIF);
        Ok(())
    }

    fn pushf(&mut self, size: u32) -> Result<(), Abort> {
        let mut flags = self.rflags() & !(rflags::RF | rflags::VM);
        if self.is_v86() && self.iopl() < 3 {
            if size != 2 || !self.has_virtual_8086_extensions() {
                return Err(self.general_protection(0));
            }
            flags = self.v86_flags_image(flags);
        }
        let mut stack = self.current_stack();
        self.push_on(&mut stack, flags, size)?;
        self.commit_stack_pointer(&stack);
        Ok(())
    }

    fn popf(&mut self, size: u32) -> Result<(), Abort> {
        let virtualised = self.is_v86() && self.iopl() < 3;
        if virtualised && (size != 2 || !self.has_virtual_8086_extensions()) {
            return Err(self.general_protection(0));
        }
        let mut stack = self.current_stack();
        let flags = self.pop_from(&mut stack, size)?;
        if virtualised {
            self.end_of_block = true;
            self.set_virtual_flags(flags)?;
            self.commit_stack_pointer(&stack);
            return Ok(());
        }
        let mut mask = rflags::ARITHMETIC | rflags::TF | rflags::DF | rflags::NT;
        if self.is_real_mode() || self.cpl == 0 {
            mask |= rflags::IOPL;
        }
        if self.is_real_mode() || self.cpl <= self.iopl() {
            mask |= rflags::IF;
        }
        if size > 2 {
            // RF is cleared; VIF, VIP and VM are never touched.
            mask |= rflags::AC | rflags::ID | rflags::RF;
        }
        self.commit_stack_pointer(&stack);
        let before = self.system_flags;
        self.change_flags(flags & !rflags::RF, mask);
        // What the run loop acts upon; clearing them can wait for the end of the block.
        let set = self.system_flags & !before;
        if set & (rflags::IF | rflags::TF | rflags::AC) != 0 {
            self.end_of_block = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, STACK};

    #[test]
    fn popf_changes_what_the_level_may() {
        for (level3, iopl, expected) in
            [(false, 0u64, 0x24_7fd7u64), (true, 0, 0x24_4dd7), (true, 3, 0x24_7fd7)]
        {
            let mut bench = Bench::protected().with_tables();
            if level3 {
                bench = bench.at_level_3();
            }
            bench.change(|state| {
                state.rflags = 2 | iopl << 12;
                state.gpr[gpr::RSP] = STACK - 4;
            });
            bench.poke(STACK - 4, &0xffff_ffffu32.to_le_bytes());
            // One instruction; TF traps only after the next.
            assert_eq!(bench.run(&[0x9d, 0x90], 1), Stop::Limit);
            assert_eq!(bench.cpu.rflags(), expected, "level 3: {level3}, IOPL {iopl}");
        }
    }

    #[test]
    fn pushf_hides_rf_and_vm() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.rflags = 0x1_0202);
        assert_eq!(bench.run(&[0x9c], 1), Stop::Limit);
        assert_eq!(bench.stack32(0), 0x202);
    }

    #[test]
    fn cli_and_sti_need_iopl() {
        for code in [[0xfa], [0xfb]] {
            let mut bench = Bench::protected().with_tables().at_level_3();
            assert_eq!(bench.run_to_halt(&code), Some(13));
            let mut bench = Bench::protected().with_tables().at_level_3();
            bench.change(|state| state.rflags = 0x3002);
            assert_eq!(bench.run(&code, 1), Stop::Limit);
        }
    }

    /// SDM vol. 3A, 6.15, interrupt 17.
    #[test]
    fn alignment_is_checked_at_level_3_with_am_and_ac() {
        // PUSH 0x40202; POPFD; MOV EAX, [0x30001]
        let code = [0x68, 2, 2, 4, 0, 0x9d, 0xa1, 1, 0, 3, 0, 0x90];
        for (level3, am, expected) in
            [(true, true, Some(17)), (true, false, None), (false, true, None)]
        {
            let mut bench = Bench::protected().with_tables();
            if level3 {
                bench = bench.at_level_3();
            }
            if am {
                bench.change(|state| state.cr0 |= control::CR0_AM);
            }
            if let Some(vector) = expected {
                assert_eq!(bench.run_to_halt(&code), Some(vector));
                assert_eq!((bench.stack32(0), bench.stack32(1)), (0, 0x1_0006));
            } else {
                assert_eq!(bench.run(&code, 3), Stop::Limit);
            }
        }
    }

    #[test]
    fn popf_that_sets_if_lets_a_waiting_interrupt_in() {
        let mut bench = Bench::protected().with_tables();
        bench.board.interrupt = Some(0x20);
        // PUSH 0x202; POPFD; NOP
        assert_eq!(bench.run_to_halt(&[0x68, 2, 2, 0, 0, 0x9d, 0x90]), Some(0x20));
        assert_eq!(bench.stack32(0), 0x1_0006, "POPF has no shadow");
    }

    /// SDM vol. 3A, 20.4.
    #[test]
    fn protected_mode_virtual_interrupts_work_on_vif() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.change(|state| state.cr4 = control::CR4_PVI);
        assert_eq!(bench.run(&[0xfb, 0xfa], 1), Stop::Limit);
        assert_eq!(bench.cpu.rflags(), 2 | rflags::VIF);
        assert_eq!(bench.go(1), Stop::Limit);
        assert_eq!(bench.cpu.rflags(), 2);
        bench.change(|state| {
            state.rip -= 2;
            state.rflags |= rflags::VIP;
        });
        assert_eq!(bench.run_to_halt(&[0xfb]), Some(13), "STI with an interrupt pending");
    }
}
