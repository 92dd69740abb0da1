//! The chips of the `pc` board, one file each, as pure state machines.
//!
//! # The contract of a chip
//!
//! * `new(configuration)` is the power-on state; `reset` is the chip's reset pin.
//! * Guest side: `read(reg, now)` and `write(reg, value, now)`. `reg` is the offset from the chip's
//!   base port; a chip whose ports are not contiguous numbers its registers in one space and says in
//!   its `PORTS` which port is which register. `now` never decreases; where it does all the same (a
//!   hostile snapshot), the chip stays at the later time.
//! * Time: `deadline` is the earliest guest time at which an output of the chip changes by itself
//!   (`None`: never, or nobody could observe it). `advance(now)` brings the chip to `now`. Calling it
//!   once or in many steps gives the same state. The board calls `advance` exactly at `deadline`,
//!   then polls the lines, so that no edge is lost.
//!   A deadline that has passed (a host input may make one) means "now".
//! * Lines are level queries (`irq`, `out`, ...) which the board polls after each access, host input
//!   and advance.
//! * State: `save` returns everything that can differ between two chips of equal configuration;
//!   `restore` refuses what the chip could not hold, so that a hostile file cannot cause a panic.
//!   A state says how far its chip has been advanced. To compare states (digests), or to save one that
//!   is to be compared later, first `advance` to the same time: then equal histories have equal states.
#![forbid(unsafe_code)]

mod clock;
mod restore_error;

pub mod acpi_pm;
pub mod card;
pub mod e1000;
pub mod ethernet;
pub mod fw_cfg;
pub mod i8042;
pub mod ide;
pub mod interrupt_message;
pub mod ioapic;
pub mod lapic;
pub mod msix;
pub mod pci;
pub mod pci_header;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod system_control;
pub mod uart16550;
pub mod vga;
pub mod virtio;

#[cfg(test)]
mod suite;
#[cfg(test)]
mod testing;

pub use acpi_pm::AcpiPm;
pub use fw_cfg::FwCfg;
pub use i8042::I8042;
pub use interrupt_message::{
    DeliveryMode, DestinationMode, InterruptMessage, Ipi, Shorthand, TriggerMode,
};
pub use ioapic::IoApic;
pub use lapic::Lapic;
pub use pci::PciHost;
pub use pic::Pic;
pub use pit::Pit;
pub use restore_error::RestoreError;
pub use rtc::Rtc;
pub use system_control::{ResetKind, SystemControl};
pub use uart16550::Uart16550;
pub use vga::Vga;

/// A run of I/O ports that belongs to a chip: port `first + n` is the chip's register `reg + n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// First I/O port.
    pub first: u16,
    /// Number of ports.
    pub count: u16,
    /// Register number of the first port.
    pub reg: u16,
}
