//! The gdb stub under test: a target to debug, and a gdb to debug it with.
#![forbid(unsafe_code)]

mod adapter;
mod client;
mod gdb;
mod hunted;
mod rerun;

pub use adapter::Adapter;
pub use client::Client;
pub use gdb::{Gdb, serve, serve_while};
pub use hunted::{hunted, hunted_as_init, hunted_program, printed_commands, printed_folder};
pub use rerun::Rerun;
