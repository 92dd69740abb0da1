//! What stops a guest besides its exits: the processor's breakpoints, and single steps (`KVM_SET_GUEST_DEBUG`). The guest leaves with
//! [`Exit::Debug`](crate::exits::Exit) then.
//!
//! While breakpoints are set the guest's own debug registers do nothing. A step is the processor's trap flag: a step over an
//! instruction that faults leaves it in the flags that the handler finds on its stack, and one over MOV SS is two. A breakpoint at the
//! instruction that the guest stands at stops it at once, unless its RFLAGS.RF is set (SDM vol. 3B, 18.3.1.1).

use crate::error::{KvmError, refused};
use dejavm_units::Gva;
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_guest_debug,
    kvm_guest_debug_arch,
};
use kvm_ioctls::VcpuFd;

/// Breakpoints that a processor has.
pub(crate) const BREAKPOINTS: usize = 4;
/// DR7: the bit that always is set; local and global enable of breakpoint 0, and how far apart those of the next are; its type and
/// length, and how far apart (SDM vol. 3B, 18.2.4).
const DR7_FIXED: u64 = 1 << 10;
const ENABLE_SHIFT: usize = 2;
const GLOBAL: u64 = 1 << 1;
const KIND: usize = 16;
const KIND_SHIFT: usize = 4;

/// What a breakpoint waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The instruction there; it has not been executed.
    Execute,
    /// A write to so many bytes there (1, 2, 4 or 8, aligned); it has been done.
    Write(u8),
    /// A read or write of so many bytes there, likewise.
    Access(u8),
}

impl Kind {
    /// R/W in bits 1:0, LEN in bits 3:2.
    fn bits(self) -> u64 {
        let length = |bytes: u8| match bytes {
            2 => 0b01,
            4 => 0b11,
            8 => 0b10,
            _ => 0b00,
        };
        match self {
            Kind::Execute => 0,
            Kind::Write(bytes) => 0b01 | length(bytes) << 2,
            Kind::Access(bytes) => 0b11 | length(bytes) << 2,
        }
    }
}

/// What a guest is to be stopped at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stops {
    /// After each instruction.
    pub(crate) step: bool,
    /// Linear addresses.
    pub(crate) breakpoints: [Option<(Gva, Kind)>; BREAKPOINTS],
}

/// From now on the vCPU's guest is stopped at these and no others.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn set(vcpu: &VcpuFd, stops: &Stops) -> Result<(), KvmError> {
    vcpu.set_guest_debug(&request(stops)).map_err(refused("breakpoints and single steps"))
}

/// The request in the kernel's words.
pub(crate) fn request(stops: &Stops) -> kvm_guest_debug {
    let Stops { step, breakpoints } = stops;
    let (mut control, mut registers) = (0, [0; 8]);
    if *step {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    }
    for (n, (at, kind)) in breakpoints.iter().enumerate().filter_map(|(n, set)| Some((n, (*set)?)))
    {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
        registers[n] = at.0;
        registers[7] |=
            DR7_FIXED | GLOBAL << (ENABLE_SHIFT * n) | kind.bits() << (KIND + KIND_SHIFT * n);
    }
    kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg: registers } }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Controls from linux/kvm.h and asm/kvm.h; DR7 by SDM vol. 3B, figure 18-1.
    #[test]
    fn requests_in_the_kernels_words() {
        let nothing = request(&Stops::default());
        assert_eq!((nothing.control, nothing.arch.debugreg), (0, [0; 8]));
        let step = request(&Stops { step: true, ..Stops::default() });
        assert_eq!((step.control, step.arch.debugreg), (1 | 2, [0; 8]));
        let mut breakpoints = [None; BREAKPOINTS];
        breakpoints[0] = Some((Gva(0x1234), Kind::Execute));
        let one = request(&Stops { step: false, breakpoints });
        assert_eq!(one.control, 1 | 0x2_0000);
        assert_eq!(one.arch.debugreg, [0x1234, 0, 0, 0, 0, 0, 0, 0x402]);
        breakpoints[1] = Some((Gva(0x8000), Kind::Write(8)));
        breakpoints[3] = Some((Gva(0x9000), Kind::Access(4)));
        let all = request(&Stops { step: true, breakpoints });
        assert_eq!(all.control, 1 | 2 | 0x2_0000);
        // LEN1 and R/W1 at 23:20 are 10 01; LEN3 and R/W3 at 31:28 are 11 11.
        assert_eq!(all.arch.debugreg, [0x1234, 0x8000, 0, 0x9000, 0, 0, 0, 0xf090_048a]);
    }
}
