//! The clock of retired branches, as the engine keeps it: counts that begin at landmarks.

use crate::error::{KvmError, refused};
use crate::pmu::landing::Place;
use crate::pmu::{Branches, PmuError};
use dejavm_cpu::{Counted, rflags};
use dejavm_units::{Gva, Position};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;

/// Where a count begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zero {
    /// The counter's reading there.
    pub(crate) reading: u64,
    /// The position.
    pub(crate) at: Position,
}

/// A counter, and where counts begin.
pub(crate) struct Clock {
    pub(crate) branches: Box<dyn Branches>,
    zero: Option<Zero>,
    /// The count begins when the guest runs next.
    anew: bool,
}

impl Clock {
    pub(crate) fn new(branches: Box<dyn Branches>) -> Clock {
        Clock { branches, zero: None, anew: true }
    }

    /// The guest is about to run on this thread, from a position on.
    pub(crate) fn start(&mut self, at: Position) -> Result<(), PmuError> {
        if self.branches.begin()? {
            self.zero = None;
        }
        if std::mem::take(&mut self.anew) {
            self.zero = Some(Zero { reading: self.branches.read()?, at });
        }
        Ok(())
    }

    /// The next count begins where the guest runs next. Where this one began.
    pub(crate) fn begin_anew(&mut self) -> Option<Zero> {
        self.anew = true;
        self.zero.take()
    }

    /// Where the guest stands, for a recording; `None` if the count has no beginning.
    pub(crate) fn counted(&mut self, vcpu: &VcpuFd) -> Result<Option<Counted>, ClockError> {
        let Some(zero) = self.zero else { return Ok(None) };
        let Place { branches, rip, rcx, registers, .. } = self.place(vcpu, zero.reading)?;
        Ok(Some(Counted { since: zero.at, branches, rip, rcx, registers }))
    }

    /// Where the guest stands, by a count that was 0 at this reading; exits are 0.
    pub(crate) fn place(&mut self, vcpu: &VcpuFd, zero: u64) -> Result<Place, ClockError> {
        let branches = self.branches.read()?.wrapping_sub(zero);
        let regs = vcpu.get_regs().map_err(refused("the registers"))?;
        let sregs = vcpu.get_sregs().map_err(refused("the control registers"))?;
        let rip = Gva(sregs.cs.base.wrapping_add(regs.rip));
        Ok(Place { exits: 0, branches, rip, rcx: regs.rcx, registers: hash(&regs) })
    }
}

/// Why there is no place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClockError {
    #[error(transparent)]
    Counter(#[from] PmuError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// FNV-1a by words, turned a little: recordings hold it.
fn hash(regs: &kvm_regs) -> u64 {
    let words = [
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rbx,
        regs.rsp,
        regs.rbp,
        regs.rsi,
        regs.rdi,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        // Those belong to whoever steps.
        regs.rflags & !(rflags::RF | rflags::TF),
    ];
    words.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash is in recordings, so it stays what it is.
    #[test]
    fn registers_and_flags_are_in_the_hash_but_not_who_steps() {
        let regs = kvm_regs { rax: 1, r15: 2, rflags: 0x246, ..kvm_regs::default() };
        let known = hash(&regs);
        assert_eq!(known, 1_060_099_796_487_585_313);
        assert_eq!(hash(&kvm_regs { rflags: 0x1_0346, ..regs }), known);
        assert_eq!(hash(&kvm_regs { rip: 7, ..regs }), known);
        for other in [
            kvm_regs { rflags: 0x247, ..regs },
            kvm_regs { rax: 2, r15: 1, ..regs },
            kvm_regs { rsp: 1, ..regs },
        ] {
            assert_ne!(hash(&other), known);
        }
    }
}
