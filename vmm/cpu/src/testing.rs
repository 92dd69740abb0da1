//! A board with nothing on it, and a CPU put straight into a mode, for unit tests.

use crate::bus::Bus;
use crate::cpu::{Cpu, control};
use crate::model::Model;
use crate::run::Stop;
use crate::segment::{Rights, SegReg, Segment, TableRegister};
use crate::state::CpuState;
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Position};

/// Where [`Bench`] puts code.
pub(crate) const CODE: u64 = 0x1_0000;
/// Where the stack pointer starts.
pub(crate) const STACK: u64 = 0x2_0000;
/// A free area for data.
pub(crate) const DATA: u64 = 0x3_0000;

/// Ports and devices that read zero and remember the last writes.
#[derive(Default)]
pub(crate) struct EmptyBoard {
    pub(crate) port_writes: Vec<(u16, u8, u32)>,
    pub(crate) port_reads: Vec<(u16, u8)>,
    pub(crate) interrupt: Option<u8>,
    pub(crate) nmi: bool,
}

impl Bus for EmptyBoard {
    fn port_in(&mut self, port: u16, size: u8, _at: Position) -> u32 {
        self.port_reads.push((port, size));
        0
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32, _at: Position) {
        self.port_writes.push((port, size, value));
    }
    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        0
    }
    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {}
    fn tsc(&mut self, at: Position) -> u64 {
        at.0
    }
    fn tsc_ahead(&self) -> Option<u64> {
        Some(0)
    }
    fn msr_read(&mut self, _msr: u32, _at: Position) -> Option<u64> {
        None
    }
    fn msr_write(&mut self, _msr: u32, _value: u64, _at: Position) -> bool {
        false
    }
    fn cr8(&mut self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _priority: u8, _at: Position) {}
    fn interrupt_pending(&self) -> bool {
        self.interrupt.is_some()
    }
    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        self.interrupt.take().expect("acknowledged only when pending")
    }
    fn signal_pending(&self) -> bool {
        self.nmi
    }
    fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.nmi)
    }
    fn wants_control(&self) -> bool {
        false
    }
    fn a20_enabled(&self) -> bool {
        true
    }
}

/// A CPU, 4 MiB of RAM and an empty board.
pub(crate) struct Bench {
    pub(crate) cpu: Cpu,
    pub(crate) ram: GuestRam,
    pub(crate) board: EmptyBoard,
}

impl Bench {
    fn new(state: &CpuState) -> Bench {
        let mut cpu = Cpu::new(Model::V2, 0);
        cpu.set_state(state);
        let ram = GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap();
        Bench { cpu, ram, board: EmptyBoard::default() }
    }

    /// Real mode, all segments at base 0.
    pub(crate) fn real() -> Bench {
        let mut state = CpuState::reset();
        for segment in &mut state.seg {
            segment.base = 0;
            segment.selector = 0;
        }
        state.seg[SegReg::Cs as usize].base = CODE;
        state.seg[SegReg::Cs as usize].selector = (CODE >> 4) as u16;
        state.rip = 0;
        state.gpr[4] = 0xfff0;
        Bench::new(&state)
    }

    /// Protected mode at CPL 0, flat 32-bit segments, paging off.
    pub(crate) fn protected() -> Bench {
        let mut state = CpuState::reset();
        state.cr0 |= control::CR0_PE;
        let flat = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
        state.seg = [flat(0x10, Rights(0xc93)); 6];
        state.seg[SegReg::Cs as usize] = flat(0x08, Rights(0xc9b));
        state.rip = CODE;
        state.gpr[4] = STACK;
        Bench::new(&state)
    }

    /// 64-bit mode at CPL 0, the first 4 MiB mapped to themselves with 2 MiB user-writable pages,
    /// SSE enabled.
    pub(crate) fn long() -> Bench {
        let mut state = CpuState::reset();
        state.cr0 |= control::CR0_PE | control::CR0_PG | control::CR0_NE | control::CR0_MP;
        state.cr4 = control::CR4_PAE | control::CR4_OSFXSR | control::CR4_OSXMMEXCPT;
        state.efer = control::EFER_LME | control::EFER_LMA | control::EFER_SCE;
        state.cr3 = 0x1000;
        let flat = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
        state.seg = [flat(0x10, Rights(0xc93)); 6];
        state.seg[SegReg::Cs as usize] = flat(0x08, Rights(0xa9b));
        state.rip = CODE;
        state.gpr[4] = STACK;
        state.fpu = crate::fpu::Fpu::default();
        let mut bench = Bench::new(&state);
        bench.poke(0x1000, &0x2007u64.to_le_bytes());
        bench.poke(0x2000, &0x3007u64.to_le_bytes());
        bench.poke(0x3000, &0x87u64.to_le_bytes());
        bench.poke(0x3008, &0x20_0087u64.to_le_bytes());
        bench
    }

    /// Writes guest physical memory.
    pub(crate) fn poke(&mut self, gpa: u64, bytes: &[u8]) {
        self.ram.write(Gpa(gpa), bytes).unwrap();
    }

    /// Reads guest physical memory.
    pub(crate) fn peek<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.ram.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }

    /// Puts code at [`CODE`] and runs `instructions` of it.
    pub(crate) fn run(&mut self, code: &[u8], instructions: u64) -> Stop {
        self.poke(CODE, code);
        self.go(instructions)
    }

    /// Runs `instructions` of whatever is there.
    pub(crate) fn go(&mut self, instructions: u64) -> Stop {
        let limit = Position(self.cpu.position.0 + instructions);
        self.cpu.run_until(&mut self.ram, &mut self.board, limit)
    }
}

/// Where [`Bench::with_tables`] puts descriptor tables and task state segments.
pub(crate) mod tables {
    pub(crate) const GDT: u64 = 0x4000;
    pub(crate) const IDT: u64 = 0x5000;
    pub(crate) const TSS: u64 = 0x6000;
    pub(crate) const TSS2: u64 = 0x7000;
    /// One HLT for each vector, 16 bytes apart.
    pub(crate) const HANDLERS: u64 = 0x8000;
    /// The stack that the TSS names for privilege level 0.
    pub(crate) const STACK0: u64 = 0x2_8000;
    pub(crate) const CODE0: u16 = 0x08;
    pub(crate) const DATA0: u16 = 0x10;
    pub(crate) const CODE3: u16 = 0x1b;
    pub(crate) const DATA3: u16 = 0x23;
    /// 16 bytes long in long mode.
    pub(crate) const TSS_SELECTOR: u16 = 0x28;
    /// First selector that is free for a test's own descriptors.
    pub(crate) const FREE: u16 = 0x40;
}

/// A segment descriptor: limit as stored (20 bits), access byte (bits 40-47), flags (bits 52-55).
pub(crate) fn segment_descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xf) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// A gate descriptor; `parameters` is the count of a call gate, or the IST of an IDT gate.
pub(crate) fn gate_descriptor(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    u64::from(offset & 0xffff)
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}

impl Bench {
    /// Adds a GDT, an IDT with a gate of level 3 for each vector, handlers and a TSS.
    pub(crate) fn with_tables(mut self) -> Bench {
        use tables::*;
        let long = self.cpu.is_long_mode();
        let code_flags = if long { 0xa } else { 0xc };
        for (selector, access, flags) in [
            (CODE0, 0x9b, code_flags),
            (DATA0, 0x93, 0xc),
            (CODE3, 0xfb, code_flags),
            (DATA3, 0xf3, 0xc),
        ] {
            self.set_descriptor(selector, segment_descriptor(0, 0xfffff, access, flags));
        }
        self.set_descriptor(TSS_SELECTOR, segment_descriptor(TSS as u32, 0x67, 0x89, 0));
        for vector in 0..=255u8 {
            let handler = HANDLERS as u32 + u32::from(vector) * 16;
            self.poke(u64::from(handler), &[0xf4]);
            self.set_gate(vector, gate_descriptor(CODE0, handler, 0xee, 0));
        }
        // SS0:ESP0, or RSP0.
        self.poke(TSS + 4, &STACK0.to_le_bytes());
        if !long {
            self.poke(TSS + 8, &u32::from(DATA0).to_le_bytes());
        }
        self.change(|state| {
            state.gdtr = TableRegister { base: GDT, limit: 0xfff };
            state.idtr = TableRegister { base: IDT, limit: 0xfff };
            state.tr =
                Segment { selector: TSS_SELECTOR, base: TSS, limit: 0x67, rights: Rights(0x8b) };
        });
        self
    }

    /// Puts the CPU at privilege level 3.
    pub(crate) fn at_level_3(mut self) -> Bench {
        self.change(|state| {
            state.cpl = 3;
            for segment in &mut state.seg {
                segment.selector = tables::DATA3;
                segment.rights.0 |= 0x60;
            }
            state.seg[SegReg::Cs as usize].selector = tables::CODE3;
        });
        self
    }

    /// Edits the architectural state.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut CpuState)) {
        let mut state = self.cpu.state();
        edit(&mut state);
        self.cpu.set_state(&state);
    }

    /// Writes eight bytes of the GDT.
    pub(crate) fn set_descriptor(&mut self, selector: u16, raw: u64) {
        self.poke(tables::GDT + u64::from(selector & !7), &raw.to_le_bytes());
    }

    /// Writes a gate of the IDT, 16 bytes in long mode.
    pub(crate) fn set_gate(&mut self, vector: u8, raw: u64) {
        if self.cpu.is_long_mode() {
            let at = tables::IDT + u64::from(vector) * 16;
            self.poke(at, &u128::from(raw).to_le_bytes());
        } else {
            self.poke(tables::IDT + u64::from(vector) * 8, &raw.to_le_bytes());
        }
    }

    /// The vector whose handler's HLT was executed last.
    pub(crate) fn handled(&self) -> Option<u8> {
        let rip = self.cpu.rip;
        let offset = rip.wrapping_sub(tables::HANDLERS + 1);
        let handler = self.cpu.halted && offset.is_multiple_of(16) && offset / 16 < 256;
        handler.then_some((offset / 16) as u8)
    }

    /// Runs code until the CPU halts, at most 1000 instructions; the vector handled, if any.
    pub(crate) fn run_to_halt(&mut self, code: &[u8]) -> Option<u8> {
        assert_ne!(self.run(code, 1000), Stop::Limit, "the code halts");
        self.handled()
    }

    /// The `n`th doubleword on the stack.
    pub(crate) fn stack32(&self, n: u64) -> u32 {
        let base = self.cpu.seg[SegReg::Ss as usize].base;
        u32::from_le_bytes(self.peek(base + self.cpu.gpr[4] + n * 4))
    }

    /// The `n`th quadword on the stack.
    pub(crate) fn stack64(&self, n: u64) -> u64 {
        u64::from_le_bytes(self.peek(self.cpu.gpr[4] + n * 8))
    }
}

#[test]
fn a_nop_runs_in_every_mode() {
    for mut bench in [Bench::real(), Bench::protected(), Bench::long()] {
        let rip = bench.cpu.state().rip;
        assert_eq!(bench.run(&[0x90, 0x90], 2), Stop::Limit);
        assert_eq!(bench.cpu.state().rip, rip + 2);
    }
}
