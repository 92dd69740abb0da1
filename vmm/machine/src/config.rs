//! What a machine is made of, as its recording keeps it.

use crate::cards::{self, CARDS_MAX};
use crate::hardware::{Hardware, OnReset};
use dejavm_cpu::Model;
use dejavm_memory::{RamLayout, RamLayoutError};
use serde::{Deserialize, Serialize};

/// The configuration of a machine. It is frozen in every recording: two machines of equal
/// configuration, start state and inputs are equal at every position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// Amount and place of RAM.
    pub ram: RamLayout,
    /// Which CPU the guest sees.
    pub cpu: Model,
    /// What guest time passes by.
    pub time_base: TimeBase,
    /// What the real-time clock shows at machine start, in seconds since 1970 (UTC).
    pub rtc_epoch_s: u64,
    /// What it has beyond one processor and the board's chips. Files have it elsewhere: older ones have none.
    #[serde(skip)]
    pub hardware: Hardware,
}

/// What guest time passes by while the CPU executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum TimeBase {
    /// Instructions.
    Instructions {
        /// So many in a guest microsecond (1 to 1 000 000).
        per_us: u32,
    },
    /// Exits: what makes any processor stop and ask, an access to a device or a halt. Each takes a microsecond, and what lies
    /// between two takes none; a guest that executes for long without one has time pass by an [`Input`](crate::Input). So
    /// time is the same whether or not what executes can count instructions.
    Exits,
}

/// How files have it.
impl From<u32> for TimeBase {
    fn from(per_us: u32) -> TimeBase {
        match per_us {
            0 => TimeBase::Exits,
            per_us => TimeBase::Instructions { per_us },
        }
    }
}

impl From<TimeBase> for u32 {
    fn from(base: TimeBase) -> u32 {
        match base {
            TimeBase::Exits => 0,
            TimeBase::Instructions { per_us } => per_us,
        }
    }
}

/// A configuration that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The clock's rate is out of range.
    #[error("{0} instructions per microsecond are not between 1 and 1000000")]
    InstructionRate(u32),
    /// No machine has so many processors.
    #[error("{0} processors are not between 1 and {max}", max = Hardware::PROCESSORS_MAX)]
    Processors(u8),
    /// Their turns are counted in instructions.
    #[error("a machine of several processors has its time pass by instructions")]
    ProcessorsByExits,
    /// Turns without instructions.
    #[error("a processor's turn must have an instruction at least")]
    Slice,
    /// No machine has so many cards.
    #[error("{0} cards are more than the {CARDS_MAX} that the PCI bus has room for")]
    Cards(usize),
    /// There is one console at most.
    #[error("{0} virtio consoles are more than one")]
    Consoles(usize),
    /// A drive that there is not, or that belongs to two cards or to none.
    #[error("drive {0} does not belong to exactly one card")]
    Drive(usize),
    /// A drive of an impossible size.
    #[error(
        "drive {drive} of {bytes} bytes is empty, no whole number of sectors, or larger than 1 PiB"
    )]
    DriveSize {
        /// Which.
        drive: usize,
        /// Its size.
        bytes: u64,
    },
    /// The firmware's ROM has no size that one can have.
    #[error("a ROM of {0} bytes is no firmware: 64 KiB to 512 KiB fit, in whole pages")]
    Rom(usize),
    /// The display's ROM is too large.
    #[error("a ROM of {0} bytes is too large for a display's")]
    VideoRom(usize),
    /// Nothing could be executed after a reset.
    #[error("a machine without firmware cannot start again after a reset")]
    Restart,
    /// RAM cannot be laid out.
    #[error(transparent)]
    Ram(#[from] RamLayoutError),
}

impl MachineConfig {
    /// The default rate of the virtual clock: one instruction is half a nanosecond.
    pub const INSTRUCTIONS_PER_US_DEFAULT: u32 = 2000;
    /// What the real-time clock shows unless told: 2020-01-01 00:00:00 UTC.
    pub const RTC_EPOCH_S_DEFAULT: u64 = 1_577_836_800;

    /// A machine with `ram` and the defaults for the rest.
    pub fn new(ram: RamLayout) -> MachineConfig {
        MachineConfig {
            ram,
            cpu: Model::V2,
            time_base: TimeBase::Instructions { per_us: Self::INSTRUCTIONS_PER_US_DEFAULT },
            rtc_epoch_s: Self::RTC_EPOCH_S_DEFAULT,
            hardware: Hardware::default(),
        }
    }

    /// Refuses what no machine can be built from. A configuration may come from a hostile file.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let TimeBase::Instructions { per_us } = self.time_base
            && !(1..=1_000_000).contains(&per_us)
        {
            return Err(ConfigError::InstructionRate(per_us));
        }
        let Hardware {
            processors,
            slice,
            schedule_seed: _,
            drives: _,
            cards: _,
            firmware,
            display: _,
            on_reset,
            serial_ports: _,
        } = &self.hardware;
        if !(1..=Hardware::PROCESSORS_MAX).contains(processors) {
            return Err(ConfigError::Processors(*processors));
        }
        if *processors > 1 && self.time_base == TimeBase::Exits {
            return Err(ConfigError::ProcessorsByExits);
        }
        if *slice == 0 {
            return Err(ConfigError::Slice);
        }
        cards::check(&self.hardware)?;
        match firmware {
            Some(firmware) => firmware.check()?,
            None if *on_reset == OnReset::Restarts => return Err(ConfigError::Restart),
            None => {}
        }
        // A sum that overflows must not pass for a small one.
        let total = self.ram.low_bytes().saturating_add(self.ram.high_bytes());
        if RamLayout::new(total)? != self.ram {
            return Err(ConfigError::Ram(RamLayoutError::TooLarge(total)));
        }
        Ok(())
    }
}
