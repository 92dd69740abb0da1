//! The architectural state: what a snapshot of a CPU holds, and nothing that can be derived.

use crate::code::{CodeCache, JumpCache, RecentInstructions};
use crate::cpu::{Cpu, ZERO_REG};
use crate::debugger::Debugger;
use crate::exception::AbortReason;
use crate::flags::Arith;
use crate::fpu::Fpu;
use crate::interp::Exit;
use crate::mmu::Mmu;
use crate::model::Model;
use crate::msr::Msrs;
use crate::segment::{Rights, SegReg, Segment, TableRegister};
use crate::translate::{Native, Translator};
use crate::turns::Turns;
use dejavm_units::Position;
use serde::{Deserialize, Serialize};

/// Everything a vCPU is between two instructions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the manual's names; see the fields of `Cpu`")]
pub struct CpuState {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cpl: u8,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    pub pdpte: [u64; 4],
    pub dr: [u64; 8],
    pub msr: Msrs,
    pub xmm: [u128; 16],
    pub mxcsr: u32,
    pub fpu: Fpu,
    pub halted: bool,
    pub interrupt_shadow: bool,
    pub nmi_blocked: bool,
    pub pending_debug: u64,
    /// Interrupts and exceptions delivered since an instruction completed.
    pub deliveries: u32,
    pub a20: bool,
    pub position: Position,
}

pub(crate) const A20_OFF: u64 = !(1 << 20);

impl CpuState {
    /// The state after RESET# (SDM vol. 3A, table 10-1).
    pub fn reset() -> CpuState {
        let data = Segment { selector: 0, base: 0, limit: 0xffff, rights: Rights(0x93) };
        let system = |rights| Segment { selector: 0, base: 0, limit: 0xffff, rights };
        let mut seg = [data; 6];
        seg[SegReg::Cs as usize] =
            Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, rights: Rights(0x9b) };
        let mut gpr = [0; 16];
        gpr[crate::gpr::RDX] = 0x0001_06ca;
        let mut dr = [0; 8];
        dr[6] = 0xffff_0ff0;
        dr[7] = 0x400;
        let table = TableRegister { base: 0, limit: 0xffff };
        CpuState {
            gpr,
            rip: 0xfff0,
            rflags: 2,
            seg,
            ldtr: system(Rights(0x82)),
            tr: system(Rights(0x8b)),
            gdtr: table,
            idtr: table,
            cpl: 0,
            cr0: 0x6000_0010,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            pdpte: [0; 4],
            dr,
            msr: Msrs { pat: 0x0007_0406_0007_0406, misc_enable: 1, ..Msrs::default() },
            xmm: [0; 16],
            mxcsr: 0x1f80,
            fpu: Fpu { control: 0x40, valid: 0xff, ..Fpu::default() },
            halted: false,
            interrupt_shadow: false,
            nmi_blocked: false,
            pending_debug: 0,
            deliveries: 0,
            a20: true,
            position: Position(0),
        }
    }
}

impl Cpu {
    /// A CPU at reset.
    pub fn new(model: Model, apic_id: u8) -> Cpu {
        let mut cpu = Cpu {
            model,
            apic_id,
            gpr: [0; 256],
            arith: Arith::default(),
            system_flags: 0,
            rip: 0,
            next_rip: 0,
            seg: [Segment::default(); 8],
            ldtr: Segment::default(),
            tr: Segment::default(),
            gdtr: TableRegister::default(),
            idtr: TableRegister::default(),
            cpl: 0,
            cr0: 0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            pdpte: [0; 4],
            dr: [0; 8],
            msr: Msrs::default(),
            xmm: [0; 16],
            mxcsr: 0,
            fpu: Fpu::default(),
            halted: false,
            interrupt_shadow: false,
            nmi_blocked: false,
            pending_debug: 0,
            deliveries: 0,
            delivered_at: Position(0),
            context: Default::default(),
            a20_mask: u64::MAX,
            mmu: Mmu::new(),
            tlb: std::ptr::null(),
            place: [0; 2],
            regime: [0; 4],
            code: CodeCache::default(),
            recent: RecentInstructions::new(),
            jumps: JumpCache::new(),
            jump_context: 0,
            address_mask: u64::MAX,
            budget: 0,
            limit: 0,
            exit: Exit::Jump,
            pending_link: None,
            instruction_breakpoint: false,
            abort: AbortReason::RetryAlone,
            alone: false,
            end_of_block: false,
            position: Position(0),
            native: Native::default(),
            translator: Translator::default(),
            turns: Turns::default(),
            debugger: Debugger::default(),
        };
        cpu.set_state(&CpuState::reset());
        cpu
    }

    /// Takes the architectural state out. Only between runs.
    pub fn state(&self) -> CpuState {
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&self.gpr[..16]);
        let mut seg = [Segment::default(); 6];
        seg.copy_from_slice(&self.seg[..6]);
        CpuState {
            gpr,
            rip: self.rip,
            rflags: self.rflags(),
            seg,
            ldtr: self.ldtr,
            tr: self.tr,
            gdtr: self.gdtr,
            idtr: self.idtr,
            cpl: self.cpl,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            xcr0: self.xcr0,
            pdpte: self.pdpte,
            dr: self.dr,
            msr: self.msr.clone(),
            xmm: self.xmm,
            mxcsr: self.mxcsr,
            fpu: self.fpu.clone(),
            halted: self.halted,
            interrupt_shadow: self.interrupt_shadow,
            nmi_blocked: self.nmi_blocked,
            pending_debug: self.pending_debug,
            deliveries: if self.delivered_at == self.position { self.deliveries } else { 0 },
            a20: self.a20_mask != A20_OFF,
            position: self.position,
        }
    }

    /// Puts an architectural state in; everything derived is forgotten when the CPU runs next.
    pub fn set_state(&mut self, state: &CpuState) {
        let CpuState {
            gpr,
            rip,
            rflags,
            seg,
            ldtr,
            tr,
            gdtr,
            idtr,
            cpl,
            cr0,
            cr2,
            cr3,
            cr4,
            efer,
            xcr0,
            pdpte,
            dr,
            msr,
            xmm,
            mxcsr,
            fpu,
            halted,
            interrupt_shadow,
            nmi_blocked,
            pending_debug,
            deliveries,
            a20,
            position,
        } = state.clone();
        self.gpr[..16].copy_from_slice(&gpr);
        self.gpr[ZERO_REG as usize..].fill(0);
        self.rip = rip;
        self.next_rip = rip;
        self.set_rflags(rflags);
        self.seg[..6].copy_from_slice(&seg);
        self.ldtr = ldtr;
        self.tr = tr;
        self.gdtr = gdtr;
        self.idtr = idtr;
        self.cpl = cpl & 3;
        self.cr0 = cr0;
        self.cr2 = cr2;
        self.cr3 = cr3;
        self.cr4 = cr4;
        self.efer = efer;
        self.xcr0 = xcr0;
        self.pdpte = pdpte;
        self.dr = dr;
        self.msr = msr;
        self.xmm = xmm;
        self.mxcsr = mxcsr;
        self.fpu = fpu;
        self.fpu.top &= 7;
        self.halted = halted;
        self.interrupt_shadow = interrupt_shadow;
        self.nmi_blocked = nmi_blocked;
        self.pending_debug = pending_debug;
        self.deliveries = deliveries;
        self.delivered_at = position;
        self.a20_mask = if a20 { u64::MAX } else { A20_OFF };
        self.position = position;
        // Whatever was derived belongs to another past: no regime equals this one.
        self.regime = [u64::MAX; 4];
        self.abort = AbortReason::RetryAlone;
    }

    /// Puts in only the registers that an unprivileged program can write: general registers, RIP,
    /// RFLAGS, x87 and SSE. The machine around them, and what was derived from it, stays; so
    /// this is far cheaper than [`Cpu::set_state`]. For lock-step comparison.
    pub fn set_user_registers(&mut self, state: &CpuState) {
        self.gpr[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.next_rip = state.rip;
        self.set_rflags(state.rflags);
        self.xmm = state.xmm;
        self.mxcsr = state.mxcsr;
        self.fpu = state.fpu.clone();
        self.fpu.top &= 7;
    }
}
