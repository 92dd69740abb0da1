//! Writing: under another name first, with holes, in threads, with progress.

mod file;
mod image;
mod progress;
pub mod sizes;

pub use file::Output;
pub use image::{Piece, copy, is_zero};
pub use progress::{Progress, Silent};
