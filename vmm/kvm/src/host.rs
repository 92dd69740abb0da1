//! The host's KVM, opened and found to have what the engine needs.

use crate::error::KvmError;
use kvm_ioctls::{Cap, Kvm};
use std::io;
use std::path::Path;

const DEVICE: &str = "/dev/kvm";
/// `KVM_API_VERSION`
const INTERFACE: i32 = 12;
/// What the engine needs, as Documentation/virt/kvm/api.rst calls it, and since when Linux has it.
const NEEDED: [(Cap, &str, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY", "2.6.23"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID", "2.6.26"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS", "2.6.33"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS", "2.6.34"),
    (Cap::Xcrs, "KVM_CAP_XCRS", "2.6.36"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT", "4.11"),
    (Cap::X86UserSpaceMsr, "KVM_CAP_X86_USER_SPACE_MSR", "5.10"),
    (Cap::X86MsrFilter, "KVM_CAP_X86_MSR_FILTER", "5.10"),
];

/// The host's KVM.
pub struct Host {
    pub(crate) kvm: Kvm,
}

impl Host {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// If it is not there, may not be opened, or lacks what the engine needs.
    pub fn open() -> Result<Host, KvmError> {
        Host::open_at(Path::new(DEVICE))
    }

    /// Opens another device.
    ///
    /// # Errors
    /// As [`Host::open`].
    pub fn open_at(path: &Path) -> Result<Host, KvmError> {
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|_| KvmError::NoDevice(path.into()))?;
        let kvm = Kvm::new_with_path(name).map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::NoDevice(path.into()),
            libc::EACCES | libc::EPERM => KvmError::NoPermission(path.into()),
            number => {
                KvmError::Open { path: path.into(), source: io::Error::from_raw_os_error(number) }
            }
        })?;
        let interface = kvm.get_api_version();
        if interface != INTERFACE {
            return Err(KvmError::Interface(interface));
        }
        match NEEDED.iter().find(|(cap, ..)| !kvm.check_extension(*cap)) {
            Some(&(_, name, since)) => Err(KvmError::MissingCapability { name, since }),
            None => Ok(Host { kvm }),
        }
    }
}
