//! What a Linux guest is doing, read from its memory and registers alone: tasks, their address spaces and registers.
//!
//! Nothing is configured and nothing is asked of the guest. [`Kernel::find`] starts at the entry points that the kernel
//! itself has put into registers, finds its image by the page tables, its symbols by the structure of their tables, and its
//! types in BTF; then it checks what it found against the machine and says how far that went.
//!
//! Everything read from the guest is untrusted. No list is followed without a bound, no size believed; a corrupt guest gives
//! fewer facts, never a panic or a long wait.
#![forbid(unsafe_code)]

mod btf;
mod correlate;
mod current;
mod elf;
mod image;
mod kallsyms;
mod kernel;
mod known;
mod layout;
mod offsets;
mod paging;
mod reader;
mod registers;
mod tasks;
mod view;
mod vmcoreinfo;

pub use btf::Btf;
pub use image::Anchors;
pub use kallsyms::{Symbol, Symbols};
pub use kernel::{Confidence, ImageFacts, Kernel, Reason};
pub use known::Kernels;
pub use layout::Layout;
pub use offsets::{FIELDS, LinuxOffsets, OffsetsError};
pub use paging::{Paging, Space};
pub use registers::{Registers, Source, TaskRegisters};
pub use tasks::Task;
pub use view::GuestView;
pub use vmcoreinfo::Vmcoreinfo;
