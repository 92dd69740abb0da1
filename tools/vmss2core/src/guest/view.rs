//! A guest as the introspection of Linux wants to see it.

use crate::guest::Guest;
use dejavm_cpu::{CpuState, Rights, Segment, TableRegister};
use dejavm_linux::GuestView;
use dejavm_units::Gpa;
use std::ops::Range;
use vmss::{SegmentRegister, Table};

const EFER_LONG_MODE: u64 = 1 << 8 | 1 << 10;

impl GuestView for Guest {
    fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// What a file does not tell is as after reset: no model-specific register but the bases of segments.
    fn cpu_state(&self, vcpu: usize) -> CpuState {
        let vcpu = &self.vcpus[vcpu];
        let mut state = CpuState::reset();
        let segment = |register: &SegmentRegister, before: &Segment| Segment {
            selector: register.selector,
            base: register.base,
            limit: register.limit.unwrap_or(u32::MAX),
            rights: register.rights.map_or(before.rights, Rights),
        };
        let table = |table: Table| TableRegister { base: table.base, limit: table.limit };
        state.gpr = vcpu.gpr;
        state.rip = vcpu.rip;
        state.rflags = vcpu.eflags.into();
        for (at, register) in vcpu.segments[..6].iter().enumerate() {
            state.seg[at] = segment(register, &state.seg[at]);
        }
        state.ldtr = segment(&vcpu.segments[6], &state.ldtr);
        state.tr = segment(&vcpu.segments[7], &state.tr);
        (state.gdtr, state.idtr) = (table(vcpu.gdtr), table(vcpu.idtr));
        state.cpl = (vcpu.segments[vmss::segment::SS].selector & 3) as u8;
        (state.cr0, state.cr2) = (vcpu.cr[0], vcpu.cr[2]);
        (state.cr3, state.cr4) = (vcpu.cr[3], vcpu.cr[4]);
        let long = if vcpu.is_long_mode() { EFER_LONG_MODE } else { 0 };
        state.efer = vcpu.efer.unwrap_or(long);
        state.dr = vcpu.dr;
        state.msr.kernel_gs_base = vcpu.kernel_gs_base.unwrap_or(0);
        state.halted = vcpu.is_halted;
        state
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        self.cache.read(&self.memory, at.0, into).is_ok()
    }

    fn ram(&self) -> Vec<Range<u64>> {
        self.memory.regions().iter().map(|region| region.start()..region.end()).collect()
    }
}
