//! The memory management unit: segmentation, paging, and the way to RAM and devices.

mod access;
mod segmentation;
mod walk;

pub(crate) use segmentation::is_canonical;
pub(crate) use walk::Access;
