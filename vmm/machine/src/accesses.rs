//! A list of the guest's accesses to devices, for who compares engines: what a device sees of a guest is this, in this order.
//!
//! Nobody keeps it unless asked to, and it is no part of the state.

use crate::machine::Machine;
use dejavm_units::Gpa;

/// Something that the guest did to a device, or that it was told by one: address, width in bytes, value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// IN, and what came.
    PortIn(u16, u8, u32),
    /// OUT
    PortOut(u16, u8, u32),
    /// A load from where no RAM is, and what came.
    MemoryRead(Gpa, u8, u64),
    /// A store there.
    MemoryWrite(Gpa, u8, u64),
    /// HLT completed.
    Halt,
    /// The acknowledge cycle of an interrupt: its vector.
    Acknowledged(u8),
}

/// The list, if one is kept.
#[derive(Default)]
pub(crate) struct Accesses(Option<Vec<Access>>);

impl Accesses {
    pub(crate) fn note(&mut self, access: Access) {
        if let Some(list) = &mut self.0 {
            list.push(access);
        }
    }
}

impl Machine {
    /// From now on keeps a list of accesses. It grows until it is taken.
    pub fn keep_accesses(&mut self) {
        self.board.accesses.0.get_or_insert_default();
    }

    /// The accesses since the last call, in order; none if nobody asked to keep them.
    pub fn take_accesses(&mut self) -> Vec<Access> {
        self.board.accesses.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
