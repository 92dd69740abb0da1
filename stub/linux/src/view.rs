//! What introspection needs of a machine: registers and physical memory, to read.

use dejavm_cpu::CpuState;
use dejavm_machine::Machine;
use dejavm_units::Gpa;
use std::ops::Range;

/// A machine at rest, looked at from outside. Nothing here may change the machine.
pub trait GuestView {
    /// Number of vCPUs; at least 1.
    fn vcpus(&self) -> usize;

    /// The registers of vCPU `vcpu`, which is below [`GuestView::vcpus`].
    fn cpu_state(&self, vcpu: usize) -> CpuState;

    /// Copies RAM from `at` on; `false`, with `into` in any state, if a byte of it is no RAM. Never a device.
    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool;

    /// Where RAM is, in ascending order. Holes within (the VGA window) just fail to read.
    fn ram(&self) -> Vec<Range<u64>>;
}

impl GuestView for Machine {
    fn vcpus(&self) -> usize {
        self.processors()
    }

    fn cpu_state(&self, vcpu: usize) -> CpuState {
        self.processor_state(vcpu)
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        Machine::ram(self).read(at, into).is_ok()
    }

    fn ram(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for page in Machine::ram(self).pages() {
            let start = page.gpa().0;
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = start + 4096,
                _ => ranges.push(start..start + 4096),
            }
        }
        ranges
    }
}
