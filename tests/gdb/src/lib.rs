//! The gdb stub under test: a target to debug, and a gdb to debug it with.
#![forbid(unsafe_code)]

mod client;
mod gdb;
mod rerun;

pub use client::Client;
pub use gdb::{Gdb, serve};
pub use rerun::Rerun;
