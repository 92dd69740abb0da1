//! All devices, for those who treat them alike.

use super::{
    AcpiBlock, E1000Card, FirmwareConfig, IdeFunction, IoApicChip, Keyboard, LocalApic, PciBridges,
    Pics, RealTimeClock, SerialPort, SystemPorts, Timer, VgaCard, VirtioBlock, VirtioConsole,
    VirtioNet, VirtioRng, random_script, run,
};

/// A device under its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The fuzz target's, behind `device_`.
    pub name: &'static str,
    /// See [`run`].
    pub run: fn(&[u8]) -> usize,
    /// See [`random_script`].
    pub random_script: fn(u64) -> Vec<u8>,
}

macro_rules! all {
    ($($name:literal: $device:ident),* $(,)?) => {
        /// All that a machine can have.
        pub const ALL: &[Entry] = &[$(Entry {
            name: $name,
            run: run::<$device>,
            random_script: random_script::<$device>,
        }),*];
    };
}

all! {
    "acpi_pm": AcpiBlock,
    "e1000": E1000Card,
    "fw_cfg": FirmwareConfig,
    "i8042": Keyboard,
    "ide": IdeFunction,
    "ioapic": IoApicChip,
    "lapic": LocalApic,
    "pci_host": PciBridges,
    "pic": Pics,
    "pit": Timer,
    "rtc": RealTimeClock,
    "system_control": SystemPorts,
    "uart": SerialPort,
    "vga": VgaCard,
    "virtio_block": VirtioBlock,
    "virtio_console": VirtioConsole,
    "virtio_net": VirtioNet,
    "virtio_rng": VirtioRng,
}
