//! The boot protocols, one file each.

pub(crate) mod bzimage;
pub(crate) mod elf;
mod initrd;
mod linux;
pub(crate) mod multiboot;
mod pvh;
mod registers;
