//! The guests: what boots, and what is known of it.

use dejavm_cpu::Model;
use dejavm_machine::{Boot, Machine, MachineConfig};
use dejavm_memory::RamLayout;

/// RAM of a tiny guest.
pub const TINY_RAM_BYTES: u64 = 16 << 20;
/// RAM of a Debian guest: the kernel unpacks itself, and the workloads write some 20 MB to a tmpfs.
const DEBIAN_RAM_BYTES: u64 = 256 << 20;

/// A stock Debian kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// `linux-image-cloud-amd64`: unpacks fast, few drivers.
    Cloud,
    /// `linux-image-amd64`.
    Generic,
    /// `linux-image-686-pae`: 32 bits, PAE paging.
    Pae,
}

impl Kernel {
    /// The kernel's flavour, as its file is called.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Cloud => "cloud-amd64",
            Kernel::Generic => "amd64",
            Kernel::Pae => "686-pae",
        }
    }

    fn initramfs(self) -> &'static str {
        match self {
            Kernel::Cloud | Kernel::Generic => "initramfs-amd64.gz",
            Kernel::Pae => "initramfs-i386.gz",
        }
    }

    fn cpu(self) -> Model {
        match self {
            Kernel::Cloud | Kernel::Generic => Model::V2,
            Kernel::Pae => Model::V1,
        }
    }
}

/// A Debian guest: kernel, initramfs and command line.
#[derive(Clone, Debug)]
pub struct Debian {
    /// What is booted.
    pub kernel: Kernel,
    /// The workload of the initramfs.
    pub workload: &'static str,
    /// More words for the kernel's command line.
    pub more: &'static str,
}

impl Debian {
    /// A guest that leaves out the kernel's self-tests of ciphers, most of a boot's instructions.
    pub fn new(kernel: Kernel, workload: &'static str) -> Debian {
        Debian { kernel, workload, more: "cryptomgr.notests" }
    }

    /// The kernel's command line.
    pub fn command_line(&self) -> String {
        format!("console=ttyS0 panic=-1 dejavm.workload={} {}", self.workload, self.more)
    }

    /// The machine's configuration.
    pub fn config(&self) -> MachineConfig {
        let ram = RamLayout::new(DEBIAN_RAM_BYTES).expect("a size that a board can have");
        MachineConfig { cpu: self.kernel.cpu(), ..MachineConfig::new(ram) }
    }

    /// The machine, about to run.
    pub fn boot(&self) -> Machine {
        self.boot_on(&self.config())
    }

    /// The same on a machine like this.
    pub fn boot_on(&self, config: &MachineConfig) -> Machine {
        let image = fetched(&format!("vmlinuz-{}", self.kernel.name()));
        let initrd = fetched(self.kernel.initramfs());
        let cmdline = &self.command_line();
        let boot = Boot { image: &image, initrd: Some(&initrd), cmdline };
        Machine::boot(config, &boot).expect("Debian's kernel can be loaded")
    }
}

fn fetched(name: &str) -> Vec<u8> {
    let path = dejavm_images::fetched(name).unwrap_or_else(|missing| panic!("{missing}"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tiny guest's machine, about to run.
pub fn tiny(elf: &[u8]) -> Machine {
    let ram = RamLayout::new(TINY_RAM_BYTES).expect("a size that a board can have");
    tiny_on(elf, &MachineConfig::new(ram))
}

/// A tiny guest on a machine like this, about to run.
pub fn tiny_on(elf: &[u8], config: &MachineConfig) -> Machine {
    let boot = Boot { image: elf, initrd: None, cmdline: "" };
    Machine::boot(config, &boot).expect("our own guests can be loaded")
}

/// What a workload prints when every result was right.
pub fn verdict(workload: &str) -> String {
    let verdicts = dejavm_images::VERDICTS;
    let known = verdicts.iter().find(|(name, _)| *name == workload);
    let (_, hash) = known.unwrap_or_else(|| panic!("the workload {workload} has no verdict"));
    format!("DEJAVM-WORKLOAD-OK {hash}")
}

/// What a tiny guest prints, if that does not depend on time.
pub fn expected(name: &str) -> Option<&'static str> {
    dejavm_images::EXPECTED.iter().find(|(guest, _)| *guest == name).map(|(_, text)| *text)
}
