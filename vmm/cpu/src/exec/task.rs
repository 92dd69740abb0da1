//! Hardware task switches (SDM vol. 3A, chapter 7).

use super::descriptor::Descriptor;
use super::far::Transfer;
use crate::cpu::Cpu;
use crate::exception::Abort;

impl Cpu {
    pub(crate) fn switch_task_by_gate(
        &mut self,
        gate: &Descriptor,
        _return_rip: u64,
        _flags: u64,
        _error_code: Option<u32>,
    ) -> Result<(), Abort> {
        Err(self.invalid_tss(gate.gate_selector().into()))
    }
    pub(crate) fn switch_task_by_task_gate(
        &mut self,
        _transfer: Transfer,
        gate: &Descriptor,
    ) -> Result<(), Abort> {
        Err(self.invalid_tss(gate.gate_selector().into()))
    }
    pub(crate) fn switch_task_by_transfer(
        &mut self,
        _transfer: Transfer,
        tss: &Descriptor,
    ) -> Result<(), Abort> {
        Err(self.invalid_tss(tss.error_code()))
    }
    pub(crate) fn return_from_task(&mut self) -> Result<(), Abort> {
        Err(self.invalid_tss(0))
    }
}
