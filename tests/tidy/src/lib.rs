//! The project's own files, as its rules see them. The rules are in `tests/`.
#![forbid(unsafe_code)]

mod manifest;
mod sources;

pub use manifest::{Dependency, Manifest, Section};
pub use sources::{Source, sources};
