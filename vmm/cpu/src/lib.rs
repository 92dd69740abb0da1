//! The software x86 CPU: decoder tables, interpreter, memory management unit. Knows no device.

mod bus;
mod code;
mod context;
mod cpu;
mod debugger;
mod elsewhere;
mod exception;
mod exec;
mod executor;
mod flags;
mod fpu;
mod interp;
#[cfg(test)]
mod invisible;
mod landmark;
mod mmu;
mod model;
mod msr;
mod observe;
#[cfg(test)]
mod rough_code;
mod run;
mod segment;
#[cfg(test)]
mod sequences;
mod state;
#[cfg(test)]
mod testing;
mod topology;
mod translate;
mod turns;
mod until_exit;

pub use bus::Bus;
pub use cpu::{Cpu, control, gpr};
pub use debugger::{Breakpoint, Stops, WatchHit, WatchKind, Watchpoint};
pub use elsewhere::Use;
pub use exception::{Abort, AbortReason, vector};
pub use executor::{Executor, step_by_software};
pub use flags::rflags;
pub use fpu::{F80, Fpu};
pub use landmark::{Counted, Landmark, NoLandmark};
pub use mmu::{Engine, Tuning};
pub use model::{Base, CRYSTAL_HZ, Cpuid, Features, Model, ModelError, TSC_HZ};
pub use msr::Msrs;
pub use run::Stop;
pub use segment::{Rights, SegReg, Segment, TableRegister};
pub use state::CpuState;
pub use until_exit::UntilExit;
