//! The boot protocols, one file each.

pub(crate) mod bzimage;
pub(crate) mod elf;
mod initrd;
mod linux;
mod pvh;
mod registers;
