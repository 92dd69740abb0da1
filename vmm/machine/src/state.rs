//! The state of a machine, RAM left out.

use crate::cards::CardState;
use crate::clock;
use crate::config::ConfigError;
use crate::machine::End;
use dejavm_cpu::CpuState;
use dejavm_devices::{
    acpi_pm, fw_cfg, i8042, ioapic, lapic, pci, pic, pit, rtc, system_control, uart16550,
};
use dejavm_memory::RamError;
use dejavm_units::Position;
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
    /// What machines have beyond one processor and the chips of the board.
    #[serde(with = "crate::tail")]
    pub more: MoreState,
}

/// The state of what a machine has by its [`Hardware`](crate::Hardware). The default, for a machine that has nothing of it, is not in
/// files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoreState {
    /// The processors beyond the first.
    pub processors: Vec<ProcessorState>,
    /// Whose turn it is, if there are several.
    pub schedule: ScheduleState,
    /// The cards, in order.
    pub cards: Vec<CardState>,
    /// What serves the firmware, if the machine started with one.
    pub firmware: Option<FirmwareState>,
    /// The serial ports beyond the first, in order.
    #[serde(with = "crate::tail")]
    pub serial: Vec<SerialState>,
}

/// The state of a serial port beyond the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    /// The chip.
    pub uart: uart16550::State,
    /// Input that it has no room for yet.
    pub waiting: Vec<u8>,
}

/// The state of what serves firmware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareState {
    /// The configuration device.
    pub fw_cfg: fw_cfg::State,
}

/// The state of a processor beyond the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorState {
    /// Its registers. What belongs to the machine (position, deliveries, A20) is as in [`MachineState::cpu`].
    pub cpu: CpuState,
    /// Its local APIC.
    pub lapic: lapic::State,
    /// It does nothing until a start-up message comes.
    pub waits_for_startup: bool,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleState {
    /// The number of the processor.
    pub running: u8,
    /// Where its turn ends at the latest.
    pub turn_end: Position,
    /// PAUSEs that it executed in this turn.
    pub pauses: u32,
}

/// The state of the board's chips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    /// The 8259 pair.
    pub pic: pic::State,
    /// The 8254 and port 0x61.
    pub pit: pit::State,
    /// The real-time clock.
    pub rtc: rtc::State,
    /// The local APIC of the first processor.
    pub lapic: lapic::State,
    /// The I/O APIC.
    pub io_apic: ioapic::State,
    /// ACPI's fixed hardware.
    pub acpi_pm: acpi_pm::State,
    /// The PCI host bridge and the ISA bridge.
    pub pci: pci::State,
    /// Ports 0x92 and 0xcf9.
    pub system_control: system_control::State,
    /// The keyboard controller, the keyboard and the mouse.
    pub i8042: i8042::State,
    /// The first serial port.
    pub com1: uart16550::State,
    /// Serial input that the first serial port has no room for yet.
    pub com1_waiting: Vec<u8>,
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
    /// It is of another number of processors.
    #[error("the state is one of {has} processors, and the machine has {wants}")]
    Processors {
        /// In the state.
        has: usize,
        /// In the machine.
        wants: usize,
    },
    /// The state is that of a machine with other cards.
    #[error("the saved state is that of a machine with other cards")]
    OtherCards,
    /// The state is that of a machine with other serial ports.
    #[error("the saved state is that of a machine with other serial ports")]
    OtherSerialPorts,
    /// One of the two machines, that of the state and this one, starts with firmware.
    #[error("the saved state is that of a machine with other firmware")]
    OtherFirmware,
    /// A chip refused its state.
    #[error(transparent)]
    Device(#[from] dejavm_devices::RestoreError),
}
