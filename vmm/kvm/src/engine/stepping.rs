//! Executing by single steps: for a clock that is told of each instruction, where the host counts none. A stand-in for tests, and slow.

use super::KvmEngine;
use crate::branch_instruction::is_conditional_branch;
use crate::error::KvmError;
use crate::exits::Exit;
use crate::guest_debug::{self, Stops};
use crate::string_instruction::next_bytes;
use dejavm_memory::GuestRam;

/// DR6: it was a single step (SDM vol. 3B, 18.2.3). Bit n: the guest is at breakpoint n, which need not be enabled.
const DR6_STEP: u64 = 1 << 14;

impl KvmEngine {
    /// Whether each instruction is executed by itself.
    pub(super) fn is_stepped(&self) -> bool {
        self.clock.as_ref().is_some_and(|clock| clock.branches.is_told())
    }

    /// Before the guest is entered, lets it come out after one instruction, if that is how it is executed. `Some` then: whether
    /// it is a conditional branch.
    pub(super) fn prepare_step(&mut self, ram: &GuestRam) -> Result<Option<bool>, KvmError> {
        if !self.is_stepped() {
            return Ok(None);
        }
        guest_debug::set(&self.vcpu, &Stops { step: true, ..self.stops })?;
        let next = next_bytes(&self.vcpu, ram);
        Ok(Some(next.is_some_and(|(bytes, long)| is_conditional_branch(bytes, long))))
    }

    /// After such an entry ended with a debug exception: what it is to the caller; `None`: the guest goes on.
    pub(super) fn stepped(&mut self, dr6: u64, is_branch: bool) -> Option<Exit> {
        if dr6 & DR6_STEP == 0 {
            return Some(Exit::Debug { dr6 });
        }
        let clock = self.clock.as_mut().expect("who steps has a clock that is told");
        let interrupts = clock.branches.step(is_branch);
        let set = self.stops.breakpoints.iter().enumerate().filter(|(_, set)| set.is_some());
        let mut met = set.filter(|(n, _)| dr6 >> n & 1 != 0);
        if self.stops.step || met.next().is_some() {
            return Some(Exit::Debug { dr6 });
        }
        interrupts.then_some(Exit::Kicked)
    }

    /// From now on the guest stops at these.
    pub(super) fn stop_at(&mut self, stops: Stops) -> Result<(), KvmError> {
        self.stops = stops;
        guest_debug::set(&self.vcpu, &stops)
    }
}
