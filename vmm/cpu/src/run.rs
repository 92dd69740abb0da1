//! The run loop: instructions until a position, with interrupts and exceptions between them.

use crate::bus::Bus;
use crate::code::{INSTRUCTION_BYTES_MAX, Recent, UNPAYABLE, context, run_chain};
use crate::context::Loan;
use crate::cpu::{Cpu, PAGE_REG, control};
use crate::debugger::WatchHit;
use crate::exception::{Abort, AbortReason};
use crate::exec::Exec;
use crate::flags::rflags;
use crate::interp::{Built, Exit, Mode};
use crate::mmu::{Access, Engine, Tuning, is_canonical};
use crate::segment::{SegReg, Segment};
use dejavm_memory::GuestRam;
use dejavm_units::{Gva, Position};
use iced_x86::{Decoder, DecoderError, Instruction};

/// Why [`Cpu::run_until`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The position asked for was reached, or the turn of this vCPU is over ([`Cpu::turn_is_over`]).
    Limit,
    /// The CPU is halted and no interrupt that could wake it is pending.
    Halted,
    /// The board asked for control.
    Board,
    /// Triple fault.
    Shutdown,
    /// Interrupts or exceptions are delivered without end and no instruction completes.
    Livelock,
    /// The next instruction has a breakpoint ([`Cpu::set_stops`]).
    Breakpoint {
        /// Its linear address.
        at: Gva,
    },
    /// Watched memory was accessed; the instruction has completed, or the event was delivered, that did.
    Watchpoint(WatchHit),
}

/// Interrupts and exceptions in a row without a completed instruction that are taken for endless.
/// A double fault needs three.
const DELIVERIES_MAX: u32 = 100_000;

impl Cpu {
    /// Runs until exactly `limit` instructions have completed since the start, or until something
    /// needs the board, or until a stop of [`Cpu::set_stops`]: after one, [`Cpu::pass_stop`] goes on.
    /// Those come before [`Stop::Limit`], so that none at the limit is missed.
    pub fn run_until(&mut self, ram: &mut GuestRam, bus: &mut dyn Bus, limit: Position) -> Stop {
        let Loan { cpu } = &mut self.lend(ram, bus);
        // The budget is signed and never pays the unpayable; a limit beyond is as good as none.
        cpu.limit = limit.0.min(cpu.position.0.saturating_add(UNPAYABLE - 1));
        cpu.update_a20();
        loop {
            if let Some(stop) = cpu.between_instructions() {
                return stop;
            }
            cpu.run_some();
        }
    }

    /// Executes the one instruction at the current position by the reference semantics, taking no
    /// interrupt before it and delivering no exception: for lock-step comparison and tests. On `Err`
    /// the position has not moved; CR2 is set if it was a page fault.
    pub fn try_step(&mut self, ram: &mut GuestRam, bus: &mut dyn Bus) -> Result<(), AbortReason> {
        let Loan { cpu } = &mut self.lend(ram, bus);
        cpu.step_alone().map_err(|Abort(())| cpu.abort)
    }

    /// As [`Cpu::try_step`], by the handlers of decoded blocks where they apply.
    pub fn try_step_decoded(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
    ) -> Result<(), AbortReason> {
        let Loan { cpu } = &mut self.lend(ram, bus);
        cpu.step_decoded(false).map_err(|Abort(())| cpu.abort)
    }

    /// As [`Cpu::try_step`], by host code made for the instruction, and by handlers where that has none.
    pub fn try_step_translated(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
    ) -> Result<(), AbortReason> {
        let Loan { cpu } = &mut self.lend(ram, bus);
        cpu.step_decoded(true).map_err(|Abort(())| cpu.abort)
    }

    /// Sizes and disturbs the TLB, chooses what executes. No guest can see it; tests check that.
    pub fn set_tuning(&mut self, tuning: Tuning) {
        let before = *self.mmu.tuning();
        self.mmu.set_tuning(tuning);
        self.regime = [u64::MAX; 4];
        if (before.engine, before.translate_after) != (tuning.engine, tuning.translate_after) {
            self.translator.give_up();
        }
    }

    /// As set by [`Cpu::set_tuning`].
    pub fn tuning(&self) -> Tuning {
        *self.mmu.tuning()
    }

    /// Takes events that are due; `Some` when the loop must return.
    fn between_instructions(&mut self) -> Option<Stop> {
        loop {
            if self.abort == AbortReason::Shutdown {
                return Some(Stop::Shutdown);
            }
            if self.deliveries > DELIVERIES_MAX && self.delivered_at == self.position {
                return Some(Stop::Livelock);
            }
            if self.bus().wants_control() {
                return Some(Stop::Board);
            }
            // Nothing more happens in a turn that is over.
            if self.turns.is_over(self.position) {
                return Some(Stop::Limit);
            }
            if !self.take_interrupt() {
                break;
            }
        }
        if let Some(stop) = self.due_stop() {
            return Some(stop);
        }
        if self.position.0 >= self.limit {
            return Some(Stop::Limit);
        }
        if self.halted {
            return Some(Stop::Halted);
        }
        None
    }

    /// The stop of [`Cpu::set_stops`] to tell of before the next instruction.
    #[inline]
    fn due_stop(&mut self) -> Option<Stop> {
        if let Some(hit) = self.watch_hits().next() {
            return Some(Stop::Watchpoint(hit));
        }
        self.due_breakpoint().map(|at| Stop::Breakpoint { at })
    }

    /// Delivers the interrupt that is due, if there is one.
    fn take_interrupt(&mut self) -> bool {
        if !self.nmi_blocked && !self.interrupt_shadow && self.bus().take_nmi() {
            self.count_delivery();
            self.deliver_nmi();
            return true;
        }
        let interruptible = self.flag(rflags::IF) && !self.interrupt_shadow;
        if !interruptible || !self.bus().interrupt_pending() {
            return false;
        }
        let at = self.position;
        let vector = self.bus().acknowledge_interrupt(at);
        self.count_delivery();
        self.deliver_interrupt(vector);
        true
    }

    /// Interrupts and exceptions that were delivered since an instruction completed. Where it is not
    /// zero, the position alone does not say what the CPU is about to do: an instruction that faults
    /// completes nothing.
    pub fn deliveries(&self) -> u32 {
        if self.delivered_at == self.position { self.deliveries } else { 0 }
    }

    /// Whether a triple fault has stopped it.
    pub fn has_shut_down(&self) -> bool {
        self.abort == AbortReason::Shutdown
    }

    /// Takes interrupts and exceptions where the CPU is until [`Cpu::deliveries`] is `count`. What
    /// says so was there: else this ends when an instruction completes, or nothing more is delivered.
    /// A stop of [`Cpu::set_stops`] ends it sooner: after one, [`Cpu::pass_stop`] goes on.
    pub fn take_deliveries(
        &mut self,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        count: u32,
    ) -> Option<Stop> {
        let count = count.min(DELIVERIES_MAX + 1);
        let Loan { cpu } = &mut self.lend(ram, bus);
        cpu.update_a20();
        let here = cpu.position;
        while cpu.position == here {
            if let Some(stop) = cpu.due_stop() {
                return Some(stop);
            }
            if cpu.deliveries() >= count
                || cpu.abort == AbortReason::Shutdown
                || cpu.bus().wants_control()
            {
                return None;
            }
            if cpu.take_interrupt() {
                continue;
            }
            if cpu.halted {
                return None;
            }
            cpu.step();
        }
        None
    }

    /// Executes something, or delivers its exception, or comes to a breakpoint: a chain of blocks if
    /// the mode has handlers, one instruction otherwise.
    fn run_some(&mut self) {
        let Some(mode) = self.block_mode() else {
            self.step();
            return;
        };
        if self.interrupt_shadow {
            self.step();
            return;
        }
        self.clear_idle_resume_flag();
        self.end_of_block = false;
        self.address_mask = if mode.wide { u64::MAX } else { 0xffff_ffff };
        self.jump_context = context(self.jump_place(), mode.bits());
        self.budget = (self.limit - self.position.0) as i64;
        if self.translator.is_full() {
            self.forget_all_code();
        }
        self.choose_code_entries();
        // Chains follow one another here until something must be looked at outside.
        loop {
            if self.budget == 0 {
                // Not one more: neither an instruction that must run alone, nor a fetch's fault.
                self.pending_link = None;
                self.settle_position();
                return;
            }
            let linear = self.rip;
            self.gpr[PAGE_REG as usize] = linear & !0xfff;
            let header = match self.jumps.get(linear, self.jump_context) {
                Some(header) => header,
                None => match self.find_block(linear, mode) {
                    Ok(Built::Block(header)) => {
                        let supervisor = self.cpl != 3;
                        self.jumps.set(linear, self.jump_context, header, supervisor);
                        header
                    }
                    Ok(Built::Alone) => {
                        self.pending_link = None;
                        self.settle_position();
                        self.step_unless_stopped();
                        return;
                    }
                    Err(Abort(())) => {
                        self.pending_link = None;
                        self.settle_position();
                        self.fault();
                        return;
                    }
                },
            };
            if let Some((branch, way)) = self.pending_link.take() {
                branch.links().set(way, header);
            }
            run_chain(self, header);
            match self.exit {
                Exit::Jump => {}
                Exit::Back => unreachable!("only chains of one operation end so"),
                Exit::Events => {
                    self.settle_position();
                    return;
                }
                Exit::Budget => {
                    self.settle_position();
                    if self.position.0 < self.limit {
                        self.step_unless_stopped();
                    }
                    return;
                }
                Exit::Abort => {
                    self.settle_position();
                    match self.abort {
                        // The chain may have ended with the budget, just before an instruction that
                        // runs alone.
                        AbortReason::RetryAlone if self.position.0 >= self.limit => {}
                        AbortReason::RetryAlone => self.step_unless_stopped(),
                        AbortReason::Exception { .. } => self.fault(),
                        AbortReason::Shutdown => {}
                    }
                    return;
                }
            }
        }
    }

    /// Delivers the exception that `abort` describes.
    fn fault(&mut self) {
        self.count_delivery();
        self.deliver_exception();
    }

    /// Counts interrupts and exceptions delivered in a row. Hardware whose handlers fault at their
    /// first instruction delivers for ever; here that would be a run that never returns.
    fn count_delivery(&mut self) {
        if self.delivered_at != self.position {
            self.delivered_at = self.position;
            self.deliveries = 0;
        }
        self.deliveries += 1;
    }

    /// Brings `position` up to what `budget` says has run.
    fn settle_position(&mut self) {
        self.position.0 = self.limit - self.budget as u64;
    }

    /// The block at a linear address in the current mode.
    fn find_block(&mut self, linear: u64, mode: Mode) -> Result<Built, Abort> {
        if !is_canonical(linear) {
            return Ok(Built::Alone);
        }
        let gpa = self.translate_block(linear)?;
        if self.ram().host_page(gpa.pfn()).is_none() {
            return Ok(Built::Alone);
        }
        Ok(self.block_at(gpa, mode))
    }

    /// The decoding mode, or `None` where only the reference semantics serve: 16-bit code, segments
    /// that are not flat, single stepping, breakpoints, alignment checks; and everywhere if tuned so.
    fn block_mode(&self) -> Option<Mode> {
        if self.is_debug_armed()
            || self.checks_alignment()
            || self.mmu.tuning().engine == Engine::Reference
        {
            return None;
        }
        let wide = self.is_64bit();
        if !wide {
            let flat = |segment: &Segment| segment.base == 0 && segment.limit == u32::MAX;
            let data = [SegReg::Es, SegReg::Ss, SegReg::Ds].iter().all(|&register| {
                let segment = &self.seg[register as usize];
                flat(segment) && segment.rights.is_writable() && !segment.rights.is_expand_down()
            });
            let stack = self.seg[SegReg::Ss as usize].rights.is_big();
            let code = self.cs();
            let usable = data
                && stack
                && flat(code)
                && code.rights.is_big()
                && !self.is_real_mode()
                && !self.is_v86();
            if !usable {
                return None;
            }
        }
        let sse = self.cr0 & (control::CR0_EM | control::CR0_TS) == 0
            && self.cr4 & control::CR4_OSFXSR != 0;
        Some(Mode { wide, sse })
    }

    /// Follows the board's A20 gate.
    fn update_a20(&mut self) {
        let mask = if self.bus().a20_enabled() { u64::MAX } else { !(1 << 20) };
        if mask != self.a20_mask {
            self.a20_mask = mask;
            self.flush_translations();
        }
    }

    /// As [`Cpu::step`], unless a breakpoint is to be told of first.
    fn step_unless_stopped(&mut self) {
        if self.due_breakpoint().is_none() {
            self.step();
        }
    }

    /// Executes one instruction alone and delivers its exception, or the debug trap that it earned.
    fn step(&mut self) {
        if self.step_alone().is_err() {
            self.fault();
        } else if self.debug_traps_due() {
            self.deliver_debug_trap();
        }
        self.update_a20();
    }

    /// Executes one instruction alone, by the reference semantics.
    fn step_alone(&mut self) -> Result<(), Abort> {
        self.alone = true;
        self.end_of_block = false;
        let shadow = std::mem::take(&mut self.interrupt_shadow);
        let debug = match self.begin_debugged_instruction() {
            Ok(debug) => debug,
            Err(abort) => {
                self.interrupt_shadow = shadow;
                self.alone = false;
                return Err(abort);
            }
        };
        let result = self.execute_fetched();
        match result {
            Ok(()) => {
                self.rip = self.next_rip;
                self.position.0 += 1;
                self.interrupt_shadow |= shadow && self.is_behind_any_sti();
            }
            Err(_) => {
                self.interrupt_shadow = shadow;
                self.undo_debugged_instruction(debug);
                self.drop_unsettled_hits();
            }
        }
        self.alone = false;
        result
    }

    /// Fetches and executes the instruction at `rip`; `next_rip` is where to go on.
    pub(crate) fn execute_fetched(&mut self) -> Result<(), Abort> {
        let (instruction, exec) = self.fetch()?;
        self.next_rip = self.rip.wrapping_add(instruction.len() as u64);
        if self.code_bits() < 64 {
            self.next_rip &= 0xffff_ffff;
        }
        exec(self, &instruction)
    }

    /// Executes one instruction as a block of one, or alone where no block can be made.
    fn step_decoded(&mut self, translated: bool) -> Result<(), Abort> {
        let Some(mode) = self.block_mode() else { return self.step_alone() };
        self.end_of_block = false;
        self.address_mask = if mode.wide { u64::MAX } else { 0xffff_ffff };
        self.jump_context = context(self.jump_place(), mode.bits());
        self.gpr[PAGE_REG as usize] = self.rip & !0xfff;
        if !is_canonical(self.rip) {
            return self.step_alone();
        }
        if self.translator.is_full() {
            self.forget_all_code();
        }
        self.choose_code_entries();
        let gpa = self.translate_block(self.rip)?;
        let Some(header) = self.decode_one(gpa, mode, translated) else {
            return self.step_alone();
        };
        self.limit = self.position.0 + 1;
        self.budget = 1;
        run_chain(self, header);
        self.pending_link = None;
        self.settle_position();
        match self.exit {
            Exit::Jump | Exit::Events | Exit::Budget => Ok(()),
            Exit::Abort if self.abort == AbortReason::RetryAlone => self.step_alone(),
            Exit::Abort => Err(Abort(())),
            Exit::Back => unreachable!("only chains of one operation end so"),
        }
    }

    /// Fetches and decodes the instruction at `rip`, page-relative (see [`crate::exec`]).
    fn fetch(&mut self) -> Result<(Instruction, Exec), Abort> {
        let linear = self.cs_linear(self.rip);
        let bits = self.code_bits();
        if bits == 64 && !is_canonical(linear) {
            return Err(self.general_protection(0));
        }
        let mut bytes = [0u8; INSTRUCTION_BYTES_MAX];
        let mut have = 0;
        while have < INSTRUCTION_BYTES_MAX {
            let at = linear.wrapping_add(have as u64);
            let mut part = (0x1000 - (at & 0xfff) as usize).min(INSTRUCTION_BYTES_MAX - have);
            if bits != 64 {
                // Bytes beyond the code segment's limit are not there (SDM vol. 3A, 5.3).
                let left = (u64::from(self.cs().limit) + 1).saturating_sub(self.rip + have as u64);
                if left == 0 {
                    return Err(self.general_protection(0));
                }
                part = part.min(usize::try_from(left).unwrap_or(usize::MAX));
            }
            let gpa = self.translate(at, Access::Fetch)?;
            let piece = &mut bytes[have..have + part];
            if self.ram().read(gpa, piece).is_err() && !self.bus().fetch(gpa, piece) {
                piece.fill(0xff);
            }
            have += part;
            match self.recent.get(linear, bits, &bytes[..have]) {
                Recent::Known(instruction, exec) => return Ok((instruction, exec)),
                Recent::Longer => continue,
                Recent::Unknown => {}
            }
            let options = self.model.decoder_options();
            let mut decoder = Decoder::with_ip(bits, &bytes[..have], linear & 0xfff, options);
            let decoded = decoder.decode();
            if !decoded.is_invalid() {
                let exec = crate::exec::select(&self.model, &decoded);
                self.recent.set(linear, bits, &bytes[..have], decoded, exec);
                return Ok((decoded, exec));
            }
            if decoder.last_error() != DecoderError::NoMoreBytes {
                return Err(self.undefined_opcode());
            }
        }
        // More than 15 bytes: too long (SDM vol. 2A, 2.3.11).
        Err(self.general_protection(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exception::vector;
    use crate::testing::{Bench, DATA};

    /// SDM vol. 3A, 6.15, interrupt 17: CPL 3, CR0.AM, EFLAGS.AC.
    #[test]
    fn misaligned_accesses_of_user_code_fault_only_while_checked() {
        // mov eax, [rbx]; mov [rbx], eax
        let code = [0x8b, 0x03, 0x89, 0x03];
        for (cpl, am, ac, address, faults) in [
            (3, true, true, DATA + 1, true),
            (3, true, true, DATA + 4, false),
            (3, true, false, DATA + 1, false),
            (3, false, true, DATA + 1, false),
            (0, true, true, DATA + 1, false),
        ] {
            let mut bench = Bench::long();
            let mut state = bench.cpu.state();
            state.cpl = cpl;
            state.cr0 |= if am { control::CR0_AM } else { 0 };
            state.rflags |= if ac { rflags::AC } else { 0 };
            state.gpr[3] = address;
            bench.poke(state.rip, &code);
            for skip in [0, 2] {
                bench.cpu.set_state(&state);
                let mut state = state.clone();
                state.rip += skip;
                bench.cpu.set_state(&state);
                let result = bench.cpu.try_step(&mut bench.ram, &mut bench.board);
                let expected = if faults {
                    Err(AbortReason::Exception { vector: vector::AC, error_code: Some(0) })
                } else {
                    Ok(())
                };
                assert_eq!(result, expected, "cpl {cpl}, am {am}, ac {ac}, {address:#x}, {skip}");
            }
        }
    }

    /// A page-fault handler that faults at its first instruction would spin the machine for ever.
    #[test]
    fn endless_delivery_ends_the_run() {
        let mut bench = Bench::real();
        let mut state = bench.cpu.state();
        state.seg[SegReg::Ss as usize].base = crate::testing::STACK;
        bench.cpu.set_state(&state);
        // Vector 6 leads to an invalid opcode, in real mode, on a stack that wraps.
        bench.poke(6 * 4, &[0x00, 0x00, 0x00, 0x30]);
        bench.poke(DATA, &[0x0f, 0x0b]);
        assert_eq!(bench.run(&[0x0f, 0x0b], 10), Stop::Livelock);
        assert_eq!(bench.cpu.state().position, Position(0));
        let again = bench.cpu.run_until(&mut bench.ram, &mut bench.board, Position(10));
        assert_eq!(again, Stop::Livelock);
    }

    /// A budget that ends just before an instruction that crosses a page (and so runs alone), or just
    /// before a fetch that faults.
    #[test]
    fn budgets_end_before_instructions_that_run_alone() {
        // At the end of a page: nop; mov ecx, imm32 (two bytes in this page); jmp to a hole.
        let page = crate::testing::CODE + 0x1000;
        for (budget, rip, rcx) in [(1, page - 2, 0), (2, page + 3, 7), (3, 0x7000_0000, 7)] {
            let mut bench = Bench::long().with_tables();
            let hole = (0x7000_0000 - (page + 8)) as u32;
            bench.poke(page - 3, &[0x90, 0xb9, 7, 0, 0, 0, 0xe9]);
            bench.poke(page + 4, &hole.to_le_bytes());
            for _ in 0..2 {
                bench.change(|state| {
                    state.rip = page - 3;
                    state.gpr[1] = 0;
                });
                let start = bench.cpu.state().position.0;
                // The second time the blocks are there and linked.
                assert_eq!(bench.go(budget), Stop::Limit);
                let state = bench.cpu.state();
                assert_eq!((state.position.0 - start, state.rip, state.gpr[1]), (budget, rip, rcx));
            }
        }
    }

    /// One block, left in the middle by each budget, gives the state that stepping gives.
    #[test]
    fn any_budget_lands_exactly() {
        // again: add eax, ebx; push rax; pop rcx; imul edx, ecx, 7; inc rbx; jmp again
        let code = [0x01, 0xd8, 0x50, 0x59, 0x6b, 0xd1, 0x07, 0x48, 0xff, 0xc3, 0xeb, 0xf4];
        let mut whole = Bench::long();
        let mut stepped = Bench::long();
        stepped.poke(crate::testing::CODE, &code);
        for budget in (1..40).chain([100, 1000]) {
            assert_eq!(whole.run(&code, budget), Stop::Limit);
            for _ in 0..budget {
                stepped.cpu.try_step(&mut stepped.ram, &mut stepped.board).unwrap();
            }
            assert_eq!(whole.cpu.state(), stepped.cpu.state(), "budget {budget}");
        }
    }
}
