//! Which model-specific registers the kernel completes by itself: the processor's own. All others come out to us.

use crate::error::{KvmError, refused};
use crate::registers::is_the_processors;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL,
    KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap,
};
use kvm_ioctls::{MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};

/// Runs of registers that hold all of the processor's own.
const RANGES: [(u32, u32); 3] = [(0x174, 3), (0xc000_0080, 5), (0xc000_0100, 4)];

/// Denies by default.
pub(crate) fn filter(vm: &VmFd) -> Result<(), KvmError> {
    // Before the filter: else the guest gets #GP for what the filter denies.
    let reasons =
        KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
    let mut cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, ..Default::default() };
    cap.args[0] = reasons.into();
    vm.enable_cap(&cap).map_err(refused("KVM_CAP_X86_USER_SPACE_MSR"))?;
    let bitmaps = RANGES.map(|(base, count)| {
        let bits = (0..count).filter(|n| is_the_processors(base + n));
        [bits.fold(0u8, |all, n| all | 1 << n)]
    });
    let ranges: Vec<_> = RANGES
        .iter()
        .zip(&bitmaps)
        .map(|(&(base, msr_count), bitmap)| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count,
            bitmap,
        })
        .collect();
    vm.set_msr_filter(MsrFilterDefaultAction::DENY, &ranges)
        .map_err(refused("the filter of model-specific registers"))
}
