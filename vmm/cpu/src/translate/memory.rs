//! Memory operands: effective addresses, and the probe of the TLB.

use super::block::Translation;
use super::emit::{Host, Mem, Width, at, condition, host, indexed};
use super::registers::{PAGE, host_of, segment_base, slot, table};
use crate::interp::general;
use crate::segment::SegReg;
use iced_x86::{Instruction, Register};

/// What a probe asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    Load,
    /// Or both.
    Store,
}

impl Translation<'_> {
    /// A guest register's value: in its own host register, or loaded into `scratch`.
    pub(super) fn value_in(&mut self, guest: u8, scratch: Host) -> Host {
        match host_of(guest) {
            Some(register) => register,
            None => {
                self.hot.load(scratch, slot(guest));
                scratch
            }
        }
    }

    /// The parts of an address as host registers; R8 and R9 hold what they must. Segments are left out.
    fn address(&mut self, i: &Instruction) -> Option<Mem> {
        if i.is_ip_rel_memory_operand() {
            if i.memory_base() != Register::RIP {
                return None;
            }
            let disp = i32::try_from(i.ip_rel_memory_address() as i64).ok()?;
            self.hot.load(host::R8, PAGE);
            return Some(at(host::R8, disp));
        }
        let part = |register: Register| match register {
            Register::None => Some(None),
            _ if register.size() != 8 => None,
            _ => general(register).map(Some),
        };
        let (base, index) = (part(i.memory_base())?, part(i.memory_index())?);
        if base.is_none() && index.is_none() && i.memory_displ_size() != 8 {
            return None;
        }
        let disp = i32::try_from(i.memory_displacement64() as i64).ok()?;
        let base = base.map(|base| self.value_in(base, host::R8));
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let index = index.map(|index| (self.value_in(index, host::R9), scale));
        Some(Mem { base, index, disp })
    }

    /// LEA's operand.
    pub(super) fn unsegmented_address(&mut self, i: &Instruction) -> Option<Mem> {
        self.address(i)
    }

    /// Puts the linear address of the memory operand into R8; flags may be lost, R9 too.
    pub(super) fn linear_address(&mut self, i: &Instruction) -> Option<()> {
        let address = self.address(i)?;
        match address {
            Mem { base: Some(base), index: None, disp: 0 } => self.hot.mov(host::R8, base),
            Mem { base: None, index: None, disp } => self.hot.constant_signed(host::R8, disp),
            _ => self.hot.lea(host::R8, address),
        }
        let segment = match i.memory_segment() {
            Register::FS => SegReg::Fs,
            Register::GS => SegReg::Gs,
            _ => return Some(()),
        };
        // ADD r64, m64
        self.hot.mem(Width::W64, &[0x03], host::R8, segment_base(segment as usize));
        Some(())
    }

    /// Turns the linear address in R8 into a host address, or leaves for the interpreter with nothing
    /// changed. Flags must have been saved; R9 is lost.
    pub(super) fn probe(&mut self, right: Right, bytes: u32) {
        let exit = self.exit_here();
        let table = match right {
            Right::Load => table::READ,
            Right::Store => table::WRITE,
        };
        self.tlb_slot(table::DATA_STEP);
        // XOR r64, m64: the offset in the page, or more.
        self.hot.mem(Width::W64, &[0x33], host::R8, indexed(host::R14, host::R9, 0, table));
        self.hot.arith(Width::W64, 7, host::R8, 4096 - bytes as i32);
        self.hot.jcc(condition::A, exit);
        // ADD r64, m64
        self.hot.mem(Width::W64, &[0x03], host::R8, indexed(host::R14, host::R9, 0, table + 8));
    }

    /// R9 = the byte offset of the slot for the linear address in R8, in a table of slots of `step` bytes.
    pub(super) fn tlb_slot(&mut self, step: usize) {
        let shift = step.trailing_zeros();
        self.hot.mov32(host::R9, host::R8);
        // SHR r32, imm8: the page number times the step.
        self.hot.reg(Width::W32, &[0xc1], 5, host::R9);
        self.hot.raw(&[12 - shift as u8]);
        self.hot.arith(Width::W32, 4, host::R9, (crate::mmu::TLB_SLOTS as i32 - 1) << shift);
    }

    /// Leaves for the interpreter unless the linear address in R8 is a multiple of 16.
    pub(super) fn require_aligned(&mut self) {
        let exit = self.exit_here();
        // TEST r8b, 15
        self.hot.raw(&[0x41, 0xf6, 0xc0, 0x0f]);
        self.hot.jcc(condition::NE, exit);
    }
}
