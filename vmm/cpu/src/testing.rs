//! A board with nothing on it, and a CPU put straight into a mode, for unit tests.

use crate::bus::Bus;
use crate::cpu::{Cpu, control};
use crate::model::Model;
use crate::run::Stop;
use crate::segment::{Rights, SegReg, Segment};
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
    pub(crate) interrupt: Option<u8>,
}

impl Bus for EmptyBoard {
    fn port_in(&mut self, _port: u16, _size: u8, _at: Position) -> u32 {
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
    fn take_nmi(&mut self) -> bool {
        false
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
        let limit = Position(self.cpu.position.0 + instructions);
        self.cpu.run_until(&mut self.ram, &mut self.board, limit)
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
