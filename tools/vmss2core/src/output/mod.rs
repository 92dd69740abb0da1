//! Writing: under another name first, with holes, in threads, with progress.

mod file;
mod image;
mod progress;
pub mod sizes;

pub use file::Output;
pub use image::{Piece, copy};
pub use progress::{Progress, Silent};
pub use vmss::is_zero;
