//! VMware checkpoints: the files in which its products suspend a machine (`.vmss`) and take snapshots of one
//! (`.vmsn`), with guest memory inside or beside them (`.vmem`).
//!
//! The format was never published. What is known of it, and by whom, is in `docs/formats/vmss.md`.
//!
//! [`Checkpoint::open`] finds out what a file is and where its parts are, and reads little: a file of 64 GiB opens
//! as fast as a small one. [`Writer`] writes files that other people's readers open.
//!
//! All integers in these files are little-endian. Nothing in a file is trusted: sizes and counts are checked
//! against the file before memory is taken for them.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod checkpoint;
mod error;
mod group;
mod guest_dump;
mod magic;
mod memory;
mod packed;
mod pair;
mod source;
mod sparse;
mod tag;
mod vcpu;
mod write;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use group::{Group, GroupTable};
pub use guest_dump::GuestDump;
pub use magic::Magic;
pub use memory::{Extent, GuestMemory, PAGE_BYTES, Region};
pub use packed::{SeekableWriter, open_file};
pub use pair::{Paths, memory_beside, unwrapped};
pub use source::ReadAt;
pub use sparse::{SparseFile, contents, is_zero};
pub use tag::{Block, Tag, Tags, Value};
pub use vcpu::{SegmentRegister, Table, Vcpu, segment};
pub use write::{Product, TagList, Writer};
