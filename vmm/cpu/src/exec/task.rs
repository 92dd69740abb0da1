//! Hardware task switches (SDM vol. 3A, chapter 7).
//!
//! A switch reads the new TSS and proves that the old one can be written before it changes anything.
//! From then on the new task runs: a bad segment in its TSS faults there, with its EIP.

use super::descriptor::{Descriptor, error_code, is_null, null_segment, system, v86_segment};
use super::far::Transfer;
use crate::cpu::{Cpu, control};
use crate::exception::Abort;
use crate::flags::rflags;
use crate::mmu::Access;
use crate::segment::SegReg;

/// What causes a switch: it decides about busy flags, the link and NT (SDM vol. 3A, table 7-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Jump,
    /// CALL, an interrupt or an exception: the new task can return.
    Nested,
    Return,
}

impl From<Transfer> for Cause {
    fn from(transfer: Transfer) -> Cause {
        match transfer {
            Transfer::Jump => Cause::Jump,
            Transfer::Call => Cause::Nested,
        }
    }
}

/// Where a TSS keeps what (SDM vol. 3A, figures 7-2 and 7-10).
struct Layout {
    /// Bytes of a register or selector slot.
    slot: u64,
    /// Of CR3; only the 32-bit TSS has it.
    cr3: Option<u64>,
    /// Of EIP; EFLAGS, the general registers and the segment selectors follow.
    eip: u64,
    /// Segment registers held, from ES on.
    segments: u64,
    /// Of the word whose bit 0 is the T flag.
    trap: Option<u64>,
    /// The smallest limit.
    limit_min: u32,
}

const TSS16: Layout =
    Layout { slot: 2, cr3: None, eip: 0xe, segments: 4, trap: None, limit_min: 0x2b };
const TSS32: Layout =
    Layout { slot: 4, cr3: Some(0x1c), eip: 0x20, segments: 6, trap: Some(0x64), limit_min: 0x67 };

/// General registers in a TSS.
const REGISTERS: u64 = 8;

impl Layout {
    fn of(kind: u8) -> &'static Layout {
        if kind & 8 != 0 { &TSS32 } else { &TSS16 }
    }
    fn flags(&self) -> u64 {
        self.eip + self.slot
    }
    fn register(&self, n: u64) -> u64 {
        self.eip + (2 + n) * self.slot
    }
    fn segment(&self, n: u64) -> u64 {
        self.register(REGISTERS + n)
    }
    fn ldt(&self) -> u64 {
        self.segment(self.segments)
    }
    /// One past the last byte that a switch saves.
    fn saved_end(&self) -> u64 {
        self.ldt()
    }
}

/// The contents of a TSS that a switch loads.
struct TaskState {
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    gpr: [u64; REGISTERS as usize],
    segments: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// An interrupt or exception through a task gate of the IDT.
    pub(super) fn switch_task_by_gate(
        &mut self,
        gate: &Descriptor,
        return_rip: u64,
        flags: u64,
        error: Option<u32>,
    ) -> Result<(), Abort> {
        let tss = self.task_of_gate(gate)?;
        self.switch_task(Cause::Nested, &tss, return_rip, flags)?;
        if let Some(error) = error {
            let size = if tss.rights().kind() & 8 != 0 { 4 } else { 2 };
            let mut stack = self.current_stack();
            self.push_on(&mut stack, error.into(), size)?;
            self.commit_stack_pointer(&stack);
        }
        self.check_task_entry()
    }

    /// A far jump or call to a task gate.
    pub(super) fn switch_task_by_task_gate(
        &mut self,
        transfer: Transfer,
        gate: &Descriptor,
    ) -> Result<(), Abort> {
        let tss = self.task_of_gate(gate)?;
        self.switch_task_by_transfer(transfer, &tss)
    }

    /// A far jump or call to an available TSS.
    pub(super) fn switch_task_by_transfer(
        &mut self,
        transfer: Transfer,
        tss: &Descriptor,
    ) -> Result<(), Abort> {
        self.switch_task(transfer.into(), tss, self.next_rip, self.rflags())?;
        self.check_task_entry()
    }

    /// IRET with NT set: back to the task that the current TSS links to.
    pub(super) fn return_from_task(&mut self) -> Result<(), Abort> {
        let link = self.load_system(self.system_linear(self.tr.base, 0), 2)? as u16;
        let found = if link & 4 != 0 || is_null(link) { None } else { self.descriptor(link)? };
        let busy = found
            .filter(|tss| tss.is_system(system::TSS32_BUSY) || tss.is_system(system::TSS16_BUSY));
        let Some(tss) = busy else { return Err(self.invalid_tss(error_code(link))) };
        if !tss.rights().is_present() {
            return Err(self.not_present(tss.error_code()));
        }
        self.switch_task(Cause::Return, &tss, self.next_rip, self.rflags() & !rflags::NT)?;
        self.check_task_entry()
    }

    /// The available TSS that a task gate names.
    fn task_of_gate(&mut self, gate: &Descriptor) -> Result<Descriptor, Abort> {
        let selector = gate.gate_selector();
        let found =
            if selector & 4 != 0 || is_null(selector) { None } else { self.descriptor(selector)? };
        let available = found.filter(|tss| {
            tss.is_system(system::TSS32_AVAILABLE) || tss.is_system(system::TSS16_AVAILABLE)
        });
        let Some(tss) = available else {
            return Err(self.general_protection(error_code(selector)));
        };
        if !tss.rights().is_present() {
            return Err(self.not_present(tss.error_code()));
        }
        Ok(tss)
    }

    /// The first fetch of the new task must lie in its code segment.
    fn check_task_entry(&mut self) -> Result<(), Abort> {
        if self.next_rip > u64::from(self.cs().limit) {
            return Err(self.general_protection(0));
        }
        Ok(())
    }

    fn switch_task(
        &mut self,
        cause: Cause,
        tss: &Descriptor,
        return_rip: u64,
        flags: u64,
    ) -> Result<(), Abort> {
        let new_layout = Layout::of(tss.rights().kind());
        if tss.limit() < new_layout.limit_min {
            return Err(self.invalid_tss(tss.error_code()));
        }
        let old_layout = Layout::of(self.tr.rights.kind());
        let old_base = self.tr.base;
        if self.tr.rights.is_null() || self.tr.limit < old_layout.limit_min {
            return Err(self.invalid_tss(error_code(self.tr.selector)));
        }
        // From here until the old state is saved, only page faults can stop the switch.
        let old_descriptor = self.descriptor(self.tr.selector)?;
        self.probe_system_store(old_base + old_layout.eip)?;
        self.probe_system_store(old_base + old_layout.saved_end() - 1)?;
        self.probe_system_store(tss.base())?;
        let state = self.read_task(tss, new_layout)?;
        if self.uses_pdptes()
            && let Some(cr3) = state.cr3
        {
            self.load_pdptes(cr3)?;
        }
        if cause != Cause::Nested
            && let Some(old) = old_descriptor
        {
            self.set_task_busy(&old, false)?;
        }
        self.save_task(old_layout, return_rip, flags)?;
        if cause == Cause::Nested {
            let link = u64::from(self.tr.selector);
            self.store_system(self.system_linear(tss.base(), 0), link, 2)?;
        }
        if cause != Cause::Return {
            self.set_task_busy(tss, true)?;
        }
        self.tr = tss.segment(tss.selector & !3);
        self.tr.rights.0 |= 2;
        self.cr0 |= control::CR0_TS;
        self.load_task(&state, cause)
    }

    /// Raises the page fault that a store would, before anything else happens.
    fn probe_system_store(&mut self, linear: u64) -> Result<(), Abort> {
        let linear = self.system_linear(linear, 0);
        self.translate_as(linear, Access::Write, false)?;
        Ok(())
    }

    fn read_task(&mut self, tss: &Descriptor, layout: &Layout) -> Result<TaskState, Abort> {
        let base = tss.base();
        let slot = layout.slot as u32;
        let mut read = |offset, size| self.load_system(self.system_linear(base, offset), size);
        let cr3 = match layout.cr3 {
            Some(offset) => Some(read(offset, 4)?),
            None => None,
        };
        let mut gpr = [0; REGISTERS as usize];
        for (n, register) in gpr.iter_mut().enumerate() {
            *register = read(layout.register(n as u64), slot)?;
        }
        let mut segments = [0; 6];
        for n in 0..layout.segments {
            segments[n as usize] = read(layout.segment(n), 2)? as u16;
        }
        Ok(TaskState {
            cr3,
            rip: read(layout.eip, slot)?,
            flags: read(layout.flags(), slot)?,
            gpr,
            segments,
            ldt: read(layout.ldt(), 2)? as u16,
            trap: match layout.trap {
                Some(offset) => read(offset, 2)? & 1 != 0,
                None => false,
            },
        })
    }

    fn save_task(&mut self, layout: &Layout, rip: u64, flags: u64) -> Result<(), Abort> {
        let base = self.tr.base;
        let slot = layout.slot as u32;
        self.store_system(self.system_linear(base, layout.eip), rip, slot)?;
        self.store_system(self.system_linear(base, layout.flags()), flags, slot)?;
        for n in 0..REGISTERS {
            let at = self.system_linear(base, layout.register(n));
            self.store_system(at, self.gpr[n as usize], slot)?;
        }
        for n in 0..layout.segments {
            let at = self.system_linear(base, layout.segment(n));
            self.store_system(at, self.seg[n as usize].selector.into(), 2)?;
        }
        Ok(())
    }

    /// Makes the new task current. A fault in here is the new task's.
    fn load_task(&mut self, state: &TaskState, cause: Cause) -> Result<(), Abort> {
        // The local breakpoint enables belong to the old task (SDM vol. 3B, 17.2.4).
        const LOCAL_ENABLES: u64 = 0x155;
        self.dr[7] &= !LOCAL_ENABLES;
        let paging = self.cr0 & control::CR0_PG != 0;
        if paging && let Some(cr3) = state.cr3 {
            self.cr3 = cr3;
        }
        self.flush_translations();
        let nested = if cause == Cause::Nested { rflags::NT } else { 0 };
        self.set_rflags(state.flags | nested);
        self.gpr[..REGISTERS as usize].copy_from_slice(&state.gpr);
        self.next_rip = state.rip;
        self.rip = state.rip;
        self.pending_debug = 0;
        if state.trap {
            self.earn_task_switch_trap();
        }
        // Selectors first: until its descriptor is loaded each register is unusable.
        self.ldtr = null_segment(state.ldt);
        for (segment, &selector) in self.seg.iter_mut().zip(&state.segments) {
            *segment = null_segment(selector);
        }
        self.load_task_ldt(state.ldt)?;
        if self.is_v86() {
            for (segment, &selector) in self.seg.iter_mut().zip(&state.segments) {
                *segment = v86_segment(selector);
            }
            self.set_cpl(3);
            return Ok(());
        }
        let cpl = (state.segments[SegReg::Cs as usize] & 3) as u8;
        self.set_cpl(cpl);
        self.load_task_stack(state.segments[SegReg::Ss as usize])?;
        for register in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
            self.load_task_data(register, state.segments[register as usize])?;
        }
        self.load_task_code(state.segments[SegReg::Cs as usize])
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Abort> {
        if is_null(selector) {
            return Ok(());
        }
        let found = if selector & 4 != 0 { None } else { self.descriptor(selector)? };
        let usable = |ldt: &Descriptor| ldt.is_system(system::LDT) && ldt.rights().is_present();
        let Some(ldt) = found.filter(usable) else {
            return Err(self.invalid_tss(error_code(selector)));
        };
        self.ldtr = ldt.segment(selector);
        Ok(())
    }

    /// The descriptor of a selector in the new task's TSS; #TS if there is none.
    fn task_descriptor(&mut self, selector: u16) -> Result<Descriptor, Abort> {
        if !is_null(selector)
            && let Some(descriptor) = self.descriptor(selector)?
        {
            return Ok(descriptor);
        }
        Err(self.invalid_tss(error_code(selector)))
    }

    fn load_task_stack(&mut self, selector: u16) -> Result<(), Abort> {
        let data = self.task_descriptor(selector)?;
        let rights = data.rights();
        if data.rpl() != self.cpl || rights.dpl() != self.cpl || !rights.is_writable() {
            return Err(self.invalid_tss(data.error_code()));
        }
        if !rights.is_present() {
            return Err(self.stack_segment_fault(data.error_code()));
        }
        self.set_accessed(&data)?;
        self.seg[SegReg::Ss as usize] = data.segment(selector);
        Ok(())
    }

    fn load_task_data(&mut self, register: SegReg, selector: u16) -> Result<(), Abort> {
        if is_null(selector) {
            return Ok(());
        }
        let data = self.task_descriptor(selector)?;
        let rights = data.rights();
        let privileged = rights.is_conforming() || self.cpl.max(data.rpl()) <= rights.dpl();
        if !rights.is_readable() || !privileged {
            return Err(self.invalid_tss(data.error_code()));
        }
        if !rights.is_present() {
            return Err(self.not_present(data.error_code()));
        }
        self.set_accessed(&data)?;
        self.seg[register as usize] = data.segment(selector);
        Ok(())
    }

    fn load_task_code(&mut self, selector: u16) -> Result<(), Abort> {
        let code = self.task_descriptor(selector)?;
        let rights = code.rights();
        let privilege = if rights.is_conforming() {
            rights.dpl() <= code.rpl()
        } else {
            rights.dpl() == code.rpl()
        };
        if !rights.is_code() || !privilege {
            return Err(self.invalid_tss(code.error_code()));
        }
        if !rights.is_present() {
            return Err(self.not_present(code.error_code()));
        }
        self.set_accessed(&code)?;
        let cpl = self.cpl;
        self.commit_cs(code.segment(selector), cpl);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::run::Stop;
    use crate::testing::{Bench, CODE, gate_descriptor, segment_descriptor, tables};
    use tables::{FREE, TSS, TSS_SELECTOR, TSS2};

    const ENTRY: u32 = 0x1_0200;

    /// Two 32-bit tasks: the current one, and one at [`TSS2`] behind selector [`FREE`].
    fn two_tasks() -> Bench {
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(TSS_SELECTOR, segment_descriptor(TSS as u32, 0x67, 0x8b, 0));
        bench.set_descriptor(FREE, segment_descriptor(TSS2 as u32, 0x67, 0x89, 0));
        for (offset, value) in [
            (0x20, ENTRY),
            (0x24, 0x202),
            (0x28, 0x11),
            (0x2c, 0x22),
            (0x38, 0x2_6000),
            (0x48, 0x10),
            (0x4c, 0x08),
            (0x50, 0x10),
            (0x54, 0x10),
            (0x58, 0),
            (0x5c, 0x10),
        ] {
            bench.poke(TSS2 + offset, &u32::to_le_bytes(value));
        }
        bench.poke(ENTRY.into(), &[0x90, 0xcf, 0x90]);
        bench
    }

    fn word(bench: &Bench, at: u64) -> u32 {
        u32::from_le_bytes(bench.peek(at))
    }

    fn is_busy(bench: &Bench, selector: u16) -> bool {
        bench.peek::<8>(tables::GDT + u64::from(selector))[5] & 2 != 0
    }

    fn far(opcode: u8) -> [u8; 7] {
        [opcode, 0, 0, 0, 0, FREE as u8, 0]
    }

    /// SDM vol. 3A, 7.3 and table 7-2.
    #[test]
    fn a_jump_saves_one_task_and_loads_the_other() {
        let mut bench = two_tasks();
        bench.change(|state| state.gpr[gpr::RBX] = 0x77);
        assert_eq!(bench.run(&far(0xea), 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.rip, state.rflags), (ENTRY.into(), 0x202));
        assert_eq!((state.gpr[gpr::RAX], state.gpr[gpr::RCX]), (0x11, 0x22));
        assert_eq!(state.gpr[gpr::RSP], 0x2_6000);
        assert_eq!((state.tr.selector, state.tr.base), (FREE, TSS2));
        assert!(state.seg[SegReg::Fs as usize].rights.is_null());
        assert_ne!(state.cr0 & control::CR0_TS, 0);
        assert!(is_busy(&bench, FREE) && !is_busy(&bench, TSS_SELECTOR));
        assert_eq!(word(&bench, TSS + 0x20), CODE as u32 + 7);
        assert_eq!(word(&bench, TSS + 0x34), 0x77);
        assert_eq!(word(&bench, TSS + 0x4c) & 0xffff, 8);
    }

    #[test]
    fn a_call_links_and_iret_returns() {
        let mut bench = two_tasks();
        assert_eq!(bench.run(&far(0x9a), 1), Stop::Limit);
        assert_eq!(bench.cpu.rflags(), 0x202 | rflags::NT);
        assert_eq!(word(&bench, TSS2) & 0xffff, u32::from(TSS_SELECTOR));
        assert!(is_busy(&bench, FREE) && is_busy(&bench, TSS_SELECTOR));
        // NOP; IRETD
        assert_eq!(bench.go(2), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.rip, state.tr.selector), (CODE + 7, TSS_SELECTOR));
        assert_eq!(state.rflags & rflags::NT, 0);
        assert!(!is_busy(&bench, FREE) && is_busy(&bench, TSS_SELECTOR));
        assert_eq!(word(&bench, TSS2 + 0x20), ENTRY + 2, "IRET saved where it ended");
        assert_eq!(word(&bench, TSS2 + 0x24) & 0x4000, 0, "and NT clear");
    }

    #[test]
    fn busy_short_and_absent_tasks_are_refused() {
        for (access, limit, vector, error) in [
            (0x8bu8, 0x67, 13, u32::from(FREE)),
            (0x89, 0x66, 10, u32::from(FREE)),
            (0x09, 0x67, 11, u32::from(FREE)),
        ] {
            let mut bench = two_tasks();
            bench.set_descriptor(FREE, segment_descriptor(TSS2 as u32, limit, access, 0));
            assert_eq!(bench.run_to_halt(&far(0xea)), Some(vector));
            assert_eq!((bench.stack32(0), bench.stack32(1)), (error, CODE as u32));
            assert_eq!(bench.cpu.tr.selector, TSS_SELECTOR);
        }
    }

    /// SDM vol. 3A, 6.12.2: the double-fault task of 32-bit Linux.
    #[test]
    fn a_double_fault_through_a_task_gate_survives_a_broken_stack() {
        let mut bench = two_tasks();
        bench.set_gate(8, gate_descriptor(FREE, 0, 0x85, 0));
        bench.poke(ENTRY.into(), &[0xf4]);
        bench.change(|state| {
            state.seg[2].limit = 0xfff;
            state.gpr[gpr::RSP] = 0x5000;
        });
        // PUSH EAX: #SS, whose frame does not fit either.
        assert_ne!(bench.run(&[0x50], 10), Stop::Shutdown);
        assert_eq!(bench.cpu.rip, u64::from(ENTRY) + 1);
        assert_eq!(bench.cpu.gpr[gpr::RSP], 0x2_6000 - 4);
        assert_eq!(bench.stack32(0), 0, "the error code");
        assert!(bench.cpu.flag(rflags::NT));
        assert_eq!(word(&bench, TSS + 0x20), CODE as u32);
        assert_eq!(word(&bench, TSS + 0x38), 0x5000);
    }

    #[test]
    fn a_bad_segment_faults_in_the_new_task() {
        let mut bench = two_tasks();
        // DS with a level-0 code segment that cannot be read... beyond the table: #TS.
        bench.poke(TSS2 + 0x54, &[0xf8, 0x1f]);
        assert_eq!(bench.run_to_halt(&far(0xea)), Some(10));
        assert_eq!((bench.stack32(0), bench.stack32(1)), (0x1ff8, ENTRY));
        assert_eq!(bench.cpu.tr.selector, FREE);
        assert_eq!(bench.cpu.gpr[gpr::RSP], 0x2_6000 - 16, "on the new task's stack");
    }

    #[test]
    fn the_t_flag_traps_before_the_first_instruction() {
        let mut bench = two_tasks();
        bench.poke(TSS2 + 0x64, &[1]);
        assert_eq!(bench.run_to_halt(&far(0xea)), Some(1));
        assert_eq!(bench.stack32(0), ENTRY);
        assert_eq!(bench.cpu.dr[6] & 0xf000, 0x8000);
    }

    #[test]
    fn a_task_may_start_in_v86_mode() {
        let mut bench = two_tasks();
        bench.poke(TSS2 + 0x24, &0x2_0202u32.to_le_bytes());
        bench.poke(TSS2 + 0x4c, &[0x00, 0x10]);
        bench.poke(TSS2 + 0x20, &0x20u32.to_le_bytes());
        assert_eq!(bench.run(&far(0xea), 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.seg[1].base, state.rip), (3, 0x1_0000, 0x20));
    }

    #[test]
    fn a_16_bit_task_keeps_words() {
        let mut bench = two_tasks();
        bench.set_descriptor(FREE, segment_descriptor(TSS2 as u32, 0x2b, 0x81, 0));
        let words: [u16; 22] = [
            0, 0, 0, 0, 0, 0, 0, 0x8000, 2, 0x11, 0x22, 0, 0, 0x6000, 0, 0, 0, 0x10, 8, 0x10, 0x10,
            0,
        ];
        for (n, word) in words.into_iter().enumerate() {
            bench.poke(TSS2 + 2 * n as u64, &word.to_le_bytes());
        }
        assert_eq!(bench.run(&far(0xea), 1), Stop::Limit);
        let state = bench.cpu.state();
        assert_eq!((state.rip, state.gpr[gpr::RAX], state.gpr[gpr::RSP]), (0x8000, 0x11, 0x6000));
    }
}
