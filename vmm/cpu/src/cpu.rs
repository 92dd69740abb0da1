//! The vCPU: its architectural registers in the form that execution wants them.

use crate::code::{CodeCache, JumpCache, OpRef, RecentInstructions, Way};
use crate::context::Context;
use crate::debugger::Debugger;
use crate::exception::{Abort, AbortReason};
use crate::flags::{Arith, rflags};
use crate::fpu::Fpu;
use crate::interp::Exit;
use crate::mmu::{Mmu, Tlb};
use crate::model::Model;
use crate::msr::Msrs;
use crate::segment::{SegReg, Segment, TableRegister};
use crate::translate::{Native, Translator};
use crate::turns::Turns;
use dejavm_units::Position;

/// Index of the general register that always reads zero: the base or index an address lacks.
pub(crate) const ZERO_REG: u8 = 16;
/// Index of the pseudo-register that holds the linear address of the page being executed: the base
/// of RIP-relative operands in decoded blocks, which know only their place in the page.
pub(crate) const PAGE_REG: u8 = 17;

/// Names for indices of [`CpuState::gpr`](crate::CpuState).
#[expect(missing_docs, reason = "the registers' names")]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// Bits of the control registers (SDM vol. 3A, 2.5) and of EFER.
#[expect(missing_docs, reason = "the manual's mnemonics")]
pub mod control {
    pub const CR0_PE: u64 = 1 << 0;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_EM: u64 = 1 << 2;
    pub const CR0_TS: u64 = 1 << 3;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_AM: u64 = 1 << 18;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_VME: u64 = 1 << 0;
    pub const CR4_PVI: u64 = 1 << 1;
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_DE: u64 = 1 << 3;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_MCE: u64 = 1 << 6;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_PCE: u64 = 1 << 8;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_LA57: u64 = 1 << 12;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_PCIDE: u64 = 1 << 17;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
    pub const EFER_SCE: u64 = 1 << 0;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NXE: u64 = 1 << 11;
}

/// One virtual CPU. Fields are architectural unless said otherwise. The first three are in the order in which host code
/// reaches what it uses most with the shortest displacements: see `translate/registers.rs`.
#[repr(C)]
pub struct Cpu {
    /// What host code keeps in memory besides.
    pub(crate) native: Native,
    /// Instructions that may still run before the run loop looks at events.
    pub(crate) budget: i64,
    /// RAX..R15 in encoding order, [`ZERO_REG`], [`PAGE_REG`]; padded so that the index in an
    /// operation, a byte, needs no check.
    pub(crate) gpr: [u64; 256],

    // Configuration.
    /// Which CPU this is to the guest.
    pub(crate) model: Model,
    /// The local APIC id, for CPUID.
    pub(crate) apic_id: u8,

    // The other registers, in execution form.
    /// The six arithmetic flags, lazily.
    pub(crate) arith: Arith,
    /// The other bits of RFLAGS.
    pub(crate) system_flags: u64,
    /// Offset in CS of the instruction being executed.
    pub(crate) rip: u64,
    /// Offset in CS of the instruction after it; a branch changes this one.
    pub(crate) next_rip: u64,
    /// ES, CS, SS, DS, FS, GS; the last two slots are always zero, a base to add when there is none.
    pub(crate) seg: [Segment; 8],
    pub(crate) ldtr: Segment,
    pub(crate) tr: Segment,
    pub(crate) gdtr: TableRegister,
    pub(crate) idtr: TableRegister,
    /// Current privilege level.
    pub(crate) cpl: u8,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    pub(crate) xcr0: u64,
    /// The four page-directory-pointer entries that PAE paging latches at MOV CR3.
    pub(crate) pdpte: [u64; 4],
    pub(crate) dr: [u64; 8],
    pub(crate) msr: Msrs,
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
    pub(crate) fpu: Fpu,
    /// HLT was executed and nothing has woken the CPU yet.
    pub(crate) halted: bool,
    /// STI or a load of SS was the last instruction: no interrupt before the next one completes.
    pub(crate) interrupt_shadow: bool,
    /// An NMI is being handled: no other until IRET.
    pub(crate) nmi_blocked: bool,
    /// A debug exception that a data breakpoint or single step earned, due after this instruction:
    /// DR6 bits.
    pub(crate) pending_debug: u64,

    /// Interrupts and exceptions delivered since an instruction completed, if the last of them was at
    /// `delivered_at`.
    pub(crate) deliveries: u32,
    pub(crate) delivered_at: Position,

    // Derived and transient.
    /// RAM and bus, while running.
    pub(crate) context: Context,
    /// Physical addresses are ANDed with this: all ones, or bit 20 clear while A20 is off.
    pub(crate) a20_mask: u64,
    /// What was derived from page tables.
    pub(crate) mmu: Mmu,
    /// The TLB of the current address space and privilege class, inside `mmu`.
    pub(crate) tlb: *const Tlb,
    /// Where jumps belong: made by the supervisor, by the user.
    pub(crate) place: [usize; 2],
    /// What `mmu` was derived under: see `paging_regime`.
    pub(crate) regime: [u64; 4],
    /// Decoded blocks.
    pub(crate) code: CodeCache,
    /// Instructions that were executed alone.
    pub(crate) recent: RecentInstructions,
    /// Blocks by linear address.
    pub(crate) jumps: JumpCache,
    /// Address space, privilege class and decoding mode, as `jumps` tags want them.
    pub(crate) jump_context: u64,
    /// Offsets wrap here: all ones in 64-bit mode, 32 ones otherwise. Valid inside blocks.
    pub(crate) address_mask: u64,
    /// The position at which `budget` runs out.
    pub(crate) limit: u64,
    /// Why the last chain of blocks was left.
    pub(crate) exit: Exit,
    /// A branch whose way is to be linked to the block found next.
    pub(crate) pending_link: Option<(OpRef, Way)>,
    /// The exception in `abort` is an instruction breakpoint's: RF is pushed as it is.
    pub(crate) instruction_breakpoint: bool,
    /// Why the last `Abort` was returned.
    pub(crate) abort: AbortReason,
    /// The current instruction runs alone: device access is allowed, events are looked at after it.
    pub(crate) alone: bool,
    /// The instruction asked the run loop to look at events, modes and translations again.
    pub(crate) end_of_block: bool,
    /// Instructions completed since the machine started.
    pub(crate) position: Position,

    /// Host code of blocks.
    pub(crate) translator: Translator,

    /// The turn of the vCPU that this is now, if several share it.
    pub(crate) turns: Turns,

    /// Where a debugger wants runs to stop; no part of the state.
    pub(crate) debugger: Debugger,
}

impl Cpu {
    /// Records an exception and returns the token that unwinds the instruction.
    #[cold]
    pub(crate) fn exception(&mut self, vector: u8, error_code: Option<u32>) -> Abort {
        self.abort = AbortReason::Exception { vector, error_code };
        Abort(())
    }

    /// #UD.
    #[cold]
    pub(crate) fn undefined_opcode(&mut self) -> Abort {
        self.exception(crate::exception::vector::UD, None)
    }

    /// #GP with an error code.
    #[cold]
    pub(crate) fn general_protection(&mut self, error_code: u32) -> Abort {
        self.exception(crate::exception::vector::GP, Some(error_code))
    }

    /// Asks that the current instruction be run again as a block of its own. Call this before any
    /// effect; when it returns `Ok` the instruction already runs alone.
    #[inline]
    pub(crate) fn require_alone(&mut self) -> Result<(), Abort> {
        if self.alone {
            return Ok(());
        }
        self.abort = AbortReason::RetryAlone;
        Err(Abort(()))
    }

    /// RFLAGS as the guest would see them.
    pub(crate) fn rflags(&self) -> u64 {
        self.system_flags | self.arith.bits() | rflags::ONE
    }

    /// Sets all of RFLAGS; bits that do not exist are dropped.
    pub(crate) fn set_rflags(&mut self, value: u64) {
        self.arith.set_bits(value);
        self.system_flags = value & rflags::ALL & !rflags::ARITHMETIC;
    }

    /// Whether a flag outside the arithmetic six is set.
    #[inline]
    pub(crate) fn flag(&self, bit: u64) -> bool {
        self.system_flags & bit != 0
    }

    /// The I/O privilege level.
    #[inline]
    pub(crate) fn iopl(&self) -> u8 {
        (self.system_flags >> 12 & 3) as u8
    }

    /// CR0.PE = 0.
    #[inline]
    pub(crate) fn is_real_mode(&self) -> bool {
        self.cr0 & control::CR0_PE == 0
    }

    /// Protected mode with EFLAGS.VM = 1.
    #[inline]
    pub(crate) fn is_v86(&self) -> bool {
        self.flag(rflags::VM)
    }

    /// EFER.LMA = 1: 64-bit or compatibility mode.
    #[inline]
    pub(crate) fn is_long_mode(&self) -> bool {
        self.efer & control::EFER_LMA != 0
    }

    /// 64-bit mode: long mode with CS.L = 1.
    #[inline]
    pub(crate) fn is_64bit(&self) -> bool {
        self.is_long_mode() && self.cs().rights.is_long()
    }

    /// Changes the privilege level, and with it which translations apply.
    pub(crate) fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
        self.end_of_block = true;
        self.select_space();
    }

    /// Default operand and address size of the code segment: 16, 32 or 64 bits.
    #[inline]
    pub(crate) fn code_bits(&self) -> u32 {
        if self.is_64bit() {
            64
        } else if self.cs().rights.is_big() {
            32
        } else {
            16
        }
    }

    /// Width of the stack pointer in bytes: 2, 4 or 8.
    #[inline]
    pub(crate) fn stack_size(&self) -> u32 {
        if self.is_64bit() {
            8
        } else if self.seg[SegReg::Ss as usize].rights.is_big() {
            4
        } else {
            2
        }
    }

    /// The code segment.
    #[inline]
    pub(crate) fn cs(&self) -> &Segment {
        &self.seg[SegReg::Cs as usize]
    }
}
