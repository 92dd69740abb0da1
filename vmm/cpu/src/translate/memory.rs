//! Memory operands: effective addresses, and the probe of the TLB.

use super::block::Translation;
use super::emit::{Host, Mem, Width, condition, host, indexed};
use super::registers::{host_of, segment_base, slot, table};
use crate::cpu::{PAGE_REG, gpr};
use crate::interp::general;
use crate::segment::SegReg;
use iced_x86::{Instruction, Register};

/// What a probe asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Right {
    Load,
    /// Or both.
    Store,
}

/// The guest's number of RSP.
pub(super) const RSP: u8 = gpr::RSP as u8;

/// What an address is made of besides a displacement: guest registers, a log2 scale, a segment with a base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) base: Option<u8>,
    pub(super) index: Option<(u8, u8)>,
    pub(super) segment: Option<SegReg>,
}

impl Key {
    /// Whether the address changes with a guest register.
    pub(super) fn uses(&self, guest: u8) -> bool {
        self.base == Some(guest) || self.index.is_some_and(|(index, _)| index == guest)
    }
}

/// An address as an instruction gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) key: Key,
    pub(super) disp: i32,
}

/// The stack, so far from RSP.
pub(super) const fn stack(disp: i32) -> Place {
    Place { key: Key { base: Some(RSP), index: None, segment: None }, disp }
}

impl Translation<'_> {
    /// A guest register's value: in its own host register, or loaded into `scratch`.
    pub(super) fn value_in(&mut self, guest: u8, scratch: Host) -> Host {
        match host_of(guest) {
            Some(register) => register,
            None => {
                self.hot.load(scratch, slot(guest));
                if scratch == host::R8 {
                    self.held = None;
                }
                scratch
            }
        }
    }

    /// The address of a memory operand; `None` for those that have no translation.
    pub(super) fn place_of(&self, i: &Instruction) -> Option<Place> {
        let segment = match i.memory_segment() {
            Register::FS => Some(SegReg::Fs),
            Register::GS => Some(SegReg::Gs),
            _ => None,
        };
        if i.is_ip_rel_memory_operand() {
            if i.memory_base() != Register::RIP {
                return None;
            }
            let disp = i32::try_from(i.ip_rel_memory_address() as i64).ok()?;
            let key = Key { base: Some(PAGE_REG), index: None, segment };
            return Some(Place { key, disp });
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
        let scale = i.memory_index_scale().trailing_zeros() as u8;
        let key = Key { base, index: index.map(|index| (index, scale)), segment };
        Some(Place { key, disp })
    }

    /// A place but for its segment; R8 and R9 hold what they must.
    pub(super) fn unsegmented(&mut self, place: Place) -> Mem {
        let Place { key: Key { base, index, segment: _ }, disp } = place;
        let base = base.map(|base| self.value_in(base, host::R8));
        let index = index.map(|(index, scale)| (self.value_in(index, host::R9), scale));
        Mem { base, index, disp }
    }

    /// Puts the linear address of a place into R8; flags may be lost, R9 too.
    pub(super) fn linear(&mut self, place: Place) {
        match self.unsegmented(place) {
            Mem { base: Some(base), index: None, disp: 0 } => self.hot.mov(host::R8, base),
            Mem { base: None, index: None, disp } => self.hot.constant_signed(host::R8, disp),
            address => self.hot.lea(host::R8, address),
        }
        if let Some(segment) = place.key.segment {
            // ADD r64, m64
            self.hot.mem(Width::W64, &[0x03], host::R8, segment_base(segment as usize));
        }
    }

    /// Turns the linear address in R8 into a host address, or jumps to `exit` with nothing changed; returns
    /// where that jump's distance lies. Flags must have been saved; R9 is lost.
    pub(super) fn probe(&mut self, right: Right, bytes: u32, exit: u32) -> u32 {
        let table = match right {
            Right::Load => table::READ,
            Right::Store => table::WRITE,
        };
        self.hot.tlb_slot(table::DATA_STEP);
        // XOR r64, m64: the offset in the page, or more.
        self.hot.mem(Width::W64, &[0x33], host::R8, indexed(host::R14, host::R9, 0, table));
        self.hot.arith(Width::W64, 7, host::R8, 4096 - bytes as i32);
        let site = self.hot.jcc(condition::A, exit);
        // ADD r64, m64
        self.hot.mem(Width::W64, &[0x03], host::R8, indexed(host::R14, host::R9, 0, table + 8));
        site
    }

    /// Leaves for the interpreter unless what was reached lies at a multiple of 16. R9 is lost.
    pub(super) fn require_aligned(&mut self, reached: Mem) {
        self.save_flags();
        let exit = self.exit_here();
        self.hot.lea(host::R9, reached);
        // TEST r9b, 15
        self.hot.raw(&[0x41, 0xf6, 0xc1, 0x0f]);
        self.hot.jcc(condition::NE, exit);
    }
}
