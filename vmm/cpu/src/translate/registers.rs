//! Where guest state is while host code runs.
//!
//! ```text
//! RAX        the guest's arithmetic flags: AH as LAHF leaves it, AL = OF
//! RSP        the host's stack
//! R8, R9     scratch
//! R14        the TLB in use
//! R15        the CPU's state: points to gpr[8]
//! others     guest registers: RCX RDX RBX RBP RSI RDI R12 R13 in their own,
//!            RAX in R10, RSP in R11
//! memory     guest R8 to R11, R14 and R15: what compilers use least
//! XMM0-15    the guest's, loaded when a block first reads one; memory is always up to date
//! MXCSR      the host's, or the guest's while `Native::mxcsr_loaded` says so: see `Translation::want_mxcsr`
//! ```

use super::emit::{Host, Mem, at, host};
use crate::cpu::{Cpu, PAGE_REG};
use crate::mmu::Tlb;
use iced_x86::Register;
use std::mem::offset_of;

/// The guest register of a number that R15 points to.
const ANCHOR: usize = 8;

/// An offset in [`Cpu`] as a displacement from R15.
const fn displacement(offset: usize) -> i32 {
    offset as i32 - (offset_of!(Cpu, gpr) + ANCHOR * 8) as i32
}

/// R15's distance from the start of [`Cpu`].
pub(super) const ANCHOR_OFFSET: i32 = (offset_of!(Cpu, gpr) + ANCHOR * 8) as i32;

const fn field(offset: usize) -> Mem {
    at(host::R15, displacement(offset))
}

pub(super) const BUDGET: Mem = field(offset_of!(Cpu, budget));
pub(super) const FLAGS: Mem = field(offset_of!(Cpu, native.flags));
pub(super) const NEXT: Mem = field(offset_of!(Cpu, native.next));
pub(super) const TEMPORARY: Mem = field(offset_of!(Cpu, native.temporary));
pub(super) const MXCSR_LOADED: Mem = field(offset_of!(Cpu, native.mxcsr_loaded));
pub(super) const HOST_MXCSR: Mem = field(offset_of!(Cpu, native.host_mxcsr));
pub(super) const MXCSR: Mem = field(offset_of!(Cpu, mxcsr));
pub(super) const RIP: Mem = field(offset_of!(Cpu, rip));
pub(super) const PAGE: Mem = slot(PAGE_REG);

const _: () =
    assert!(STACK_LIMIT.disp >= -128 && PAGE.disp < 128, "a byte is enough for a displacement");

/// The memory of a guest register.
pub(super) const fn slot(register: u8) -> Mem {
    field(offset_of!(Cpu, gpr) + register as usize * 8)
}

/// The memory of an XMM register.
pub(super) const fn xmm_slot(register: u8) -> Mem {
    field(offset_of!(Cpu, xmm) + register as usize * 16)
}

pub(super) const SYSTEM_FLAGS: Mem = field(offset_of!(Cpu, system_flags));
pub(super) const LIMIT: Mem = field(offset_of!(Cpu, limit));
pub(super) const CR4: Mem = field(offset_of!(Cpu, cr4));
pub(super) const TSC_OFFSET: Mem = field(offset_of!(Cpu, msr.tsc_offset));
pub(super) const TSC_AUX: Mem = field(offset_of!(Cpu, msr.tsc_aux));
pub(super) const TSC_AHEAD: Mem = field(offset_of!(Cpu, native.tsc_ahead));
pub(super) const TSC_COUNTS_INSTRUCTIONS: Mem =
    field(offset_of!(Cpu, native.tsc_counts_instructions));
pub(super) const CPL: Mem = field(offset_of!(Cpu, cpl));
pub(super) const KERNEL_GS_BASE: Mem = field(offset_of!(Cpu, msr.kernel_gs_base));
pub(super) const HOST_STACK: Mem = field(offset_of!(Cpu, native.host_stack));
pub(super) const STACK_LIMIT: Mem = field(offset_of!(Cpu, native.stack_limit));

/// The base address of a segment.
pub(super) const fn segment_base(register: usize) -> Mem {
    field(
        offset_of!(Cpu, seg)
            + register * size_of::<crate::segment::Segment>()
            + offset_of!(crate::segment::Segment, base),
    )
}

/// Offsets of the tables in a [`Tlb`], which R14 points to.
pub(super) mod table {
    use super::{Tlb, offset_of};
    use crate::mmu::Data;
    /// Of data: the size of a slot.
    pub(crate) const DATA_STEP: usize = size_of::<Data>();
    pub(crate) const READ: i32 = (offset_of!(Tlb, data) + offset_of!(Data, read)) as i32;
    pub(crate) const WRITE: i32 = (offset_of!(Tlb, data) + offset_of!(Data, write)) as i32;
    /// Of code: the size of a slot.
    pub(crate) const CODE_STEP: usize = size_of::<crate::mmu::Entry>();
    pub(crate) const CODE: i32 = offset_of!(Tlb, code) as i32;
}

/// The host register that holds a guest register (0 to 15), or `None` for those in memory.
pub(super) const fn host_of(guest: u8) -> Option<Host> {
    match guest {
        0 => Some(host::R10),
        4 => Some(host::R11),
        1 | 2 | 3 | 5 | 6 | 7 | 12 | 13 => Some(guest),
        _ => None,
    }
}

/// Guest registers that live in host registers.
pub(super) fn pinned() -> impl Iterator<Item = (u8, Host)> {
    (0..16).filter_map(|guest| host_of(guest).map(|host| (guest, host)))
}

/// The iced-x86 name of the low `bytes` bytes of a host register.
pub(super) fn named(host: Host, bytes: usize) -> Register {
    let (first, n) = match bytes {
        1 if host < 4 => (Register::AL, host),
        1 => (Register::SPL, host - 4),
        2 => (Register::AX, host),
        4 => (Register::EAX, host),
        _ => (Register::RAX, host),
    };
    first + u32::from(n)
}
