//! Firmware: what is in its ROMs, and what the machine tells it.
//!
//! The ROM's last byte is the last below 4 GiB, and its last 128 KiB are below 1 MiB too, until the firmware puts RAM there
//! ([`shadow`](crate::shadow)). What the machine has, the firmware reads from CMOS memory and from the device fw_cfg, as on QEMU: RAM,
//! ACPI tables with a script that puts them in place, the display's ROM.

use crate::acpi;
use crate::board::Board;
use crate::cards::Around;
use crate::config::{ConfigError, MachineConfig};
use crate::shadow::Shadow;
use crate::state::{FirmwareState, RestoreError};
use crate::storage::Drives;
use dejavm_devices::fw_cfg::Items;
use dejavm_devices::{FwCfg, PciHost, Rtc};
use dejavm_memory::{GuestRam, RamLayout};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Keys of fw_cfg (QEMU, include/standard-headers/linux/qemu_fw_cfg.h and hw/i386/fw_cfg.h).
mod key {
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const NB_CPUS: u16 = 0x05;
    pub(super) const MAX_CPUS: u16 = 0x0f;
    pub(super) const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Registers of CMOS memory that firmware looks at.
mod cmos {
    /// Floating point unit, PS/2 mouse.
    pub(super) const EQUIPMENT: u8 = 0x14;
    /// KiB below 640 KiB, 16 bits.
    pub(super) const BASE: u8 = 0x15;
    /// KiB from 1 MiB on, 16 bits, and again where setup keeps what it found.
    pub(super) const EXTENDED: [u8; 2] = [0x17, 0x30];
    /// Units of 64 KiB from 16 MiB on, 16 bits.
    pub(super) const ABOVE_16_MIB: u8 = 0x34;
    /// Units of 64 KiB from 4 GiB on, 24 bits.
    pub(super) const HIGH: u8 = 0x5b;
    /// What to boot: first in the low nibble.
    pub(super) const BOOT_ORDER: u8 = 0x3d;
    /// Processors besides the first.
    pub(super) const PROCESSORS: u8 = 0x5f;
}

/// Disk, then CD.
const DISK_THEN_CD: u8 = 0x32;

/// Bytes of a ROM chip. Machines share them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct Rom(Arc<[u8]>);

impl Rom {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Rom {
    fn from(bytes: Vec<u8>) -> Rom {
        Rom(bytes.into())
    }
}

impl From<Rom> for Vec<u8> {
    fn from(rom: Rom) -> Vec<u8> {
        rom.0.to_vec()
    }
}

impl fmt::Debug for Rom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ROM of {} bytes", self.0.len())
    }
}

/// The firmware that a machine starts with, instead of a loader's image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// What is executed after the reset: 64 KiB to 512 KiB, whole pages.
    pub rom: Rom,
    /// The display's ROM: 256 KiB at most; none if it is empty.
    pub video_rom: Rom,
}

impl Firmware {
    const ROM_MIN: usize = 64 << 10;
    /// What fits a recording's header.
    const ROM_MAX: usize = 512 << 10;
    const VIDEO_ROM_MAX: usize = 256 << 10;

    /// Refuses ROMs that no machine can have. They may come from a hostile file.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Firmware { rom, video_rom } = self;
        let bytes = rom.bytes().len();
        let fits = (Self::ROM_MIN..=Self::ROM_MAX).contains(&bytes);
        if !fits || !bytes.is_multiple_of(4096) {
            return Err(ConfigError::Rom(bytes));
        }
        match video_rom.bytes().len() {
            0..=Self::VIDEO_ROM_MAX => Ok(()),
            bytes => Err(ConfigError::VideoRom(bytes)),
        }
    }
}

/// What fw_cfg tells.
fn items(config: &MachineConfig, firmware: &Firmware) -> Items {
    let processors = u16::from(config.hardware.processors);
    let mut items = Items::new();
    items.set(key::RAM_SIZE, &config.ram.total_bytes().to_le_bytes());
    items.set(key::NB_CPUS, &processors.to_le_bytes());
    items.set(key::MAX_CPUS, &processors.to_le_bytes());
    items.set(key::IRQ0_OVERRIDE, &[1]);
    items.add_file("etc/e820", ram_map(config.ram).into());
    // For ever.
    items.add_file("etc/boot-fail-wait", u32::MAX.to_le_bytes().as_slice().into());
    let acpi::ForFirmware { root, tables, script } = acpi::for_firmware(acpi::Platform::of(config));
    items.add_file("etc/acpi/rsdp", root.into());
    items.add_file("etc/acpi/tables", tables.into());
    items.add_file("etc/table-loader", script.into());
    if !firmware.video_rom.bytes().is_empty() {
        items.add_file("vgaroms/vgabios.bin", firmware.video_rom.0.clone());
    }
    items
}

/// RAM as firmware is told of it: (address, bytes, kind) without padding.
fn ram_map(layout: RamLayout) -> Vec<u8> {
    const RAM: u32 = 1;
    let mut map = Vec::new();
    for (start, bytes) in [(0, layout.low_bytes()), (1u64 << 32, layout.high_bytes())] {
        if bytes > 0 {
            map.extend(start.to_le_bytes());
            map.extend(bytes.to_le_bytes());
            map.extend(RAM.to_le_bytes());
        }
    }
    map
}

/// Sets CMOS memory as the setup of a PC would.
pub(crate) fn set_cmos(config: &MachineConfig, rtc: &mut Rtc) {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut set = |first: u8, value: u64, bytes: u8| {
        for (index, byte) in (first..).zip(value.to_le_bytes()).take(bytes.into()) {
            rtc.set_cmos(index, byte);
        }
    };
    let low = config.ram.low_bytes();
    set(cmos::EQUIPMENT, 0x06, 1);
    set(cmos::BASE, 640, 2);
    for register in cmos::EXTENDED {
        set(register, ((low - MIB) / KIB).min(0xffff), 2);
    }
    set(cmos::ABOVE_16_MIB, low.saturating_sub(16 * MIB) / (64 * KIB), 2);
    set(cmos::HIGH, config.ram.high_bytes() / (64 * KIB), 3);
    set(cmos::BOOT_ORDER, DISK_THEN_CD.into(), 1);
    set(cmos::PROCESSORS, u64::from(config.hardware.processors) - 1, 1);
}

/// What serves firmware.
pub(crate) struct Served {
    pub(crate) fw_cfg: FwCfg,
    pub(crate) shadow: Shadow,
}

impl Served {
    /// At power-on, if the machine starts with firmware.
    pub(crate) fn new(config: &MachineConfig) -> Option<Served> {
        let firmware = config.hardware.firmware.as_ref()?;
        // The volume behind those of the drives.
        let volume = config.hardware.drives.len();
        Some(Served {
            fw_cfg: FwCfg::new(items(config, firmware)),
            shadow: Shadow::new(firmware.rom.clone(), volume, &PciHost::new()),
        })
    }

    /// Whether something waits that reaches RAM.
    pub(crate) fn wants_service(&self, pci: &PciHost) -> bool {
        self.fw_cfg.wants_service() || self.shadow.wants_service(pci)
    }

    /// Does it.
    pub(crate) fn service(&mut self, pci: &PciHost, drives: &mut Drives, ram: &mut GuestRam) {
        if self.fw_cfg.wants_service() {
            self.fw_cfg.service(&mut Around { ram, drives, numbers: &[], network: None });
        }
        if self.shadow.wants_service(pci) {
            self.shadow.service(pci, ram);
        }
    }

    pub(crate) fn save(&self) -> FirmwareState {
        let Served { fw_cfg, shadow: _ } = self;
        FirmwareState { fw_cfg: fw_cfg.save() }
    }
}

impl Board {
    /// Restores what serves the firmware, after the rest of the board.
    pub(crate) fn restore_firmware(
        &mut self,
        state: Option<&FirmwareState>,
        ram: &mut GuestRam,
    ) -> Result<(), RestoreError> {
        match (&mut self.firmware, state) {
            (None, None) => Ok(()),
            (Some(Served { fw_cfg, shadow }), Some(state)) => {
                fw_cfg.restore(state.fw_cfg.clone())?;
                shadow.restore(&self.pci, ram);
                Ok(())
            }
            (None, Some(_)) | (Some(_), None) => Err(RestoreError::OtherFirmware),
        }
    }
}
