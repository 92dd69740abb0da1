//! The `pc` board: a CPU, memory, chips, the virtual clock and the loaders, put together.
//!
//! [`Machine`] is a function of its start state and its inputs: it reads no clock, no file and no
//! source of randomness. The caller decides how far it runs and what enters it where.
#![forbid(unsafe_code)]

mod accesses;
mod acpi;
mod alone;
mod board;
mod boot;
mod bus;
mod cards;
mod clock;
mod config;
mod debugger_write;
mod display;
mod firmware;
mod hardware;
mod input_output;
mod inspect;
mod loader;
mod machine;
mod memory_map;
mod memory_mapped;
mod ports;
mod processors;
mod serial;
mod shadow;
mod state;
mod storage;
pub mod tail;

pub use accesses::Access;
pub use boot::{Boot, BootError, Module};
pub use cards::{CardState, VIRTIO_CONSOLE};
pub use clock::State as ClockState;
pub use config::{ConfigError, MachineConfig, TimeBase};
pub use debugger_write::{
    RFLAGS_WRITABLE, Register, WriteRefused, register_writes, write_register,
};
pub use dejavm_cpu::{
    Breakpoint, Counted, CpuState, Executor, Landmark, NoLandmark, Stops, WatchHit, WatchKind,
    Watchpoint,
};
pub use dejavm_devices::vga::Picture;
pub use firmware::{Firmware, Rom};
pub use hardware::{Card, Hardware, IdeDrive, OnReset};
pub use input_output::{Input, Output};
pub use machine::{End, Idle, Machine, Passed, Stop};
pub use state::{
    BoardState, FirmwareState, MachineState, MoreState, ProcessorState, RestoreError,
    ScheduleState, SerialState,
};
pub use storage::{Drive, Storage, Storages};
