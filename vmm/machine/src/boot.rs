//! Starting a machine without firmware: the loader puts the guest's image, its tables and its
//! registers where the image's boot protocol wants them.

use crate::config::{ConfigError, MachineConfig};
use dejavm_cpu::CpuState;
use dejavm_memory::{GuestRam, RamError};

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// A Linux bzImage, an ELF image with a PVH note, or a 64-bit ELF `vmlinux`.
    pub image: &'a [u8],
    /// The initial RAM disk, or the module of a PVH guest.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub cmdline: &'a str,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The configuration cannot be built.
    #[error("the machine's configuration is not usable: {0}")]
    Config(#[from] ConfigError),
    /// The host has no memory for the guest.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The image is of no known kind.
    #[error(
        "the kernel image is not one that can be started: neither a Linux bzImage, nor an ELF image \
         with a PVH note or a 64-bit entry"
    )]
    NotAKernel,
}

/// Loads `boot` into `ram` and returns the registers to start with.
pub(crate) fn load(
    _config: &MachineConfig,
    _boot: &Boot<'_>,
    _ram: &mut GuestRam,
) -> Result<CpuState, BootError> {
    Err(BootError::NotAKernel)
}
