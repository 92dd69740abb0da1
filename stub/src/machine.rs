//! Looking at a [`Machine`].

use crate::target::{Inspect, Vcpu};
use dejavm_cpu::CpuState;
use dejavm_machine::Machine;
use dejavm_units::{Gpa, GuestNs, Gva, PAGE_SIZE, Position};

impl Inspect for Machine {
    fn vcpus(&self) -> u32 {
        self.processors() as u32
    }

    fn current_vcpu(&self) -> Vcpu {
        Vcpu(self.acting_processor() as u32)
    }

    fn registers(&self, Vcpu(vcpu): Vcpu) -> CpuState {
        self.processor_state(vcpu as usize)
    }

    fn task_priority(&self, Vcpu(vcpu): Vcpu) -> u8 {
        Machine::task_priority(self, vcpu as usize)
    }

    fn position(&self) -> Position {
        Machine::position(self)
    }

    fn guest_ns(&self) -> GuestNs {
        Machine::guest_ns(self)
    }

    fn translate(&self, Vcpu(vcpu): Vcpu, at: Gva, space: Option<Gpa>) -> Option<Gpa> {
        self.translate_by(vcpu as usize, at, space)
    }

    fn read_virtual(
        &self,
        Vcpu(vcpu): Vcpu,
        at: Gva,
        space: Option<Gpa>,
        into: &mut [u8],
    ) -> usize {
        self.read_virtual_by(vcpu as usize, at, space, into)
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some(from) = at.0.checked_add(done as u64).map(Gpa) else { break };
            let in_page = (PAGE_SIZE - from.page_offset()) as usize;
            let end = into.len().min(done + in_page);
            if self.ram().read(from, &mut into[done..end]).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    fn ram(&self) -> Vec<(Gpa, u64)> {
        let layout = Machine::ram(self).layout();
        let low = (Gpa(0), layout.low_bytes());
        let high = (layout.gpa(layout.low_bytes()), layout.high_bytes());
        if layout.high_bytes() == 0 { vec![low] } else { vec![low, high] }
    }
}
