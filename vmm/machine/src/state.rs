//! The state of a machine, RAM left out.

use crate::clock;
use crate::config::ConfigError;
use crate::machine::End;
use dejavm_cpu::CpuState;
use dejavm_memory::RamError;
use serde::{Deserialize, Serialize};

/// Everything that a machine is at a position, except its RAM and the output nobody has taken yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// The CPU, its position included.
    pub cpu: CpuState,
    /// The virtual clock.
    pub clock: clock::State,
    /// The chips.
    pub board: BoardState,
}

/// The state of the board's chips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    /// Whether the A20 gate lets address bit 20 through.
    pub a20: bool,
    /// Why the machine has ended, if it has.
    pub end: Option<End>,
}

/// A saved state that this machine cannot take.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The configuration cannot be built.
    #[error("the machine's configuration is not usable: {0}")]
    Config(#[from] ConfigError),
    /// The host has no memory for the guest.
    #[error(transparent)]
    Ram(#[from] RamError),
}
