//! Windows guests without Windows: memory laid out as its kernels lay it out, for tests of crash dumps.
#![forbid(unsafe_code)]

mod builder;
mod debugger_data;
pub mod dump;
mod file;
mod image;
mod memory;
mod open;
mod processors;
mod space;
mod system;

pub use debugger_data::{Keys, encode};
pub use memory::Memory;
pub use space::Space;
pub use system::{Layout, System};

use vmss::{Region, Vcpu};

/// How a guest is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which Windows.
    pub system: System,
    /// How many processors.
    pub processors: usize,
    /// With what its debugger data block is encoded.
    pub keys: Option<Keys>,
    /// All processors execute users' code, with page tables that lack the kernel (KVA shadow).
    pub shadow: bool,
    /// The checkpoint says KernelGSBase, as those of VMware do not, or not under a name that is known.
    pub knows_kernel_gs: bool,
    /// The page below 1 MiB where processors start is there.
    pub low_stub: bool,
    /// Page tables refer to themselves.
    pub self_reference: bool,
    /// KPCR leads to KdVersionBlock.
    pub kpcr_version: bool,
    /// KdVersionBlock is there.
    pub version_block: bool,
    /// The debugger data block is in pool memory, high up, not in the kernel's image.
    pub data_in_pool: bool,
    /// There is a debugger data block.
    pub data_block: bool,
    /// Pages of pool memory, each of which holds something.
    pub pool_pages: u64,
    /// KPRCB has no pointer to CONTEXT, as in older systems.
    pub context_in_prcb: bool,
    /// KiBugcheckData.
    pub bugcheck: [u64; 5],
    /// MmPhysicalMemoryBlock, if it is not to be right.
    pub runs: Option<Vec<(u64, u64)>>,
    /// Mixed into all contents that mean nothing.
    pub seed: u64,
}

impl Options {
    /// What is usual.
    pub fn new(system: System) -> Options {
        let keys = Keys { never: 0x9d3c_51fe_70b2_4a6b, always: 0x0be1_77a4_c93f_d25e };
        Options {
            system,
            processors: 2,
            keys: (system == System::Ten64).then_some(keys),
            shadow: false,
            knows_kernel_gs: true,
            low_stub: system.is_64(),
            self_reference: true,
            kpcr_version: true,
            version_block: true,
            data_in_pool: false,
            data_block: true,
            pool_pages: 0x10,
            context_in_prcb: false,
            bugcheck: [0; 5],
            runs: None,
            seed: 1,
        }
    }
}

/// A guest, and where things are in it.
#[derive(Clone)]
pub struct Windows {
    /// Which Windows.
    pub system: System,
    /// Its physical memory.
    pub memory: Memory,
    /// Where there is some.
    pub regions: Vec<Region>,
    /// Its processors.
    pub vcpus: Vec<Vcpu>,
    /// The System process's address space.
    pub space: Space,
    /// The kernel's first byte.
    pub kernel: u64,
    /// PsLoadedModuleList
    pub modules: u64,
    /// PsActiveProcessHead
    pub processes: u64,
    /// The variable MmPfnDatabase, and what is in it.
    pub pfn_database: (u64, u64),
    /// KdDebuggerDataBlock: where, and plain.
    pub debugger_data: (u64, Vec<u8>),
    /// KdpDataBlockEncoded
    pub flag: u64,
    /// MmPhysicalMemoryBlock: first page and pages.
    pub runs: Vec<(u64, u64)>,
    /// For each processor, where CONTEXT and KSPECIAL_REGISTERS are.
    pub contexts: Vec<(u64, u64)>,
    /// KUSER_SHARED_DATA: time, up time, product, suite.
    pub shared: (u64, u64, u32, u32),
}

impl Windows {
    /// Builds one.
    pub fn new(options: &Options) -> Windows {
        builder::build(options)
    }
}
