//! Delivery of exceptions and interrupts, and the instructions that raise them (SDM vol. 3A,
//! chapter 6; vol. 2A, INT n).
//!
//! A delivery first reads and checks everything, then pushes the frame, and only then changes
//! registers, so a fault on the way leaves the registers as the interrupted instruction had them.

use super::Exec;
use super::descriptor::{Descriptor, error_code, is_null, null_segment, system};
use super::stack::Stack;
use crate::cpu::Cpu;
use crate::exception::{Abort, AbortReason, vector};
use crate::flags::rflags;
use crate::mmu::is_canonical;
use crate::segment::SegReg;
use iced_x86::{Instruction, Mnemonic};

/// Error-code bit: the selector index is a vector of the IDT.
const IDT: u32 = 1 << 1;
/// Error-code bit: the fault happened while delivering something the program did not ask for.
const EXT: u32 = 1 << 0;

/// What is being delivered, as far as it changes the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A fault: restarts its instruction, pushes RF = 1.
    Fault,
    /// A trap, an external interrupt, an NMI or INT1: nothing is checked against the gate's DPL.
    Event,
    /// INT n, INT3, INTO: the gate's DPL counts, and errors are the program's own.
    Software,
}

#[derive(Clone, Copy, Debug)]
struct Event {
    vector: u8,
    error_code: Option<u32>,
    source: Source,
    /// Offset in CS to come back to.
    return_rip: u64,
}

/// How two exceptions in a row combine (SDM vol. 3A, table 6-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

#[derive(Debug, PartialEq, Eq)]
enum Combined {
    Serial,
    DoubleFault,
    Shutdown,
}

impl Event {
    fn class(&self) -> Class {
        if self.source == Source::Fault { class_of(self.vector) } else { Class::Benign }
    }

    fn ext(&self) -> u32 {
        if self.source == Source::Software { 0 } else { EXT }
    }
}

fn class_of(exception: u8) -> Class {
    match exception {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP => Class::Contributory,
        vector::PF => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

fn combine(first: Class, second: Class) -> Combined {
    match (first, second) {
        (_, Class::Benign) | (Class::Benign, _) => Combined::Serial,
        (Class::DoubleFault, _) => Combined::Shutdown,
        (Class::Contributory, Class::PageFault) => Combined::Serial,
        (Class::Contributory | Class::PageFault, _) => Combined::DoubleFault,
    }
}

pub(crate) fn select(i: &Instruction) -> Option<Exec> {
    Some(match i.mnemonic() {
        Mnemonic::Int => |cpu, i| cpu.software_interrupt(i.immediate8(), true),
        Mnemonic::Int3 => |cpu, _| cpu.software_interrupt(vector::BP, false),
        Mnemonic::Into => |cpu, _| {
            if cpu.arith.of() { cpu.software_interrupt(vector::OF, false) } else { Ok(()) }
        },
        Mnemonic::Int1 => |cpu, _| cpu.interrupt_one(),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => |cpu, _| Err(cpu.undefined_opcode()),
        _ => return None,
    })
}

impl Cpu {
    /// Delivers an external interrupt between two instructions.
    pub(crate) fn deliver_interrupt(&mut self, vector: u8) {
        let return_rip = self.rip;
        self.deliver(Event { vector, error_code: None, source: Source::Event, return_rip });
    }

    /// Delivers a non-maskable interrupt between two instructions; no other until IRET (SDM
    /// vol. 3A, 6.7.1).
    pub(crate) fn deliver_nmi(&mut self) {
        self.nmi_blocked = true;
        self.deliver_interrupt(vector::NMI);
    }

    /// Delivers the debug trap of an instruction that completed; DR6 has its causes.
    pub(crate) fn deliver_debug_trap(&mut self) {
        self.deliver_interrupt(vector::DB);
    }

    /// Delivers the exception that `abort` describes, raised by the instruction at `rip`.
    pub(crate) fn deliver_exception(&mut self) {
        let AbortReason::Exception { vector, error_code } = self.abort else {
            panic!("only an exception is delivered, not {:?}", self.abort)
        };
        // The handler of an instruction breakpoint must set RF itself (SDM vol. 3B, 17.3.1.1).
        let breakpoint = std::mem::take(&mut self.instruction_breakpoint);
        let source = if breakpoint { Source::Event } else { Source::Fault };
        let return_rip = self.rip;
        self.deliver(Event { vector, error_code, source, return_rip });
    }

    /// Delivers an event, or what its delivery leads to, down to shutdown.
    fn deliver(&mut self, first: Event) {
        let was_alone = std::mem::replace(&mut self.alone, true);
        self.halted = false;
        self.pending_debug = 0;
        let mut event = first;
        loop {
            if self.enter_handler(&event).is_ok() {
                self.rip = self.next_rip;
                break;
            }
            let AbortReason::Exception { vector, error_code } = self.abort else {
                panic!("a delivery runs alone and cannot end in {:?}", self.abort)
            };
            let has_ext = matches!(vector, vector::TS | vector::NP | vector::SS | vector::GP);
            let error_code = if has_ext { error_code.map(|e| e | event.ext()) } else { error_code };
            event = match combine(event.class(), class_of(vector)) {
                // A task switch that faulted in the new task has moved `rip` there.
                Combined::Serial => {
                    Event { vector, error_code, source: Source::Fault, return_rip: self.rip }
                }
                Combined::DoubleFault => Event {
                    vector: vector::DF,
                    error_code: Some(0),
                    source: Source::Fault,
                    return_rip: self.rip,
                },
                Combined::Shutdown => {
                    self.abort = AbortReason::Shutdown;
                    // In a block it was cleared before the instruction that led here.
                    self.clear_idle_resume_flag();
                    break;
                }
            };
        }
        self.interrupt_shadow = false;
        self.alone = was_alone;
        self.end_of_block = true;
        // The handler is a task whose TSS asks for a debug trap.
        if self.abort != AbortReason::Shutdown && self.debug_traps_due() {
            self.deliver_debug_trap();
        }
    }

    /// INT n (`checks_iopl`), INT3 and INTO.
    fn software_interrupt(&mut self, vector: u8, checks_iopl: bool) -> Result<(), Abort> {
        self.require_alone()?;
        let return_rip = self.next_rip;
        let event = Event { vector, error_code: None, source: Source::Software, return_rip };
        if checks_iopl && self.is_v86() {
            if self.has_virtual_8086_extensions() && !self.is_redirected_to_protected(vector)? {
                return self.enter_v86_handler(vector, return_rip);
            }
            if self.iopl() < 3 {
                return Err(self.general_protection(0));
            }
        }
        self.enter_handler(&event)?;
        self.drop_single_step();
        Ok(())
    }

    /// INT1 (ICEBP): a debug exception whose cause DR6 does not tell.
    fn interrupt_one(&mut self) -> Result<(), Abort> {
        self.require_alone()?;
        let return_rip = self.next_rip;
        let event =
            Event { vector: vector::DB, error_code: None, source: Source::Event, return_rip };
        if self.enter_handler(&event).is_err() {
            if let AbortReason::Exception { vector, error_code: Some(code) } = self.abort
                && vector != vector::PF
            {
                self.abort = AbortReason::Exception { vector, error_code: Some(code | EXT) };
            }
            return Err(Abort(()));
        }
        self.drop_single_step();
        Ok(())
    }

    /// RFLAGS as the event's frame shows them (SDM vol. 3B, 17.3.1.1).
    fn flags_image(&self, event: &Event) -> u64 {
        match event.source {
            // QEMU's processor sets none.
            Source::Fault if self.model.is_qemus() => self.rflags(),
            Source::Fault => self.rflags() | rflags::RF,
            Source::Event => self.rflags(),
            Source::Software => self.rflags() & !rflags::RF,
        }
    }

    /// Pushes the frame and enters the handler: leaves `next_rip` at it, or nothing changed but
    /// accessed bits and memory below the stack pointer.
    fn enter_handler(&mut self, event: &Event) -> Result<(), Abort> {
        if self.is_real_mode() {
            self.enter_real_mode_handler(event.vector, event.return_rip, self.idtr.base)
        } else if self.is_long_mode() {
            self.enter_long_mode_handler(event)
        } else {
            self.enter_protected_mode_handler(event)
        }
    }

    /// Through a real-mode interrupt vector table (SDM vol. 3A, 20.1.4).
    fn enter_real_mode_handler(&mut self, n: u8, rip: u64, table: u64) -> Result<(), Abort> {
        let offset = u64::from(n) * 4;
        if !self.is_v86() && offset + 3 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(u32::from(n) << 3 | IDT));
        }
        let entry = table.wrapping_add(offset) & 0xffff_ffff;
        let user = self.is_v86();
        let target = self.load_as(entry, 4, user)?;
        let mut stack = self.current_stack();
        let flags = self.rflags() & 0xffff;
        // What V86 shows of IF is VIF, and IOPL reads 3 (SDM vol. 3A, 20.3.3.4).
        let flags = if user { self.v86_flags_image(flags) } else { flags };
        self.push_on(&mut stack, flags, 2)?;
        self.push_on(&mut stack, self.cs().selector.into(), 2)?;
        self.push_on(&mut stack, rip, 2)?;
        self.commit_stack_pointer(&stack);
        let masked = if user && self.iopl() < 3 { rflags::VIF } else { rflags::IF };
        self.system_flags &= !(masked | rflags::TF | rflags::RF);
        if !user {
            self.system_flags &= !rflags::AC;
        }
        self.load_real_mode_segment(SegReg::Cs, (target >> 16) as u16);
        self.next_rip = target & 0xffff;
        self.end_of_block = true;
        Ok(())
    }

    /// INT n in V86 mode that the redirection bitmap sends to the 8086 program's own handler.
    fn enter_v86_handler(&mut self, vector: u8, return_rip: u64) -> Result<(), Abort> {
        self.enter_real_mode_handler(vector, return_rip, 0)?;
        self.drop_single_step();
        Ok(())
    }

    /// Whether INT `vector` in V86 mode goes to the protected-mode handler: its bit in the software
    /// interrupt redirection bitmap, the 32 bytes below the I/O map (SDM vol. 3A, 20.3.3.2).
    fn is_redirected_to_protected(&mut self, vector: u8) -> Result<bool, Abort> {
        let map_base = self.tss_field(0x66, 2)?;
        let byte = map_base.wrapping_sub(32).wrapping_add(u64::from(vector / 8));
        let bits = self.tss_field(byte, 1)?;
        Ok(bits >> (vector & 7) & 1 != 0)
    }

    /// Reads the TSS; #GP(0) beyond its limit.
    pub(crate) fn tss_field(&mut self, offset: u64, size: u32) -> Result<u64, Abort> {
        let last = offset.wrapping_add(u64::from(size) - 1);
        if last > u64::from(self.tr.limit) || offset > last {
            return Err(self.general_protection(0));
        }
        self.load_system(self.system_linear(self.tr.base, offset), size)
    }

    /// Through a gate of the protected-mode IDT.
    fn enter_protected_mode_handler(&mut self, event: &Event) -> Result<(), Abort> {
        let offset = u64::from(event.vector) * 8;
        let code = u32::from(event.vector) << 3 | IDT;
        if offset + 7 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(code));
        }
        let address = self.system_linear(self.idtr.base, offset);
        let raw = self.load_system(address, 8)?;
        let gate = Descriptor { selector: 0, address, raw, marks: false };
        self.check_gate(&gate, event, code)?;
        if gate.rights().kind() == system::TASK_GATE {
            return self.enter_task_handler(event, &gate);
        }
        self.enter_through_gate(event, &gate)
    }

    /// The checks common to all gates of the IDT.
    fn check_gate(&mut self, gate: &Descriptor, event: &Event, code: u32) -> Result<(), Abort> {
        let rights = gate.rights();
        let known = match rights.kind() {
            system::INTERRUPT_GATE32 | system::TRAP_GATE32 => true,
            system::INTERRUPT_GATE16 | system::TRAP_GATE16 | system::TASK_GATE => {
                !self.is_long_mode()
            }
            _ => false,
        };
        if rights.is_code_or_data() || !known {
            return Err(self.general_protection(code));
        }
        if event.source == Source::Software && rights.dpl() < self.cpl {
            return Err(self.general_protection(code));
        }
        if !rights.is_present() {
            return Err(self.not_present(code));
        }
        Ok(())
    }

    /// The code segment of a gate; it must be as privileged as the current level, or more.
    fn handler_code_segment(&mut self, gate: &Descriptor) -> Result<Descriptor, Abort> {
        let selector = gate.gate_selector();
        if is_null(selector) {
            return Err(self.general_protection(0));
        }
        let Some(code) = self.descriptor(selector)? else {
            return Err(self.general_protection(error_code(selector)));
        };
        if !code.rights().is_code() || code.rights().dpl() > self.cpl {
            return Err(self.general_protection(code.error_code()));
        }
        if self.is_long_mode() && (!code.rights().is_long() || code.rights().is_big()) {
            return Err(self.general_protection(code.error_code()));
        }
        if !code.rights().is_present() {
            return Err(self.not_present(code.error_code()));
        }
        Ok(code)
    }

    /// Through an interrupt or trap gate outside IA-32e mode.
    fn enter_through_gate(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Abort> {
        let code = self.handler_code_segment(gate)?;
        let v86 = self.is_v86();
        let inner = !code.rights().is_conforming() && code.rights().dpl() < self.cpl;
        if v86 && !(inner && code.rights().dpl() == 0) {
            return Err(self.general_protection(code.error_code()));
        }
        let size = if gate.rights().kind() & 8 != 0 { 4 } else { 2 };
        let rip = if size == 4 { gate.gate_offset() } else { gate.gate_offset() & 0xffff };
        let mut flags = self.flags_image(event);
        if size == 2 {
            flags &= 0xffff;
        }
        let cpl = if inner { code.rights().dpl() } else { self.cpl };
        let mut stack = if inner { self.inner_stack(cpl)? } else { self.current_stack() };
        if v86 {
            for register in [SegReg::Gs, SegReg::Fs, SegReg::Ds, SegReg::Es] {
                let selector = self.seg[register as usize].selector;
                self.push_on(&mut stack, selector.into(), size)?;
            }
        }
        if inner {
            let old = self.seg[SegReg::Ss as usize].selector;
            self.push_on(&mut stack, old.into(), size)?;
            self.push_on(&mut stack, self.gpr[crate::cpu::gpr::RSP] & 0xffff_ffff, size)?;
        }
        self.push_on(&mut stack, flags, size)?;
        self.push_on(&mut stack, self.cs().selector.into(), size)?;
        self.push_on(&mut stack, event.return_rip, size)?;
        if let Some(error) = event.error_code {
            self.push_on(&mut stack, error.into(), size)?;
        }
        if rip > u64::from(code.limit()) {
            return Err(self.general_protection(0));
        }
        self.set_accessed(&code)?;

        self.enter_handler_flags(gate);
        if inner {
            self.commit_stack(&stack);
        } else {
            self.commit_stack_pointer(&stack);
        }
        self.commit_cs(code.segment(code.selector & !3 | u16::from(cpl)), cpl);
        if v86 {
            for register in [SegReg::Gs, SegReg::Fs, SegReg::Ds, SegReg::Es] {
                self.seg[register as usize] = null_segment(0);
            }
        }
        self.next_rip = rip;
        Ok(())
    }

    /// TF, NT, VM and RF are cleared on the way in, and IF by an interrupt gate.
    fn enter_handler_flags(&mut self, gate: &Descriptor) {
        let interrupt_gate = gate.rights().kind() & 1 == 0;
        let masked = if interrupt_gate { rflags::IF } else { 0 };
        self.system_flags &= !(rflags::TF | rflags::NT | rflags::VM | rflags::RF | masked);
    }

    /// The stack for privilege level `cpl` that the current TSS names, checked (SDM vol. 3A,
    /// 6.12.1, and vol. 2A, CALL).
    pub(crate) fn inner_stack(&mut self, cpl: u8) -> Result<Stack, Abort> {
        let tss_error = error_code(self.tr.selector);
        let wide = self.tr.rights.kind() & 8 != 0;
        let level = u64::from(cpl);
        let (offset, pointer_size) = if wide { (4 + level * 8, 4) } else { (2 + level * 4, 2) };
        if offset + u64::from(pointer_size) + 1 > u64::from(self.tr.limit) {
            return Err(self.invalid_tss(tss_error));
        }
        let base = self.tr.base;
        let pointer = self.load_system(self.system_linear(base, offset), pointer_size)?;
        let at = self.system_linear(base, offset + u64::from(pointer_size));
        let selector = self.load_system(at, 2)? as u16;
        if is_null(selector) {
            return Err(self.invalid_tss(0));
        }
        let Some(data) = self.descriptor(selector)? else {
            return Err(self.invalid_tss(error_code(selector)));
        };
        let rights = data.rights();
        if data.rpl() != cpl || rights.dpl() != cpl || !rights.is_writable() {
            return Err(self.invalid_tss(data.error_code()));
        }
        if !rights.is_present() {
            return Err(self.stack_segment_fault(data.error_code()));
        }
        self.set_accessed(&data)?;
        Ok(Stack::inner(data.segment(selector), pointer, cpl, data.error_code()))
    }

    /// RSP for privilege level `cpl`, or of interrupt stack `ist` if that is not zero, from the
    /// 64-bit TSS (SDM vol. 3A, 7.7).
    pub(crate) fn long_mode_inner_stack(&mut self, cpl: u8, ist: u8) -> Result<Stack, Abort> {
        let offset = if ist == 0 { 4 + u64::from(cpl) * 8 } else { 0x1c + u64::from(ist) * 8 };
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(self.invalid_tss(error_code(self.tr.selector)));
        }
        let pointer = self.load_system(self.system_linear(self.tr.base, offset), 8)?;
        if !is_canonical(pointer) {
            return Err(self.stack_segment_fault(0));
        }
        Ok(Stack::flat(pointer, cpl))
    }

    /// Through a gate of the IA-32e mode IDT (SDM vol. 3A, 6.14).
    fn enter_long_mode_handler(&mut self, event: &Event) -> Result<(), Abort> {
        let offset = u64::from(event.vector) * 16;
        let error = u32::from(event.vector) << 3 | IDT;
        if offset + 15 > u64::from(self.idtr.limit) {
            return Err(self.general_protection(error));
        }
        let address = self.idtr.base.wrapping_add(offset);
        let raw = self.load_system(address, 8)?;
        let gate = Descriptor { selector: 0, address, raw, marks: false };
        let upper = self.load_system(address.wrapping_add(8), 8)?;
        self.check_gate(&gate, event, error)?;
        let code = self.handler_code_segment(&gate)?;
        let rip = gate.gate_offset() | upper << 32;
        let inner = !code.rights().is_conforming() && code.rights().dpl() < self.cpl;
        let cpl = if inner { code.rights().dpl() } else { self.cpl };
        let ist = (gate.raw >> 32 & 7) as u8;
        let mut stack = if inner || ist != 0 {
            self.long_mode_inner_stack(cpl, ist)?
        } else {
            Stack::flat(self.gpr[crate::cpu::gpr::RSP], cpl)
        };
        stack.pointer &= !15;
        let flags = self.flags_image(event);
        let ss = self.seg[SegReg::Ss as usize].selector;
        self.push_on(&mut stack, ss.into(), 8)?;
        self.push_on(&mut stack, self.gpr[crate::cpu::gpr::RSP], 8)?;
        self.push_on(&mut stack, flags, 8)?;
        self.push_on(&mut stack, self.cs().selector.into(), 8)?;
        self.push_on(&mut stack, event.return_rip, 8)?;
        if let Some(error) = event.error_code {
            self.push_on(&mut stack, error.into(), 8)?;
        }
        if !is_canonical(rip) {
            return Err(self.general_protection(0));
        }
        self.set_accessed(&code)?;

        self.enter_handler_flags(&gate);
        if inner {
            self.seg[SegReg::Ss as usize] = null_segment(cpl.into());
        }
        self.commit_cs(code.segment(code.selector & !3 | u16::from(cpl)), cpl);
        self.commit_stack_pointer(&stack);
        self.next_rip = rip;
        Ok(())
    }

    /// Through a task gate: the handler is a task of its own, which finds the error code on its
    /// stack (SDM vol. 3A, 6.12.2).
    fn enter_task_handler(&mut self, event: &Event, gate: &Descriptor) -> Result<(), Abort> {
        let flags = self.flags_image(event);
        self.switch_task_by_gate(gate, event.return_rip, flags, event.error_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gpr;
    use crate::mmu::{Engine, Tuning};
    use crate::run::Stop;
    use crate::segment::{Rights, Segment};
    use crate::testing::{Bench, CODE, STACK, gate_descriptor, segment_descriptor, tables};

    const UD2: [u8; 2] = [0x0f, 0x0b];

    #[test]
    fn every_pair_of_exceptions_combines_as_table_6_5_says() {
        use Class::*;
        use Combined as C;
        for (first, second, outcome) in [
            (Benign, Contributory, C::Serial),
            (Benign, PageFault, C::Serial),
            (Contributory, Benign, C::Serial),
            (Contributory, Contributory, C::DoubleFault),
            (Contributory, PageFault, C::Serial),
            (PageFault, Benign, C::Serial),
            (PageFault, Contributory, C::DoubleFault),
            (PageFault, PageFault, C::DoubleFault),
            (DoubleFault, Contributory, C::Shutdown),
            (DoubleFault, PageFault, C::Shutdown),
        ] {
            assert_eq!(combine(first, second), outcome, "{first:?} then {second:?}");
        }
        for vector in [0, 10, 11, 12, 13] {
            assert_eq!(class_of(vector), Contributory);
        }
        assert_eq!(class_of(14), PageFault);
        for vector in [1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19] {
            assert_eq!(class_of(vector), Benign);
        }
    }

    /// SDM vol. 3A, 20.1.4.
    #[test]
    fn a_real_mode_interrupt_pushes_three_words() {
        let mut bench = Bench::real();
        bench.poke(0x21 * 4, &[0x00, 0x01, 0x00, 0x09]);
        bench.poke(0x9100, &[0xf4]);
        bench.change(|state| state.rflags = 0x202);
        bench.run_to_halt(&[0xcd, 0x21]);
        let state = bench.cpu.state();
        assert_eq!((state.seg[1].selector, state.seg[1].base, state.rip), (0x900, 0x9000, 0x101));
        assert_eq!(state.gpr[4], 0xfff0 - 6);
        assert_eq!(bench.peek::<6>(0xffea), [2, 0, 0x00, 0x10, 0x02, 0x02]);
        assert_eq!(state.rflags & rflags::IF, 0);
    }

    #[test]
    fn a_real_mode_table_that_is_too_short_shuts_the_processor_down() {
        let mut bench = Bench::real();
        bench.change(|state| state.idtr.limit = 0x10);
        assert_eq!(bench.run(&[0xcd, 0x21], 5), Stop::Shutdown);
    }

    #[test]
    fn a_fault_at_the_same_level_pushes_three_doublewords_with_rf() {
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run_to_halt(&UD2), Some(6));
        assert_eq!(bench.cpu.gpr[gpr::RSP], STACK - 12);
        assert_eq!(bench.stack32(0), CODE as u32);
        assert_eq!(bench.stack32(1), 8);
        assert_eq!(bench.stack32(2), 0x1_0002);
        assert!(!bench.cpu.flag(rflags::RF));
    }

    #[test]
    fn an_error_code_is_pushed_last() {
        let mut bench = Bench::protected().with_tables();
        // MOV DS, AX with a selector beyond the GDT.
        bench.change(|state| state.gpr[gpr::RAX] = 0xfff8);
        assert_eq!(bench.run_to_halt(&[0x8e, 0xd8]), Some(13));
        assert_eq!(bench.stack32(0), 0xfff8);
        assert_eq!(bench.stack32(1), CODE as u32);
    }

    #[test]
    fn interrupt_gates_clear_if_and_trap_gates_do_not() {
        for (access, cleared) in [(0xee, true), (0xef, false)] {
            let mut bench = Bench::protected().with_tables();
            let handler = tables::HANDLERS as u32 + 0x200;
            bench.set_gate(0x20, gate_descriptor(tables::CODE0, handler, access, 0));
            bench.change(|state| state.rflags = 0x4202);
            bench.board.interrupt = Some(0x20);
            assert_eq!(bench.run_to_halt(&[0x90]), Some(0x20));
            assert_eq!(bench.cpu.flag(rflags::IF), !cleared);
            assert!(!bench.cpu.flag(rflags::NT));
            assert_eq!(bench.stack32(2), 0x4202, "the frame has NT and IF, and RF as it was");
            assert_eq!(bench.stack32(0), CODE as u32, "taken before the first instruction");
        }
    }

    /// SDM vol. 3A, 6.12.1.
    #[test]
    fn a_more_privileged_handler_runs_on_the_stack_of_the_tss() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(0x80));
        let state = bench.cpu.state();
        assert_eq!(state.cpl, 0);
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (0x08, 0x10));
        assert_eq!(state.gpr[gpr::RSP], tables::STACK0 - 20);
        let frame: Vec<u32> = (0..5).map(|n| bench.stack32(n)).collect();
        assert_eq!(frame, [CODE as u32 + 2, 0x1b, 2, STACK as u32, 0x23]);
    }

    #[test]
    fn a_bad_inner_stack_is_an_invalid_tss() {
        // SS0 with RPL 0 but a level-3 descriptor: #TS(0x20), delivered nowhere: the same stack.
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.poke(tables::TSS + 8, &[0x20, 0, 0, 0]);
        assert_eq!(bench.run(&[0xcd, 0x80], 5), Stop::Shutdown);
        // With a task-independent handler (conforming code) the #TS arrives.
        let mut bench = Bench::protected().with_tables().at_level_3();
        bench.poke(tables::TSS + 8, &[0x20, 0, 0, 0]);
        bench.set_descriptor(tables::FREE, segment_descriptor(0, 0xfffff, 0x9f, 0xc));
        let handler = tables::HANDLERS as u32 + 0x500;
        bench.poke(handler.into(), &[0xeb, 0xfe]);
        bench.set_gate(10, gate_descriptor(tables::FREE, handler, 0xee, 0));
        assert_eq!(bench.run(&[0xcd, 0x80], 3), Stop::Limit);
        assert_eq!((bench.cpu.rip, bench.cpu.cpl), (handler.into(), 3));
        assert_eq!(bench.stack32(0), 0x20, "EXT is clear: INT n is the program's own");
    }

    #[test]
    fn a_software_interrupt_needs_the_gates_level() {
        let mut bench = Bench::protected().with_tables().at_level_3();
        let handler = tables::HANDLERS as u32;
        bench.set_gate(0x80, gate_descriptor(tables::CODE0, handler, 0x8e, 0));
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(13));
        assert_eq!(bench.stack32(0), 0x80 * 8 + 2);
        assert_eq!(bench.stack32(1), CODE as u32, "a fault: back to the INT");
    }

    /// SDM vol. 3A, 6.13.
    #[test]
    fn a_fault_while_delivering_a_fault_has_ext_set() {
        let mut bench = Bench::protected().with_tables();
        bench.set_gate(6, gate_descriptor(tables::CODE0, 0, 0x0e, 0));
        assert_eq!(bench.run_to_halt(&UD2), Some(11));
        assert_eq!(bench.stack32(0), 6 * 8 + 2 + 1);
        // INT1 counts as external too, and is not checked against the gate's level.
        let mut bench = Bench::protected().with_tables();
        bench.set_gate(1, gate_descriptor(tables::CODE0, 0, 0x0e, 0));
        assert_eq!(bench.run_to_halt(&[0xf1]), Some(11));
        assert_eq!(bench.stack32(0), 8 + 2 + 1);
    }

    #[test]
    fn a_second_contributory_fault_is_a_double_fault() {
        let mut bench = Bench::protected().with_tables();
        bench.set_gate(13, gate_descriptor(tables::CODE0, 0, 0x0e, 0));
        bench.change(|state| state.gpr[gpr::RAX] = 0xfff8);
        assert_eq!(bench.run_to_halt(&[0x8e, 0xd8]), Some(8));
        assert_eq!((bench.stack32(0), bench.stack32(1)), (0, CODE as u32));
    }

    #[test]
    fn a_third_fault_shuts_the_processor_down() {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| state.idtr.limit = 0);
        assert_eq!(bench.run(&UD2, 5), Stop::Shutdown);
        assert_eq!(bench.cpu.position.0, 0);
    }

    /// The state at the end is the same, whether the instruction that led there was one of a block or not.
    #[test]
    fn a_shutdown_leaves_the_same_flags_by_every_engine() {
        for engine in [Engine::Reference, Engine::Interpreter, Engine::Translator] {
            let mut bench = Bench::protected().with_tables();
            bench.cpu.set_tuning(Tuning { engine, translate_after: 0, ..Tuning::default() });
            bench.change(|state| {
                state.idtr.limit = 0;
                state.rflags = 0x1_0002;
            });
            assert_eq!(bench.run(&UD2, 5), Stop::Shutdown);
            assert_eq!(bench.cpu.rflags(), 2, "{engine:?}");
        }
    }

    #[test]
    fn a_handler_beyond_its_segments_limit_is_a_general_protection_fault() {
        let mut bench = Bench::protected().with_tables();
        bench.set_descriptor(tables::FREE, segment_descriptor(0, 0xfff, 0x9b, 0x4));
        bench.set_gate(6, gate_descriptor(tables::FREE, 0x1000, 0xee, 0));
        assert_eq!(bench.run_to_halt(&UD2), Some(13));
        assert_eq!(bench.stack32(0), 1, "error code zero, with EXT");
    }

    /// SDM vol. 3A, 6.14.2.
    #[test]
    fn long_mode_aligns_the_stack_and_always_pushes_ss_and_rsp() {
        let mut bench = Bench::long().with_tables();
        bench.change(|state| state.gpr[gpr::RSP] = STACK - 4);
        assert_eq!(bench.run_to_halt(&UD2), Some(6));
        assert_eq!(bench.cpu.gpr[gpr::RSP], STACK - 16 - 40);
        let frame: Vec<u64> = (0..5).map(|n| bench.stack64(n)).collect();
        assert_eq!(frame, [CODE, 8, 0x1_0002, STACK - 4, 0x10]);
        assert_eq!(bench.cpu.seg[2].selector, 0x10, "the level did not change");
    }

    #[test]
    fn long_mode_loads_a_null_ss_with_the_new_level() {
        let mut bench = Bench::long().with_tables().at_level_3();
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(0x80));
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.seg[1].selector), (0, 8));
        assert_eq!(state.seg[2].selector, 0);
        assert!(state.seg[2].rights.is_null());
        assert_eq!(state.gpr[gpr::RSP], tables::STACK0 - 40);
        assert_eq!(bench.stack64(4), 0x23);
    }

    /// SDM vol. 3A, 6.14.5.
    #[test]
    fn an_interrupt_stack_is_used_whatever_the_level() {
        let mut bench = Bench::long().with_tables();
        let ist = 0x2_4000u64;
        bench.poke(tables::TSS + 0x24 + 2 * 8, &ist.to_le_bytes());
        let handler = tables::HANDLERS as u32 + 0x60;
        bench.set_gate(6, gate_descriptor(tables::CODE0, handler, 0x8e, 3));
        assert_eq!(bench.run_to_halt(&UD2), Some(6));
        assert_eq!(bench.cpu.gpr[gpr::RSP], ist - 40);
        assert_eq!(bench.stack64(3), STACK);
        assert_eq!(bench.cpu.seg[2].selector, 0x10);
    }

    #[test]
    fn a_page_fault_on_the_stack_becomes_a_double_fault_on_its_own_stack() {
        let mut bench = Bench::long().with_tables();
        let ist = 0x2_4000u64;
        bench.poke(tables::TSS + 0x24, &ist.to_le_bytes());
        let handler = tables::HANDLERS as u32 + 0x80;
        bench.set_gate(8, gate_descriptor(tables::CODE0, handler, 0x8e, 1));
        // 4 MiB and above are not mapped.
        bench.change(|state| state.gpr[gpr::RSP] = 0x50_0000);
        // MOV EAX, [0x600000]
        assert_eq!(bench.run_to_halt(&[0x8b, 0x04, 0x25, 0, 0, 0x60, 0]), Some(8));
        assert_eq!(bench.cpu.gpr[gpr::RSP], ist - 48);
        assert_eq!(bench.stack64(0), 0, "error code");
        assert_eq!(bench.stack64(1), CODE);
        assert_eq!(bench.stack64(4), 0x50_0000, "RSP as the first fault found it");
        assert_eq!(bench.cpu.cr2, 0x50_0000 - 8);
    }

    #[test]
    fn a_stack_that_is_not_canonical_is_a_stack_fault() {
        let mut bench = Bench::long().with_tables();
        let ist = 0x2_4000u64;
        bench.poke(tables::TSS + 0x24, &ist.to_le_bytes());
        for vector in [8, 12] {
            let handler = tables::HANDLERS as u32 + vector * 16;
            let gate = gate_descriptor(tables::CODE0, handler, 0x8e, 1);
            bench.set_gate(vector as u8, gate);
        }
        bench.change(|state| state.gpr[gpr::RSP] = 0x8000_0000_0000_1000);
        assert_eq!(bench.run_to_halt(&UD2), Some(12), "#UD is benign: #SS follows it");
        assert_eq!(bench.stack64(0), 1);
    }

    /// A task in virtual-8086 mode at 0x1000:0, below a kernel with [`Bench::with_tables`].
    fn v86(iopl: u64) -> Bench {
        let mut bench = Bench::protected().with_tables();
        bench.change(|state| {
            state.rflags = 2 | rflags::VM | iopl << 12;
            state.cpl = 3;
            for (segment, selector) in
                state.seg.iter_mut().zip([0x10u16, 0x1000, 0x2000, 0x30, 0x40, 0x50])
            {
                let base = u64::from(selector) << 4;
                *segment = Segment { selector, base, limit: 0xffff, rights: Rights(0xf3) };
            }
            state.rip = 0;
            state.gpr[gpr::RSP] = 0x100;
        });
        bench
    }

    /// SDM vol. 3A, 20.3.1.
    #[test]
    fn leaving_v86_mode_pushes_the_data_segments_and_nulls_them() {
        let mut bench = v86(3);
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(0x80));
        let state = bench.cpu.state();
        assert_eq!((state.cpl, state.rflags & rflags::VM), (0, 0));
        assert_eq!(state.gpr[gpr::RSP], tables::STACK0 - 36);
        let frame: Vec<u32> = (0..9).map(|n| bench.stack32(n)).collect();
        assert_eq!(frame, [2, 0x1000, 0x2_3002, 0x100, 0x2000, 0x10, 0x30, 0x40, 0x50]);
        for register in [0, 3, 4, 5] {
            assert!(state.seg[register].rights.is_null());
        }
        assert_eq!((state.seg[1].selector, state.seg[2].selector), (8, 0x10));
    }

    #[test]
    fn a_v86_task_below_iopl_3_may_not_int() {
        let mut bench = v86(0);
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(13));
        assert_eq!((bench.stack32(0), bench.stack32(1)), (0, 0));
        // INT3 does not ask.
        let mut bench = v86(0);
        assert_eq!(bench.run_to_halt(&[0xcc]), Some(3));
        assert_eq!(bench.stack32(0), 1);
    }

    /// SDM vol. 3A, 20.3.3.4 and table 20-2, methods 5 and 6.
    #[test]
    fn the_redirection_bitmap_sends_int_to_the_8086_programs_handler() {
        for (iopl, pushed) in [(3u64, 0x3002u16), (0, 0x3202)] {
            let mut bench = v86(iopl);
            bench.change(|state| {
                state.cr4 = crate::cpu::control::CR4_VME;
                state.rflags |= rflags::VIF;
                state.tr.limit = 0x100;
            });
            // The map base is 0x88: the redirection bitmap is at 0x68.
            bench.poke(tables::TSS + 0x66, &[0x88, 0]);
            bench.poke(0x21 * 4, &[0x50, 0, 0x00, 0x10]);
            // CLI at the handler, which then clears VIF or IF; then INT 0x80 redirected to PM.
            bench.poke(tables::TSS + 0x68 + 16, &[1]);
            let mut code = vec![0x90; 0x60];
            code[..2].copy_from_slice(&[0xcd, 0x21]);
            code[0x50..0x52].copy_from_slice(&[0xcd, 0x80]);
            if iopl == 3 {
                assert_eq!(bench.run_to_halt(&code), Some(0x80));
                assert_eq!(bench.stack32(0), 0x52);
            } else {
                assert_eq!(bench.run_to_halt(&code), Some(13), "method 4 below IOPL 3");
            }
            assert_eq!(bench.peek::<6>(0x2_00fa), {
                let flags = pushed.to_le_bytes();
                [2, 0, 0x00, 0x10, flags[0], flags[1]]
            });
        }
    }

    #[test]
    fn an_nmi_blocks_the_next_until_iret() {
        let mut bench = Bench::protected().with_tables();
        // NOP; NOP; IRETD; the second NMI waits for it.
        bench.poke(tables::HANDLERS + 0x20, &[0x90, 0x90, 0xcf]);
        bench.board.nmi = true;
        bench.run(&[0x90; 8], 1);
        assert!(bench.cpu.nmi_blocked);
        bench.board.nmi = true;
        bench.run(&[0x90; 8], 1);
        assert!(bench.board.nmi, "blocked");
        bench.run(&[0x90; 8], 2);
        assert!(!bench.board.nmi, "taken after IRET");
        assert_eq!(bench.cpu.rip, tables::HANDLERS + 0x21);
    }

    #[test]
    fn sti_holds_interrupts_off_for_one_instruction() {
        let mut bench = Bench::protected().with_tables();
        bench.board.interrupt = Some(0x20);
        assert_eq!(bench.run_to_halt(&[0xfb, 0x90, 0x90]), Some(0x20));
        assert_eq!(bench.stack32(0), CODE as u32 + 2);
    }

    #[test]
    fn an_interrupt_ends_hlt_and_returns_behind_it() {
        let mut bench = Bench::protected().with_tables();
        assert_eq!(bench.run(&[0xfb, 0xf4], 5), Stop::Halted);
        bench.board.interrupt = Some(0x20);
        assert_eq!(bench.run_to_halt(&[0xfb, 0xf4]), Some(0x20));
        assert_eq!(bench.stack32(0), CODE as u32 + 2);
    }

    #[test]
    fn into_traps_only_on_overflow() {
        let mut bench = Bench::protected().with_tables();
        // INTO; MOV AL, 0x7F; INC AL; INTO
        assert_eq!(bench.run_to_halt(&[0xce, 0xb0, 0x7f, 0xfe, 0xc0, 0xce]), Some(4));
        assert_eq!(bench.stack32(0), CODE as u32 + 6);
    }

    #[test]
    fn a_16_bit_gate_pushes_words() {
        let mut bench = Bench::protected().with_tables();
        let handler = tables::HANDLERS as u32 + 0x800;
        bench.set_gate(0x80, gate_descriptor(tables::CODE0, handler, 0xe6, 0));
        assert_eq!(bench.run_to_halt(&[0xcd, 0x80]), Some(0x80));
        assert_eq!(bench.cpu.gpr[gpr::RSP], STACK - 6);
        assert_eq!(bench.peek::<6>(STACK - 6), [2, 0, 8, 0, 2, 0]);
    }
}
