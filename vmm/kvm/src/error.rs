//! Why KVM cannot be used, or stopped: each a sentence with what to do.

use dejavm_units::Gpa;
use std::path::PathBuf;

/// Why KVM cannot be used, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device.
    #[error(
        "{} does not exist: the processor has no hardware virtualization, the firmware has switched it off, or the machine \
         that this one runs in does not pass it on; `modprobe kvm_intel` or `modprobe kvm_amd` tells which",
        .0.display()
    )]
    NoDevice(PathBuf),
    /// The device may not be opened.
    #[error("{} may not be opened by this user; become a member of its group: `sudo usermod -aG kvm $USER`, and log in again", .0.display())]
    NoPermission(PathBuf),
    /// The device does not open.
    #[error("{} does not open: {source}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another interface.
    #[error(
        "KVM has interface {0}, and every kernel since 2.6.22 has 12; nothing can be done but to run another kernel"
    )]
    Interface(i32),
    /// The kernel lacks something.
    #[error("the kernel's KVM lacks {name}, which Linux has since {since}; run a newer kernel")]
    MissingCapability {
        /// As the kernel's documentation calls it.
        name: &'static str,
        /// The first version with it.
        since: &'static str,
    },
    /// The model has what the host has not.
    #[error(
        "this host's KVM does not offer {what}, which the CPU model {model} has; choose another with --cpu"
    )]
    Model {
        /// CPUID's bits.
        what: String,
        /// The model.
        model: String,
    },
    /// An ioctl failed.
    #[error("KVM refused {what}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel gives no timer.
    #[error(
        "the kernel gives no timer that ends the guest's turn: {source}; raise the limit of pending signals (`ulimit -i`)"
    )]
    Timer {
        /// Why.
        source: std::io::Error,
    },
    /// Going back from where a landmark was missed is not possible.
    #[error(
        "a landmark was missed, for the host's counter of branches interrupts too late, and what the guest then wrote at {0} cannot be \
         taken back; replay with `--engine soft`"
    )]
    TooFar(Gpa),
    /// The processor could not enter the guest.
    #[error("the processor refuses to execute the guest: {0}")]
    Entry(String),
}

/// [`KvmError::Refused`] of an ioctl.
pub(crate) fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Refused {
        what,
        source: std::io::Error::from_raw_os_error(error.errno()),
    }
}
