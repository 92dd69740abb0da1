//! The `pc` board: a CPU, memory, chips, the virtual clock and the loaders, put together.
#![forbid(unsafe_code)]
