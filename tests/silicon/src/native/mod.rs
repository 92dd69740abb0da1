//! The native side: a sandboxed process that runs one instruction after another on the host's CPU.

mod entry;
mod process;
mod sandbox;
mod signal;

pub use process::main;
