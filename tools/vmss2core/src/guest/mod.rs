//! The guest that a file shows: its memory and its processors, whatever kind of file that is.

mod cache;
mod core_notes;
mod elf_core;
mod kdump;
mod kernel_space;
mod recognise;
mod view;

use crate::error::Error;
use cache::Cache;
use dejavm_linux::{GuestView, Kernel, Paging, Reason, Space};
use dejavm_units::Gva;
use recognise::Parts;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vmss::{GuestMemory, Vcpu};

/// More than that, and headers before it, 32 bits cannot address.
const IMAGE_BYTES_MAX_32: u64 = (1 << 32) - (128 << 20);

/// A guest at rest.
pub struct Guest {
    /// The file that was named, for sentences.
    pub path: PathBuf,
    /// Its physical memory.
    pub memory: GuestMemory,
    /// Its processors; at least one.
    pub vcpus: Vec<Vcpu>,
    /// What Linux says of itself, where the file repeats it.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// What the user should know of what was read.
    pub remarks: Vec<String>,
    /// The files that all this is in.
    pub files: Vec<PathBuf>,
    cache: Cache,
    kernel: OnceLock<Result<Kernel, Reason>>,
}

impl Guest {
    /// Opens a file, and the memory that belongs to it if that is a file of its own.
    ///
    /// # Errors
    /// If it is of no kind that is known, or damaged, or its memory is nowhere.
    pub fn open(path: &Path, memory: Option<&Path>) -> Result<Guest, Error> {
        recognise::open(path, memory)
    }

    /// A guest of these parts; the path is for sentences.
    pub fn new(path: PathBuf, memory: GuestMemory, vcpus: Vec<Vcpu>) -> Guest {
        Guest::of(
            &path,
            Parts { memory, vcpus, vmcoreinfo: None, remarks: Vec::new(), memory_file: None },
        )
    }

    fn of(path: &Path, parts: Parts) -> Guest {
        let Parts { memory, vcpus, vmcoreinfo, remarks, memory_file } = parts;
        let files = std::iter::once(path.to_owned()).chain(memory_file).collect();
        let (cache, kernel) = (Cache::default(), OnceLock::new());
        Guest { path: path.into(), memory, vcpus, vmcoreinfo, remarks, files, cache, kernel }
    }

    /// The Linux kernel that runs in it, looked for once.
    ///
    /// # Errors
    /// Why there is none, or none that can be read at this position.
    pub fn linux(&self) -> Result<&Kernel, &Reason> {
        self.kernel.get_or_init(|| Kernel::find(self)).as_ref()
    }

    /// The address space that a processor is in; `None` while it has no paging.
    pub fn space(&self, vcpu: usize) -> Option<Space> {
        let state = self.cpu_state(vcpu);
        let paging = Paging::of(&state)?;
        Some(Space { root: paging.root(state.cr3), paging })
    }

    /// Says which processors cannot have run in this memory: somebody may have named another guest's.
    fn remark_strangers(&mut self) {
        let leads_nowhere = |n: &usize| {
            let space = self.space(*n);
            let state = self.cpu_state(*n);
            let at = Gva(state.seg[1].base.wrapping_add(state.rip));
            space.is_some_and(|space| space.translate(self, at).is_none())
        };
        if let Some(n) = (0..self.vcpus.len()).find(leads_nowhere) {
            self.remarks.push(format!(
                "where processor {n} executes, its page tables lead to no memory: is this the memory of that guest?"
            ));
        }
    }

    /// Where a physical address is in an image of memory that has the regions back to back.
    pub fn image_offset(&self, address: u64) -> Option<u64> {
        let mut before = 0;
        for region in self.memory.regions() {
            if (region.start()..region.end()).contains(&address) {
                return Some(before + address - region.start());
            }
            before += region.bytes();
        }
        None
    }

    /// Reads guest-physical memory.
    ///
    /// # Errors
    /// If there is none, or the file cannot be read.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        let wrong = |source| Error::Input { path: self.path.clone(), source };
        self.memory.read(address, into).map_err(wrong)
    }

    /// Whether 64-bit formats are needed.
    pub fn is_64(&self) -> bool {
        self.vcpus.iter().any(Vcpu::is_long_mode)
            || self.memory.regions().iter().any(|region| region.end() > 1 << 32)
            || self.memory.bytes() > IMAGE_BYTES_MAX_32
    }
}
