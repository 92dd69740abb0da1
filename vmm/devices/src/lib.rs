//! The chips of the `pc` board, one file each, as pure state machines.
#![forbid(unsafe_code)]
