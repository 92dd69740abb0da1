//! Debug registers, breakpoints and single step for the guest's own use (SDM vol. 3B, chapter 17).
//!
//! While [`Cpu::is_debug_armed`] instructions run one by one, by the reference semantics. Before each
//! the run loop calls [`Cpu::begin_debugged_instruction`], after one that failed
//! [`Cpu::undo_debugged_instruction`], after one that completed [`Cpu::debug_traps_due`]. Accesses
//! through segments report to [`Cpu::data_breakpoint`].

use super::Exec;
use crate::cpu::{Cpu, control};
use crate::exception::{Abort, vector};
use crate::flags::rflags;
use iced_x86::{Code, Instruction, Register};

/// Bits of DR6 and DR7 (SDM vol. 3B, 17.2.3 and 17.2.4).
mod bits {
    /// DR6.BD: a debug register was accessed while DR7.GD was set.
    pub(super) const BD: u64 = 1 << 13;
    /// DR6.BS: single step.
    pub(super) const BS: u64 = 1 << 14;
    /// DR6.BT: a task with the T flag was entered.
    pub(super) const BT: u64 = 1 << 15;
    /// DR6 bits that can be written.
    pub(super) const DR6_WRITABLE: u64 = 0xe00f;
    /// DR6 bits that read as one.
    pub(super) const DR6_ONES: u64 = 0xffff_0ff0;
    /// DR7.GD.
    pub(super) const GD: u64 = 1 << 13;
    /// DR7 bits that can be written.
    pub(super) const DR7_WRITABLE: u64 = 0xffff_23ff;
    /// DR7 bits that read as one.
    pub(super) const DR7_ONES: u64 = 0x400;
    /// DR7: any of L0-L3, G0-G3.
    pub(super) const ENABLES: u64 = 0xff;
}

/// In `pending_debug` only (DR6 bit 12 is reserved): the causes wait for one more instruction,
/// because a load of SS earned them.
const DEFERRED: u64 = 1 << 12;

/// What a breakpoint is on: the R/W field of DR7.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Execute = 0,
    Write = 1,
    Port = 2,
    ReadWrite = 3,
}

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.code() {
        Code::Mov_r32_dr | Code::Mov_r64_dr => |cpu, i| cpu.mov_from_debug(i),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => |cpu, i| cpu.mov_to_debug(i),
        _ => return None,
    })
}

impl Cpu {
    /// Whether instructions must run one by one for the sake of breakpoints, TF, RF or a trap.
    #[inline]
    pub(crate) fn is_debug_armed(&self) -> bool {
        self.dr[7] & bits::ENABLES != 0 || self.pending_debug != 0 || self.flag(rflags::TF)
    }

    /// Clears RF where it can have no effect: it only holds off instruction breakpoints, and the
    /// instruction about to run would clear it when it completes (SDM vol. 3B, 17.3.1.1).
    #[inline]
    pub(crate) fn clear_idle_resume_flag(&mut self) {
        if !self.is_debug_armed() {
            self.system_flags &= !rflags::RF;
        }
    }

    /// Before an instruction: faults on an instruction breakpoint unless RF is set, and notes that
    /// TF earns a trap. Returns what [`Cpu::undo_debugged_instruction`] needs.
    pub(crate) fn begin_debugged_instruction(&mut self) -> Result<(u64, u64), Abort> {
        let saved = (self.system_flags & rflags::RF, self.pending_debug);
        if saved.0 == 0 {
            self.check_instruction_breakpoint()?;
        }
        self.system_flags &= !rflags::RF;
        if self.flag(rflags::TF) {
            self.pending_debug |= bits::BS;
        }
        Ok(saved)
    }

    /// After an instruction that did not complete: as if it had not begun.
    pub(crate) fn undo_debugged_instruction(&mut self, saved: (u64, u64)) {
        self.system_flags |= saved.0;
        self.pending_debug = saved.1;
    }

    /// After a completed instruction: whether a debug trap is due; moves its causes to DR6. The run
    /// loop then calls [`Cpu::deliver_debug_trap`].
    pub(crate) fn debug_traps_due(&mut self) -> bool {
        if self.pending_debug & DEFERRED != 0 {
            self.pending_debug &= !DEFERRED;
            return false;
        }
        if self.pending_debug == 0 {
            return false;
        }
        self.dr[6] |= self.pending_debug;
        self.pending_debug = 0;
        true
    }

    /// The current instruction earns a single-step trap.
    pub(crate) fn earn_single_step(&mut self) {
        self.pending_debug |= bits::BS;
    }

    /// The current instruction does not trap after all.
    pub(crate) fn drop_single_step(&mut self) {
        self.pending_debug &= !bits::BS;
    }

    /// A task with the T flag was entered.
    pub(crate) fn earn_task_switch_trap(&mut self) {
        self.pending_debug |= bits::BT;
    }

    /// A load of SS: single step is suppressed, data breakpoints wait for the next instruction.
    pub(crate) fn defer_debug_traps(&mut self) {
        self.drop_single_step();
        if self.pending_debug != 0 {
            self.pending_debug |= DEFERRED;
        }
    }

    /// DR6 bits of the enabled breakpoints whose condition `wanted` accepts and which overlap
    /// `size` bytes at `address`.
    fn matching_breakpoints(&self, address: u64, size: u32, wanted: impl Fn(u64) -> bool) -> u64 {
        let dr7 = self.dr[7];
        let mut hit = 0;
        for n in 0..4 {
            let enabled = dr7 >> (2 * n) & 3 != 0;
            if !enabled || !wanted(dr7 >> (16 + 4 * n) & 3) {
                continue;
            }
            let length = match dr7 >> (18 + 4 * n) & 3 {
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4u64,
            };
            let start = self.dr[n as usize] & !(length - 1);
            let before = address.wrapping_sub(start);
            let after = start.wrapping_sub(address);
            if before < length || after < u64::from(size) {
                hit |= 1 << n;
            }
        }
        hit
    }

    /// #DB if an instruction breakpoint is on `rip` (SDM vol. 3B, 17.3.1.1).
    pub(crate) fn check_instruction_breakpoint(&mut self) -> Result<(), Abort> {
        if self.dr[7] & bits::ENABLES == 0 {
            return Ok(());
        }
        let linear = self.cs_linear(self.rip);
        let hit = self.matching_breakpoints(linear, 1, |c| c == Condition::Execute as u64);
        if hit == 0 {
            return Ok(());
        }
        self.dr[6] |= hit;
        self.instruction_breakpoint = true;
        Err(self.exception(vector::DB, None))
    }

    /// Notes that an access of `size` bytes at a linear address hit data breakpoints: a trap after
    /// the instruction (SDM vol. 3B, 17.3.1.2).
    #[inline]
    pub(crate) fn data_breakpoint(&mut self, linear: u64, size: u32, write: bool) {
        if self.dr[7] & bits::ENABLES == 0 {
            return;
        }
        let hit = self.matching_breakpoints(linear, size, |c| {
            c == Condition::ReadWrite as u64 || write && c == Condition::Write as u64
        });
        if hit != 0 {
            self.pending_debug |= hit;
            self.end_of_block = true;
        }
    }

    /// Notes that I/O breakpoints were hit; they exist with CR4.DE.
    pub(crate) fn port_breakpoint(&mut self, port: u16, size: u32) {
        if self.dr[7] & bits::ENABLES != 0 && self.cr4 & control::CR4_DE != 0 {
            let hit = self.matching_breakpoints(port.into(), size, |c| c == Condition::Port as u64);
            self.pending_debug |= hit;
        }
    }

    /// Number of the debug register that an instruction names; DR4 and DR5 are DR6 and DR7, or #UD
    /// with CR4.DE. #GP(0) above level 0, #DB if DR7.GD guards them.
    fn debug_register(&mut self, register: Register) -> Result<usize, Abort> {
        let number = match register {
            Register::DR0 => 0,
            Register::DR1 => 1,
            Register::DR2 => 2,
            Register::DR3 => 3,
            Register::DR4 | Register::DR5 if self.cr4 & control::CR4_DE != 0 => {
                return Err(self.undefined_opcode());
            }
            Register::DR4 | Register::DR6 => 6,
            Register::DR5 | Register::DR7 => 7,
            _ => return Err(self.undefined_opcode()),
        };
        self.require_cpl0()?;
        if self.dr[7] & bits::GD != 0 {
            self.dr[6] |= bits::BD;
            self.dr[7] &= !bits::GD;
            return Err(self.exception(vector::DB, None));
        }
        Ok(number)
    }

    fn mov_from_debug(&mut self, i: &Instruction) -> Result<(), Abort> {
        let number = self.debug_register(i.op_register(1))?;
        self.set_reg(i.op_register(0), self.dr[number]);
        Ok(())
    }

    fn mov_to_debug(&mut self, i: &Instruction) -> Result<(), Abort> {
        let number = self.debug_register(i.op_register(0))?;
        let value = self.reg(i.op_register(1));
        if number >= 6 && value >> 32 != 0 {
            return Err(self.general_protection(0));
        }
        self.dr[number] = match number {
            6 => value & bits::DR6_WRITABLE | bits::DR6_ONES,
            7 => value & bits::DR7_WRITABLE | bits::DR7_ONES,
            _ => value,
        };
        self.end_of_block = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE, DATA, tables};

    /// SDM vol. 3B, 17.3.1.4.
    #[test]
    fn single_step_traps_after_each_instruction() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.rflags = 0x102);
        assert_eq!(bench.run_to_halt(&[0x90, 0x90]), Some(1));
        assert_eq!(bench.stack32(0), CODE as u32 + 1);
        assert_eq!(bench.stack32(2), 0x102, "TF in the frame, RF clear: a trap");
        assert_eq!(bench.cpu.dr[6], 0xffff_4ff0);
        assert!(!bench.cpu.flag(rflags::TF));
    }

    #[test]
    fn popf_that_sets_tf_traps_one_instruction_later() {
        let mut bench = Bench::protected().with_tables();
        // PUSH 0x102; POPF; NOP; NOP
        assert_eq!(bench.run_to_halt(&[0x68, 2, 1, 0, 0, 0x9d, 0x90, 0x90]), Some(1));
        assert_eq!(bench.stack32(0), CODE as u32 + 7);
    }

    #[test]
    fn int_clears_tf_before_it_traps() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.rflags = 0x102);
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(0x80));
        assert_eq!(bench.stack32(2), 0x102);
    }

    #[test]
    fn a_load_of_ss_is_not_stepped_over_separately() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.rflags = 0x102;
            state.gpr[gpr::RAX] = 0x10;
        });
        assert_eq!(bench.run_to_halt(&[0x8e, 0xd0, 0x90, 0x90]), Some(1));
        assert_eq!(bench.stack32(0), CODE as u32 + 3);
    }

    /// SDM vol. 3B, 17.3.1.1.
    #[test]
    fn an_instruction_breakpoint_faults_until_rf_is_set() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.dr[1] = CODE + 1;
            state.dr[7] = 0x400 | 1 << 3;
        });
        assert_eq!(bench.run_to_halt(&[0x90, 0x90, 0x90, 0xf4]), Some(1));
        assert_eq!(bench.stack32(0), CODE as u32 + 1);
        assert_eq!(bench.stack32(2), 2, "RF is the handler's to set");
        assert_eq!(bench.cpu.dr[6], 0xffff_0ff2);
        // IRETD with RF set runs the instruction.
        bench.change(|state| {
            state.halted = false;
            state.rip = tables::HANDLERS;
        });
        bench.poke(bench.cpu.gpr[gpr::RSP] + 8, &0x1_0002u32.to_le_bytes());
        bench.poke(tables::HANDLERS, &[0xcf]);
        assert_eq!(bench.go(2), Stop::Limit);
        assert_eq!(bench.cpu.rip, CODE + 2);
        assert!(!bench.cpu.flag(rflags::RF), "one instruction long");
    }

    /// SDM vol. 3B, 17.3.1.2.
    #[test]
    fn data_breakpoints_trap_after_the_access() {
        // (R/W and LEN of breakpoint 0, code, offset from DATA, hit)
        let write = [0xa2, 0x03, 0, 3, 0];
        let read = [0xa0, 0x03, 0, 3, 0];
        for (field, code, start, hit) in [
            (0b0001, write, 3, true),
            (0b0001, read, 3, false),
            (0b0011, read, 3, true),
            (0b0001, write, 2, false),
            (0b0101, write, 2, true),
            (0b1101, write, 0, true),
            (0b1101, write, 4, false),
            (0b1001, write, 0, true),
        ] {
            let mut bench = Bench::protected().with_tables();
            bench.change(|state| {
                state.dr[0] = DATA + start;
                state.dr[7] = 0x400 | 1 | field << 16;
            });
            let code = [code.as_slice(), &[0x90, 0xf4]].concat();
            let vector = bench.run_to_halt(&code);
            assert_eq!(vector, hit.then_some(1), "{field:#b} {code:x?}");
            if hit {
                assert_eq!(bench.stack32(0), CODE as u32 + 5);
                assert_eq!(bench.cpu.dr[6] & 0xf, 1);
            }
        }
    }

    #[test]
    fn the_stack_is_data_too() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.dr[0] = crate::testing::STACK - 4;
            state.dr[7] = 0x400 | 1 | 0b1101 << 16;
        });
        assert_eq!(bench.run_to_halt(&[0x50, 0x90]), Some(1));
        assert_eq!(bench.stack32(0), CODE as u32 + 1);
    }

    #[test]
    fn port_breakpoints_need_cr4_de() {
        for de in [false, true] {
            let mut bench = Bench::protected().with_tables();
            bench.change(|state| {
                state.dr[0] = 0x80;
                state.dr[7] = 0x400 | 1 | 0b0010 << 16;
                state.cr4 = if de { control::CR4_DE } else { 0 };
            });
            assert_eq!(bench.run_to_halt(&[0xe6, 0x80, 0xf4]), de.then_some(1));
        }
    }

    #[test]
    fn general_detect_guards_the_registers_once() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.dr[7] = 0x2400);
        // MOV EAX, DR0
        assert_eq!(bench.run_to_halt(&[0x0f, 0x21, 0xc0]), Some(1));
        assert_eq!(bench.cpu.dr[6], 0xffff_2ff0);
        assert_eq!(bench.cpu.dr[7], 0x400);
        assert_eq!((bench.stack32(0), bench.stack32(2)), (CODE as u32, 0x1_0002), "a fault");
    }

    #[test]
    fn dr4_and_dr5_are_aliases_without_de() {
        // MOV EAX, DR5
        let code = [0x0f, 0x21, 0xe8, 0xf4];
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&code), None);
        assert_eq!(bench.cpu.gpr[gpr::RAX], 0x400);
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.cr4 = control::CR4_DE);
        assert_eq!(bench.run_to_halt(&code), Some(6));
    }

    #[test]
    fn fixed_bits_of_dr6_and_dr7_read_as_fixed() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.gpr[gpr::RAX] = 0xffff_ffff);
        // MOV DR6, EAX
        assert_eq!(bench.run(&[0x0f, 0x23, 0xf0], 1), Stop::Limit);
        assert_eq!(bench.cpu.dr[6], 0xffff_efff);
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.gpr[gpr::RAX] = 0xffff_dc00);
        assert_eq!(bench.run(&[0x0f, 0x23, 0xf8], 1), Stop::Limit);
        assert_eq!(bench.cpu.dr[7], 0xffff_0400);
    }
}
