//! Starting a machine without firmware: the loader puts the guest's image, its tables and its
//! registers where the image's boot protocol wants them.

use crate::config::{ConfigError, MachineConfig};
use crate::loader::{bzimage, elf, multiboot};
use crate::{acpi, display, memory_map};
use dejavm_cpu::CpuState;
use dejavm_memory::{GuestRam, OutsideRam, RamError};

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

/// A file beside a Multiboot kernel.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its contents.
    pub bytes: &'a [u8],
    /// Words that the kernel is given with it.
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
        "the kernel image is not one that can be started: neither a Linux bzImage nor an ELF image, nor one for Multiboot"
    )]
    NotAKernel,
    /// The image says what it is but contradicts itself.
    #[error("the kernel image is damaged: {0}")]
    BadImage(String),
    /// The image is a Linux kernel older than any that the loader knows.
    #[error("the kernel speaks boot protocol {major}.{minor:02}, older than 2.06 (Linux 2.6.22)")]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A 64-bit kernel for a 32-bit CPU.
    #[error("the kernel needs a 64-bit CPU, and this machine's model has none")]
    NeedsLongMode,
    /// Modules for a kernel that takes none.
    #[error("this kernel takes no modules: those are for Multiboot")]
    NoModules,
    /// The kernel does not fit.
    #[error(
        "the kernel needs RAM up to {needs} MiB below 3 GiB, and the machine has {has} MiB there"
    )]
    KernelTooLarge {
        /// What the kernel needs, in MiB, rounded up.
        needs: u64,
        /// What there is, in MiB.
        has: u64,
    },
    /// The initial RAM disk does not fit.
    #[error(
        "the initial RAM disk of {bytes} bytes does not fit: {room} bytes of RAM are left for it"
    )]
    InitrdTooLarge {
        /// Size of the initial RAM disk.
        bytes: u64,
        /// What is left beside the kernel, in bytes.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line of {bytes} bytes is too long: this kernel takes {max}")]
    CmdlineTooLong {
        /// Length of the command line.
        bytes: usize,
        /// What the kernel takes.
        max: usize,
    },
    /// The command line holds a zero byte, where the kernel would stop reading.
    #[error("the command line contains a zero byte")]
    CmdlineHasZero,
    /// An address of the image is no RAM.
    #[error("the kernel image wants to be where this machine has no RAM: {0}")]
    Outside(#[from] OutsideRam),
}

/// Loads `boot` into `ram`, which is all zeros, and returns the registers to start with.
pub(crate) fn load(
    config: &MachineConfig,
    boot: &Boot<'_>,
    modules: &[Module<'_>],
    ram: &mut GuestRam,
) -> Result<CpuState, BootError> {
    let mut words = modules.iter().map(|module| module.cmdline);
    if boot.cmdline.contains('\0') || words.any(|words| words.contains('\0')) {
        return Err(BootError::CmdlineHasZero);
    }
    memory_map::write_bios_data(ram);
    acpi::write_tables(ram, acpi::Platform::of(config));
    let multiboot = multiboot::find(boot.image).filter(|_| !elf::has_pvh_entry(boot.image));
    if multiboot.is_none() && !modules.is_empty() {
        return Err(BootError::NoModules);
    }
    let start = if let Some(header) = multiboot {
        multiboot::load(header, boot, modules, ram)
    } else if bzimage::is_one(boot.image) {
        bzimage::load(config.cpu, boot, ram)
    } else if elf::is_one(boot.image) {
        elf::load(config.cpu, boot, ram)
    } else {
        Err(BootError::NotAKernel)
    }?;
    if config.hardware.display {
        display::write_screen_info(ram);
    }
    Ok(start)
}
