//! The shadow of STI, where the host's processor loses it.
//!
//! STI holds off interrupts until the next instruction has completed (SDM vol. 3A, 7.8.3). Where that one leaves the guest halfway (its page is
//! new to the host, or the host's timer comes), the processor stores the shadow for who resumes the guest. QEMU's (7.2) does; but its VMRUN
//! does not load it (`helper_vmrun` in target/i386/tcg/sysemu/svm_helper.c), so an interrupt that waits enters one instruction early, and only
//! where there was such an exit. A replay whose pages are new elsewhere would differ.

use crate::emulated_host::is_qemus;
use dejavm_memory::GuestRam;
use dejavm_units::Gpa;
use kvm_ioctls::VcpuFd;

/// STI is one byte.
const STI: u8 = 0xfb;

/// Whether interrupts are still to be held off where the guest is, although KVM says that it takes them; they were held off when it was entered.
/// Only on QEMU's processor. What stands before the next instruction tells, not what was executed. Where the instruction behind an STI leads behind
/// such a byte (compilers jump from one STI behind another), an interrupt enters one instruction late: so it does in every replay, and the software
/// CPU does the same for such models (`is_behind_any_sti` in `vmm/cpu/src/exec/emulated.rs`). An IRET that leads there would be late too; this the
/// software CPU does not follow.
pub(crate) fn is_lost(vcpu: &VcpuFd, ram: &GuestRam) -> bool {
    is_qemus() && byte_before(vcpu, ram) == Some(STI)
}

/// The byte before the next instruction.
fn byte_before(vcpu: &VcpuFd, ram: &GuestRam) -> Option<u8> {
    let (regs, sregs) = (vcpu.get_regs().ok()?, vcpu.get_sregs().ok()?);
    let before = sregs.cs.base.wrapping_add(regs.rip).wrapping_sub(1);
    let found = vcpu.translate_gva(before).ok().filter(|found| found.valid != 0)?;
    let mut byte = [0];
    ram.read(Gpa(found.physical_address), &mut byte).ok()?;
    Some(byte[0])
}
