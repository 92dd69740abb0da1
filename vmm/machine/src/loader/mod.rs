//! The boot protocols, one file each.
