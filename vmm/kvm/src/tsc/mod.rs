//! Guests' time stamp counter, which they read without asking: what this host's KVM could do about it, and how.
//!
//! Linux gives no exit for RDTSC. Where the processor scales the counter for guests (`KVM_CAP_TSC_CONTROL`), its rate can be made so low that it
//! hardly moves, and [`frozen`] is how it then stands still, or is known not to have. **No engine does that yet**: no host with it was at
//! hand, so what is here is what can be tried without: the arithmetic, against a double.

pub mod frozen;

use crate::host::Host;
use kvm_ioctls::Cap;
use std::fmt;

/// What a host's KVM can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tsc {
    /// The rate can be chosen (`KVM_CAP_TSC_CONTROL`).
    pub is_scaled: bool,
    /// The rate if nothing is chosen, in kHz.
    pub khz: Option<u32>,
}

impl Host {
    /// What it can do about guests' time stamp counter.
    pub fn tsc(&self) -> Tsc {
        let vcpu = self.kvm.create_vm().and_then(|vm| vm.create_vcpu(0)).ok();
        Tsc {
            is_scaled: self.kvm.check_extension(Cap::TscControl),
            khz: vcpu.and_then(|vcpu| vcpu.get_tsc_khz().ok()),
        }
    }
}

impl fmt::Display for Tsc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tsc { is_scaled, khz } = self;
        out.write_str(match is_scaled {
            true => "its rate can be chosen (KVM_CAP_TSC_CONTROL), but it is not made to stand still yet",
            false => "its rate cannot be chosen (no KVM_CAP_TSC_CONTROL)",
        })?;
        write!(out, "; guests read the host's")?;
        if let Some(khz) = khz {
            write!(out, " ({:.1} GHz)", f64::from(*khz) / 1e6)?;
        }
        write!(out, ", and a recording of one that does is found to differ when it is replayed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_in_a_sentence() {
        let tsc = Tsc { is_scaled: false, khz: Some(2_400_000) };
        assert_eq!(
            tsc.to_string(),
            "its rate cannot be chosen (no KVM_CAP_TSC_CONTROL); guests read the host's (2.4 GHz), and a recording of one that does is \
             found to differ when it is replayed"
        );
        let new = Tsc { is_scaled: true, khz: None }.to_string();
        assert!(new.contains("stand still yet; guests read the host's, and"), "{new}");
    }
}
