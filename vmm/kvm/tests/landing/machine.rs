//! A processor that stands still wherever a real one can: the software CPU, one instruction at a time, string instructions one element at a
//! time, deliveries of exceptions by themselves. And the same CPU run at full speed, which says what the state is there.

use dejavm_cpu::{Bus, Cpu, CpuState, Model, Rights, SegReg, Segment, TableRegister, control, gpr};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_units::{Gpa, Position};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic, Register};

const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
const DATA: u64 = 0x3_0000;
const HANDLERS: u64 = 0x8000;
/// What a guest writes: its stack, its data.
const WRITTEN: [(u64, usize); 2] = [(STACK - 0x1000, 0x1000), (DATA, 0x2000)];
const RAM_BYTES: u64 = 2 << 20;

/// Devices that answer by how often they were asked.
#[derive(Clone, Default)]
pub struct Board {
    pub exits: u64,
}

impl Bus for Board {
    fn port_in(&mut self, _port: u16, _size: u8, _at: Position) -> u32 {
        self.exits += 1;
        (self.exits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
    }
    fn port_out(&mut self, _port: u16, _size: u8, _value: u32, _at: Position) {
        self.exits += 1;
    }
    fn mmio_read(&mut self, _gpa: Gpa, _size: u8, _at: Position) -> u64 {
        0
    }
    fn mmio_write(&mut self, _gpa: Gpa, _size: u8, _value: u64, _at: Position) {}
    fn tsc(&mut self, _at: Position) -> u64 {
        0
    }
    fn tsc_ahead(&self) -> Option<u64> {
        None
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
        false
    }
    fn acknowledge_interrupt(&mut self, _at: Position) -> u8 {
        unreachable!("none is ever pending")
    }
    fn signal_pending(&self) -> bool {
        false
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

/// What an instruction is to the landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ConditionalBranch,
    /// With a repeat prefix; ends early when ZF is not this.
    String {
        while_zf: Option<bool>,
    },
    LoadsSs,
    Other,
}

/// What one step was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub kind: Kind,
    /// It accessed a device.
    pub exit: bool,
    /// It was an exception's delivery, and no instruction.
    pub delivery: bool,
    /// It was an element of a string instruction that is not at its end.
    pub inside: bool,
}

/// Where an instant is, for the same CPU at full speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Instant {
    /// Instructions completed.
    pub instructions: u64,
    /// Elements done of the string instruction that is under way.
    pub elements: u64,
    /// Exceptions delivered since.
    pub deliveries: u32,
}

impl Instant {
    pub fn after(self, step: &Step) -> Instant {
        let Instant { instructions, elements, deliveries } = self;
        match (step.delivery, step.inside) {
            (true, _) => Instant { deliveries: deliveries + 1, ..self },
            (_, true) => Instant { elements: elements + 1, ..self },
            (false, false) => Instant { instructions: instructions + 1, ..Instant::default() },
        }
    }
}

/// All of a machine at an instant, but for its code.
#[derive(Clone, PartialEq, Eq)]
pub struct Whole {
    pub state: CpuState,
    written: Vec<Vec<u8>>,
    exits: u64,
}

pub struct Machine {
    cpu: Cpu,
    ram: GuestRam,
    pub board: Board,
    /// By address below [`STACK`].
    kinds: Vec<Option<Kind>>,
}

impl Machine {
    /// A processor in 64-bit mode at the start of a program, RBX at the data.
    pub fn new(program: &[u8]) -> Machine {
        assert!(program.len() < (STACK - 0x1000 - CODE) as usize, "{} bytes", program.len());
        let mut state = CpuState::reset();
        state.cr0 |= control::CR0_PE | control::CR0_PG | control::CR0_NE | control::CR0_MP;
        state.cr4 = control::CR4_PAE | control::CR4_OSFXSR;
        state.efer = control::EFER_LME | control::EFER_LMA;
        state.cr3 = 0x1000;
        let flat = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
        state.seg = [flat(0x10, Rights(0xc93)); 6];
        state.seg[SegReg::Cs as usize] = flat(0x08, Rights(0xa9b));
        state.gdtr = TableRegister { base: 0x4000, limit: 0x17 };
        state.idtr = TableRegister { base: 0x5000, limit: 0xfff };
        state.rip = CODE;
        state.gpr[gpr::RSP] = STACK;
        state.gpr[gpr::RBX] = DATA;
        state.gpr[gpr::RAX] = 1;
        let mut cpu = Cpu::new(Model::V2, 0);
        cpu.set_state(&state);
        let ram = GuestRam::new(RamLayout::new(RAM_BYTES).expect("a size")).expect("memory");
        let mut machine =
            Machine { cpu, ram, board: Board::default(), kinds: vec![None; STACK as usize] };
        // One large page, accessed and dirty already, so that no walk writes.
        for (at, entry) in [(0x1000, 0x2067u64), (0x2000, 0x3067), (0x3000, 0xe7)] {
            machine.poke(at, &entry.to_le_bytes());
        }
        for (at, descriptor) in
            [(0x4008, 0x00af_9b00_0000_ffffu64), (0x4010, 0x00cf_9300_0000_ffff)]
        {
            machine.poke(at, &descriptor.to_le_bytes());
        }
        // Invalid opcodes are skipped (add qword [rsp], 2; iretq), interrupts counted (inc r14; iretq).
        machine.poke(HANDLERS, &[0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf]);
        machine.poke(HANDLERS + 0x100, &[0x49, 0xff, 0xc6, 0x48, 0xcf]);
        for (vector, handler) in [(6, HANDLERS), (0x30, HANDLERS + 0x100)] {
            let gate = handler & 0xffff | 0x08 << 16 | 0x8e00 << 32;
            machine.poke(0x5000 + vector * 16, &gate.to_le_bytes());
        }
        machine.poke(CODE, program);
        machine
    }

    fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write(Gpa(at), bytes).expect("there is RAM");
    }

    pub fn state(&self) -> CpuState {
        self.cpu.state()
    }

    pub fn whole(&self) -> Whole {
        let read = |&(at, bytes): &(u64, usize)| {
            let mut found = vec![0; bytes];
            self.ram.read(Gpa(at), &mut found).expect("there is RAM");
            found
        };
        Whole {
            state: self.cpu.state(),
            written: WRITTEN.iter().map(read).collect(),
            exits: self.board.exits,
        }
    }

    pub fn restore(&mut self, whole: &Whole) {
        self.cpu.set_state(&whole.state);
        for ((at, _), bytes) in WRITTEN.iter().zip(&whole.written) {
            self.ram.write(Gpa(*at), bytes).expect("there is RAM");
        }
        self.board.exits = whole.exits;
    }

    /// What the instruction at an address is.
    pub fn kind(&mut self, rip: u64) -> Kind {
        if let Some(kind) = self.kinds[rip as usize] {
            return kind;
        }
        let mut bytes = [0; 15];
        self.ram.read(Gpa(rip), &mut bytes).expect("there is RAM");
        let instruction = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
        let compares = matches!(instruction.mnemonic(), Mnemonic::Cmpsb | Mnemonic::Scasb);
        let repne = instruction.has_repne_prefix();
        let kind = if instruction.flow_control() == FlowControl::ConditionalBranch {
            Kind::ConditionalBranch
        } else if instruction.is_string_instruction() && (repne || instruction.has_rep_prefix()) {
            Kind::String { while_zf: compares.then_some(!repne) }
        } else if instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_register() == Register::SS
        {
            Kind::LoadsSs
        } else {
            Kind::Other
        };
        self.kinds[rip as usize] = Some(kind);
        kind
    }

    /// One instruction, one element of a string, or one delivery.
    pub fn step(&mut self) -> Step {
        let state = self.cpu.state();
        let kind = self.kind(state.rip);
        let exits = self.board.exits;
        let mut step = Step { kind, exit: false, delivery: false, inside: false };
        let rcx = state.gpr[gpr::RCX];
        match kind {
            Kind::String { while_zf } if rcx > 1 => {
                let mut one = state.clone();
                one.gpr[gpr::RCX] = 1;
                self.cpu.set_user_registers(&one);
                self.cpu.try_step(&mut self.ram, &mut self.board).expect("strings do not fault");
                let mut after = self.cpu.state();
                after.gpr[gpr::RCX] = rcx - 1;
                let zf = after.rflags & dejavm_cpu::rflags::ZF != 0;
                if while_zf.is_none_or(|wanted| wanted == zf) {
                    after.rip = state.rip;
                    step.inside = true;
                }
                self.cpu.set_user_registers(&after);
            }
            Kind::String { .. } | Kind::ConditionalBranch | Kind::LoadsSs | Kind::Other => {
                if self.cpu.try_step(&mut self.ram, &mut self.board).is_err() {
                    let count = self.cpu.deliveries() + 1;
                    self.cpu.take_deliveries(&mut self.ram, &mut self.board, count);
                    step.delivery = true;
                }
            }
        }
        step.exit = self.board.exits > exits;
        step
    }

    /// Goes from `start` to an instant by blocks and host code, not by steps.
    pub fn go(&mut self, start: &Whole, to: Instant) {
        self.restore(start);
        let Machine { cpu, ram, board, .. } = self;
        let mut limit = Position(start.state.position.0 + to.instructions);
        cpu.run_until(ram, board, limit);
        assert_eq!(cpu.position(), limit, "nothing stops it");
        if to.elements > 0 {
            let before = cpu.state();
            let mut state = before.clone();
            state.gpr[gpr::RCX] = to.elements;
            cpu.set_state(&state);
            limit.0 += 1;
            cpu.run_until(ram, board, limit);
            let mut state = cpu.state();
            state.gpr[gpr::RCX] = before.gpr[gpr::RCX] - to.elements;
            state.rip = before.rip;
            cpu.set_state(&state);
        }
        cpu.take_deliveries(ram, board, to.deliveries);
    }
}

impl Whole {
    /// What differs, if anything but the software CPU's own count of instructions does.
    pub fn difference(&self, other: &Whole) -> Option<String> {
        let plain =
            |state: &CpuState| CpuState { position: Position(0), deliveries: 0, ..state.clone() };
        let (mine, its) = (plain(&self.state), plain(&other.state));
        if mine != its {
            return Some(format!("{mine:#x?}\nis not\n{its:#x?}"));
        }
        if self.exits != other.exits {
            return Some(format!("{} exits are not {}", self.exits, other.exits));
        }
        (self.written != other.written).then(|| "memory differs".to_owned())
    }
}
