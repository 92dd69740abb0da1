//! The KVM engine: the only code that touches `/dev/kvm`.
//!
//! Everything that could differ from run to run is kept out of the kernel: interrupt controllers and timers are the
//! board's (no `KVM_CREATE_IRQCHIP`, no PIT), CPUID is the model's, model-specific registers that the kernel need not
//! know come out to us. What executes is the host's processor; what surrounds it is the same board as the software CPU's.

mod branch_instruction;
mod clock;
mod cpuid;
mod debug;
mod debug_probe;
mod emulated_host;
mod engine;
mod error;
mod exits;
mod extended;
mod guest_debug;
mod host;
mod interrupt_shadow;
mod kick;
mod msrs;
mod nobody;
pub mod pmu;
mod registers;
mod run_page;
mod slots;
mod software;
mod string_instruction;
pub mod tsc;

pub use cpuid::on_kvm;
pub use engine::{Counts, KvmEngine, NoClock, Ring, Stopping, Trial, TrialPlan};
pub use error::KvmError;
pub use host::Host;
