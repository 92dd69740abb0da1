//! The socket side of the gdb stub: listening as the product of 2007 did, and serving one client at a
//! time over any [`Target`](dejavm_stub::Target).

mod address;
mod listener;
mod script;
mod session;

pub use address::Address;
pub use listener::Listener;
pub use script::gdbinit;
pub use session::{Left, serve};
