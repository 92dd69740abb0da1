//! The memory management unit: segmentation, paging, and the way to RAM and devices.

mod access;
mod chunk;
pub(crate) mod coherence;
mod segmentation;
mod tables;
mod tlb;
mod walk;

pub(crate) use coherence::Mmu;
pub use coherence::{Engine, Tuning};
pub(crate) use segmentation::is_canonical;
pub(crate) use tables::{PHYSICAL_BITS, Paging};
pub(crate) use tlb::{Data, Entry, SLOTS as TLB_SLOTS, Tlb};
pub(crate) use walk::Access;
