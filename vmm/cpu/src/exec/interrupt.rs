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
        let gate = Descriptor { selector: 0, address, raw: self.load_system(address, 8)? };
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
        let gate = Descriptor { selector: 0, address, raw: self.load_system(address, 8)? };
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
