//! Guest RAM: one mapping, its place in the physical address map, and what is known of each page
//! (dirty in this epoch, holds decoded code, used as a page table).
//!
//! RAM is reached in two ways. The CPU engines hold host pointers to pages and keep to the rules of
//! [`PageFlags`]; everyone else (loaders, devices doing DMA, the recorder) uses [`GuestRam::read`]
//! and [`GuestRam::write`], which keep to them by themselves.

mod layout;
mod ram;
mod storage;

pub use layout::{RamLayout, RamLayoutError, VGA_WINDOW};
pub use ram::{GuestRam, LoaderView, OutsideRam, PageFlags, RamError};
pub use storage::storage_page;
