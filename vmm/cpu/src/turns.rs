//! Several vCPUs that take turns on one [`Cpu`].
//!
//! A [`Cpu`] is two things: the registers of a vCPU, and what was derived from memory (translations, decoded blocks, host
//! code). The second is true for every vCPU: translations are those that a walk would find ([`crate::mmu`]'s contract), blocks
//! are the bytes at a physical address. So vCPUs share it, and a turn passes by exchanging registers. What one of them stores
//! drops what was derived from it for all, by the same path as if one had done both; there is no second copy to go stale.
//!
//! Also shared, because they belong to the machine: the position, the deliveries at it, the A20 gate.

use crate::cpu::Cpu;
use crate::flags::rflags;
use crate::model::Model;
use crate::segment::SegReg;
use crate::state::CpuState;
use dejavm_units::Position;
use iced_x86::{Instruction, Mnemonic};

/// PAUSEs that end a turn: who waits for another vCPU lets it run.
const PAUSES_MAX: u32 = 32;

/// The turn of the vCPU that runs.
pub(crate) struct Turns {
    /// How many vCPUs take turns.
    processors: u8,
    /// The position at which the turn is over.
    end: u64,
    /// PAUSEs executed in it.
    pauses: u32,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { processors: 1, end: u64::MAX, pauses: 0 }
    }
}

impl Turns {
    #[inline]
    pub(crate) fn is_over(&self, position: Position) -> bool {
        position.0 >= self.end || self.pauses >= PAUSES_MAX
    }

    pub(crate) fn processors(&self) -> u8 {
        self.processors
    }
}

impl Cpu {
    /// What so many vCPUs take turns on, about to be that with APIC id 0, whose turn never ends.
    pub fn shared(model: Model, processors: u8) -> Cpu {
        let mut cpu = Cpu::new(model, 0);
        cpu.turns.processors = processors;
        cpu.mmu.serve(processors);
        cpu
    }

    /// Begins a turn that ends at a position, or before it by PAUSEs, of which so many were executed already.
    pub fn begin_turn(&mut self, end: Position, pauses: u32) {
        let processors = self.turns.processors;
        self.turns = Turns { processors, end: end.0, pauses };
    }

    /// Where the turn ends, and the PAUSEs executed in it.
    pub fn turn(&self) -> (Position, u32) {
        (Position(self.turns.end), self.turns.pauses)
    }

    /// Whether the turn is over.
    pub fn turn_is_over(&self) -> bool {
        self.turns.is_over(self.position)
    }

    /// Becomes the vCPU with this APIC id and these registers, at the same position.
    pub fn become_other(&mut self, apic_id: u8, registers: &CpuState) {
        let Cpu { position, deliveries, delivered_at, a20_mask, regime, .. } = *self;
        self.set_state(registers);
        (self.position, self.deliveries, self.delivered_at) = (position, deliveries, delivered_at);
        // What was derived stays true; whether it is of the same paging mode is looked at when it runs.
        (self.a20_mask, self.regime) = (a20_mask, regime);
        self.apic_id = apic_id;
        self.pending_link = None;
    }

    /// The APIC id of the vCPU that this is.
    pub fn apic_id(&self) -> u8 {
        self.apic_id
    }

    /// Whether an NMI would be taken.
    pub fn takes_nmi(&self) -> bool {
        !self.nmi_blocked && !self.interrupt_shadow
    }

    /// Whether blocks may hold an instruction as something else than a call of its reference semantics.
    pub(crate) fn has_shortcut(&self, i: &Instruction) -> bool {
        let counted = self.turns.processors > 1 && i.mnemonic() == Mnemonic::Pause;
        !counted && self.model.executes_as_others(i)
    }

    /// PAUSE.
    pub(crate) fn pause(&mut self) {
        if self.turns.processors > 1 {
            self.turns.pauses += 1;
            self.end_of_block |= self.turns.pauses >= PAUSES_MAX;
        }
    }
}

impl CpuState {
    /// What INIT makes of a processor that then waits for a start-up message (SDM vol. 3A, table 10-1): as reset, but the x87, SSE,
    /// MSRs, XCR0 and the cache bits of CR0 stay.
    pub fn after_init(&self) -> CpuState {
        use crate::cpu::control::{CR0_CD, CR0_NW};
        let CpuState { msr, fpu, xmm, mxcsr, xcr0, a20, position, deliveries, .. } = self.clone();
        let reset = CpuState::reset();
        let cache = CR0_CD | CR0_NW;
        let cr0 = reset.cr0 & !cache | self.cr0 & cache;
        CpuState {
            msr,
            fpu,
            xmm,
            mxcsr,
            xcr0,
            a20,
            position,
            deliveries,
            cr0,
            halted: true,
            // Nothing but the message wakes it.
            nmi_blocked: true,
            ..reset
        }
    }

    /// What a start-up message makes of a processor that waits for one: it executes at this page of the first megabyte, in real
    /// mode (SDM vol. 3A, 9.4.4).
    pub fn started_at(&self, page: u8) -> CpuState {
        let mut state = CpuState { rip: 0, halted: false, nmi_blocked: false, ..self.clone() };
        let code = &mut state.seg[SegReg::Cs as usize];
        (code.selector, code.base) = (u16::from(page) << 8, u64::from(page) << 12);
        state
    }

    /// Whether a maskable interrupt would be taken.
    pub fn interrupts_enabled(&self) -> bool {
        self.rflags & rflags::IF != 0
    }

    /// Whether an NMI would be taken.
    pub fn takes_nmi(&self) -> bool {
        !self.nmi_blocked && !self.interrupt_shadow
    }
}
