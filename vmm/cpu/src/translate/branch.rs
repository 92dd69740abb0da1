//! Where blocks end: jumps, calls, returns.
//!
//! Within a page, a jump goes straight to the target's code (`pages`), or is none, where that comes next. To
//! another page, or to an address from a register or memory, it asks the TLB: a code entry leads from the linear
//! page to the entry points of the blocks in its physical page. For direct calls see `calls`.
//!
//! Calls and returns. Beside what the guest's stack gets, a call pushes a pair onto the host's: the linear
//! return address, and (by the host's own CALL) the host code that goes on there. A guest's RET to just that
//! address is the host's RET, which the processor predicts. Pairs do not outlive a stay in host code.

use super::block::Translation;
use super::calls::push_return;
use super::emit::{Width, at, condition, host};
use super::host::reason;
use super::memory::{Right, stack};
use super::registers::{NEXT, PAGE, RIP, STACK_LIMIT, TEMPORARY};
use crate::interp::general;
use iced_x86::{Code, Instruction, OpKind};

impl Translation<'_> {
    /// The block's last instruction.
    pub(super) fn branch(&mut self, i: &Instruction) -> Option<()> {
        let fall = i.next_ip();
        if i.is_jcc_short_or_near() {
            let to = direct_target(i)?;
            let condition = crate::interp::condition(i)?;
            self.want_flags();
            if self.flags == super::block::Flags::Live {
                self.hot.save_flags();
            }
            self.flags = super::block::Flags::Saved;
            let is_inverted = self.is_follower(to);
            let (condition, to, fall) =
                if is_inverted { (condition ^ 1, fall, to) } else { (condition, to, fall) };
            if to < 4096 {
                let exit = self.exit_here();
                let at = self.hot.jcc(condition, exit);
                self.link(at, exit, to);
            } else {
                let far = self.cold_jump(to);
                self.hot.jcc(condition, far);
            }
            self.go_to(fall);
            return Some(());
        }
        match i.code() {
            _ if i.is_jmp_short_or_near() => {
                let to = direct_target(i)?;
                self.save_flags();
                self.go_to(to);
            }
            _ if i.is_call_near() => {
                let to = direct_target(i)?;
                self.save_flags();
                self.call(to, fall)?;
            }
            Code::Retnq | Code::Retnq_imm16 => {
                let drop = if i.op_count() == 1 { i.immediate16() } else { 0 };
                let top = self.reach(stack(0), Right::Load, 8);
                self.save_flags();
                self.hot.load(host::R8, top);
                if drop == 0 {
                    self.return_to_caller();
                    return Some(());
                }
                self.find_target();
                self.hot.lea(host::R11, at(host::R11, 8 + i32::from(drop)));
                self.hot.enter_page();
                self.hot.jmp_register(host::R9);
            }
            Code::Jmp_rm64 => {
                self.save_flags();
                self.indirect_target(i)?;
                self.find_target();
                self.hot.enter_page();
                self.hot.jmp_register(host::R9);
            }
            Code::Call_rm64 => {
                self.save_flags();
                self.indirect_target(i)?;
                self.find_target();
                self.call_r9(fall)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// R8 = where an indirect branch leads.
    fn indirect_target(&mut self, i: &Instruction) -> Option<()> {
        if i.op0_kind() == OpKind::Register {
            let target = self.value_in(general(i.op0_register())?, host::R8);
            self.hot.mov(host::R8, target);
            self.held = None;
            return Some(());
        }
        let place = self.reach_operand(i, Right::Load, 8)?;
        self.hot.load(host::R8, place);
        self.held = None;
        Some(())
    }

    /// CALL to a place that lies `to` from the page.
    fn call(&mut self, to: u64, fall: u64) -> Option<()> {
        if to < 4096 {
            self.push_return(fall)?;
            // The call has completed: what is left is a jump.
            let exit = self.cold_exit_to(to);
            if fall < 4096 {
                let unpaired = self.cold.here();
                let at = self.cold.jmp(exit);
                self.link(at, exit, to);
                self.pair(unpaired);
                let at = self.hot.call(exit);
                self.link(at, exit, to);
                self.continue_after_call(fall);
            } else {
                let at = self.hot.jmp(exit);
                self.link(at, exit, to);
            }
            return Some(());
        }
        self.far_call(to, fall)
    }

    /// CALL to another page: see [`calls`](super::calls).
    fn far_call(&mut self, to: u64, fall: u64) -> Option<()> {
        let distance = i32::try_from(to.wrapping_sub(fall) as i64).ok()?;
        let top = self.reach(stack(-8), Right::Store, 8);
        if top.disp != 0 {
            self.hot.lea(host::R8, top);
        }
        self.hot.store(TEMPORARY, host::R8);
        self.held = None;
        let unknown = self.cold_exit(reason::UNKNOWN);
        if fall >= 4096 {
            self.unpaired_far_call(to, fall, unknown)?;
            return Some(());
        }
        let unpaired = self.cold.here();
        std::mem::swap(&mut self.hot, &mut self.cold);
        let done = self.unpaired_far_call(to, fall, unknown);
        std::mem::swap(&mut self.hot, &mut self.cold);
        done?;
        self.hot.load(host::R9, PAGE);
        self.hot.arith(Width::W64, 0, host::R9, i32::try_from(fall).ok()?);
        self.pair(unpaired);
        self.hot.lea(host::R8, at(host::R9, distance));
        let site = self.hot.call(self.thunks.calls.unlinked);
        let call = (site, self.operation());
        self.tools.calls.push(call);
        self.continue_after_call(fall);
        Some(())
    }

    /// The rest of a call to another page whose return address is pushed onto the guest's stack only.
    fn unpaired_far_call(&mut self, to: u64, fall: u64, unknown: u32) -> Option<()> {
        self.far_target(to);
        self.hot.find_target(unknown);
        // XCHG r64, m64
        self.hot.mem(Width::W64, &[0x87], host::R9, TEMPORARY);
        self.hot.load(host::R8, PAGE);
        self.hot.arith(Width::W64, 0, host::R8, i32::try_from(fall).ok()?);
        push_return(&mut self.hot);
        self.hot.enter_page();
        // JMP m64
        self.hot.mem(Width::W32, &[0xff], 4, TEMPORARY);
        Some(())
    }

    /// The rest of a call whose target's entry point is in R9.
    fn call_r9(&mut self, fall: u64) -> Option<()> {
        self.hot.store(TEMPORARY, host::R9);
        self.push_return(fall)?;
        if fall >= 4096 {
            self.hot.enter_page();
            // JMP m64
            self.hot.mem(Width::W32, &[0xff], 4, TEMPORARY);
            return Some(());
        }
        let unpaired = self.cold.here();
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.hot.enter_page();
        self.hot.mem(Width::W32, &[0xff], 4, TEMPORARY);
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.pair(unpaired);
        self.hot.enter_page();
        // CALL m64
        self.hot.mem(Width::W32, &[0xff], 2, TEMPORARY);
        self.continue_after_call(fall);
        Some(())
    }

    /// Pushes the linear return address in R9 onto the host's stack, the lower half of a pair, unless there
    /// are too many: then goes to `unpaired`.
    fn pair(&mut self, unpaired: u32) {
        // CMP rsp, m64
        self.hot.mem(Width::W64, &[0x3b], host::RSP, STACK_LIMIT);
        self.hot.jcc(condition::B, unpaired);
        // PUSH r9
        self.hot.raw(&[0x41, 0x51]);
    }

    /// Where a host call returns to: the guest's RET found its pair on top. Here it completes.
    fn continue_after_call(&mut self, fall: u64) {
        self.hot.lea(host::R11, at(host::R11, 8));
        // POP r8
        self.hot.raw(&[0x41, 0x58]);
        self.hot.arith(Width::W64, 4, host::R8, -4096);
        self.hot.store(PAGE, host::R8);
        let exit = self.cold_exit_to(fall);
        self.end_at(fall, exit);
    }

    /// RET to the linear address in R8: by the host's RET if the pair on top of the host's stack is of that
    /// address. Nothing was remapped since it was pushed, because host code was not left.
    fn return_to_caller(&mut self) {
        let exit = self.exit_here();
        let unknown = self.cold_exit(reason::UNKNOWN);
        let unpaired = self.cold.here();
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.hot.find_target(unknown);
        self.hot.lea(host::R11, at(host::R11, 8));
        self.hot.enter_page();
        self.hot.jmp_register(host::R9);
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.hot.constant32(host::R9, exit);
        // CMP r8, [rsp + 8]
        self.hot.mem(Width::W64, &[0x3b], host::R8, at(host::RSP, 8));
        self.hot.jcc(condition::NE, unpaired);
        self.hot.raw(&[0xc3]);
    }

    /// Pushes the linear address that lies `fall` from the page.
    fn push_return(&mut self, fall: u64) -> Option<()> {
        let fall = i32::try_from(fall).ok()?;
        let top = self.reach(stack(-8), Right::Store, 8);
        self.hot.load(host::R9, PAGE);
        self.hot.arith(Width::W64, 0, host::R9, fall);
        self.hot.store(top, host::R9);
        self.hot.lea(host::R11, at(host::R11, -8));
        Some(())
    }

    /// Goes on at a place that lies `to` from the page. Flags are saved.
    pub(super) fn go_to(&mut self, to: u64) {
        if to < 4096 {
            let exit = self.exit_here();
            self.end_at(to, exit);
        } else {
            let far = self.cold_jump(to);
            self.hot.jmp(far);
        }
    }

    /// An exit, in the cold half, that goes on in this page.
    fn cold_exit_to(&mut self, to: u64) -> u32 {
        let start = self.cold.here();
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.far_target(to);
        self.hot.store(NEXT, host::R8);
        self.hot.constant32(host::R9, reason::JUMP as u32);
        self.hot.jmp(self.thunks.exit);
        std::mem::swap(&mut self.hot, &mut self.cold);
        start
    }

    /// A jump to another page, in the cold half.
    fn cold_jump(&mut self, to: u64) -> u32 {
        let unknown = self.cold_exit(reason::UNKNOWN);
        let start = self.cold.here();
        std::mem::swap(&mut self.hot, &mut self.cold);
        self.far_target(to);
        self.hot.go_to_linear(unknown);
        std::mem::swap(&mut self.hot, &mut self.cold);
        start
    }

    /// Goes on where `Cpu::rip` says. Flags are saved.
    pub(super) fn go_on_at_rip(&mut self) {
        let unknown = self.cold.here();
        self.cold.constant32(host::R9, reason::UNKNOWN_JUMP as u32);
        self.cold.jmp(self.thunks.exit);
        self.hot.load(host::R8, RIP);
        self.hot.go_to_linear(unknown);
    }

    /// R8 = the linear address that lies `to` from the page.
    fn far_target(&mut self, to: u64) {
        self.hot.load(host::R8, PAGE);
        // A direct branch reaches 2 GiB; the sum with its place in the page may need more.
        match i32::try_from(to as i64) {
            Ok(to) => self.hot.arith(Width::W64, 0, host::R8, to),
            Err(_) => {
                self.hot.constant64(host::R9, to);
                self.hot.reg(Width::W64, &[0x03], host::R8, host::R9);
            }
        }
    }

    /// R9 = the entry point for the linear address in R8, or leaves with nothing changed.
    fn find_target(&mut self) {
        let unknown = self.cold_exit(reason::UNKNOWN);
        self.hot.find_target(unknown);
    }
}

/// Where a direct branch with the mode's own operand size leads, relative to the page.
fn direct_target(i: &Instruction) -> Option<u64> {
    (i.op0_kind() == OpKind::NearBranch64).then(|| i.near_branch_target())
}
