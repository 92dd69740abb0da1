//! Which chip answers at which I/O port.
//!
//! Accesses wider than a byte are split into bytes at consecutive ports, low byte first, as the ISA
//! bus does; the exceptions are registers that are wider themselves.
//!
//! The debug console and the exit port are no chips: they remember nothing.

use crate::acpi;
use crate::board::Board;
use crate::machine::End;
use dejavm_devices::card::Space;
use dejavm_devices::pci::Width;
use dejavm_devices::{acpi_pm, pci};
use dejavm_units::GuestNs;

/// Where no chip answers the bus floats high.
const OPEN_BUS: u8 = 0xff;

const DEBUG_EXIT: u16 = 0xf4;
const RESET_CONTROL: u16 = 0xcf9;
const ACPI_LAST: u16 = acpi::PM_BASE + acpi_pm::PORT_COUNT - 1;
const PCI_LAST: u16 = pci::BASE_PORT + pci::PORT_COUNT - 1;

/// The width of an access to PCI configuration space; `None` for what is split into bytes.
fn pci_width(port: u16, size: u8) -> Option<Width> {
    match (port, size) {
        // Inside the address register; only a byte access is meant for it.
        (RESET_CONTROL, 1) => None,
        (pci::BASE_PORT..=PCI_LAST, 1) => Some(Width::Byte),
        (pci::BASE_PORT..=PCI_LAST, 2) => Some(Width::Word),
        (pci::BASE_PORT..=PCI_LAST, 4) => Some(Width::Dword),
        _ => None,
    }
}

impl Board {
    pub(crate) fn read_port(&mut self, port: u16, size: u8, now: GuestNs) -> u32 {
        if let Some(width) = pci_width(port, size) {
            let selected = self.pci.selected(port - pci::BASE_PORT, width);
            let card = selected.and_then(|at| self.cards.config_read(at, width, now));
            return card.unwrap_or_else(|| self.pci.read(port - pci::BASE_PORT, width, now));
        }
        if let Some(value) = self.cards.read(Space::Ports, port.into(), size, now) {
            return value as u32;
        }
        let mut value = 0;
        for byte in 0..size.min(4) {
            let at = port.wrapping_add(u16::from(byte));
            value |= u32::from(self.read_port_byte(at, now)) << (8 * byte);
        }
        value
    }

    pub(crate) fn write_port(&mut self, port: u16, size: u8, value: u32, now: GuestNs) {
        if let Some(width) = pci_width(port, size) {
            let selected = self.pci.selected(port - pci::BASE_PORT, width);
            if selected.is_none_or(|at| !self.cards.config_write(at, width, value, now)) {
                self.pci.write(port - pci::BASE_PORT, width, value, now);
            }
            return;
        }
        if self.cards.write(Space::Ports, port.into(), size, value.into(), now) {
            return;
        }
        if port == DEBUG_EXIT {
            return self.finish(End::DebugExit(value));
        }
        for byte in 0..size.min(4) {
            let at = port.wrapping_add(u16::from(byte));
            self.write_port_byte(at, (value >> (8 * byte)) as u8, now);
        }
    }

    fn read_port_byte(&mut self, port: u16, now: GuestNs) -> u8 {
        match port {
            0x20..=0x21 => self.pic.read(port - 0x20, now),
            0xa0..=0xa1 => self.pic.read(port - 0xa0 + 2, now),
            0x4d0..=0x4d1 => self.pic.read(port - 0x4d0 + 4, now),
            0x40..=0x43 => self.pit.read(port - 0x40, now),
            0x61 => self.pit.read(4, now),
            0x60 | 0x64 => self.i8042.read(port - 0x60, now),
            0x70..=0x71 => self.rtc.read(port - 0x70, now),
            0x92 => self.system_control.read(0, now),
            RESET_CONTROL => self.system_control.read(1, now),
            acpi::PM_BASE..=ACPI_LAST => self.acpi_pm.read(port - acpi::PM_BASE, now),
            // The debug console announces itself by reading as its own number (Bochs, QEMU).
            0xe9 | 0x402 => 0xe9,
            0x510..=0x51b => self.read_fw_cfg(port, now),
            _ => self.read_serial(port, now).unwrap_or_else(|| {
                *self.unknown_ports.entry(port).or_default() += 1;
                OPEN_BUS
            }),
        }
    }

    fn write_port_byte(&mut self, port: u16, value: u8, now: GuestNs) {
        match port {
            0x20..=0x21 => self.pic.write(port - 0x20, value, now),
            0xa0..=0xa1 => self.pic.write(port - 0xa0 + 2, value, now),
            0x4d0..=0x4d1 => self.pic.write(port - 0x4d0 + 4, value, now),
            0x40..=0x43 => self.pit.write(port - 0x40, value, now),
            0x61 => self.pit.write(4, value, now),
            0x60 | 0x64 => self.i8042.write(port - 0x60, value, now),
            0x70..=0x71 => self.rtc.write(port - 0x70, value, now),
            // The progress code of a power-on self-test, and Linux's delay.
            0x80 | 0xed => {}
            0x92 => self.system_control.write(0, value, now),
            RESET_CONTROL => self.system_control.write(1, value, now),
            acpi::PM_BASE..=ACPI_LAST => self.acpi_pm.write(port - acpi::PM_BASE, value, now),
            0xe9 | 0x402 => self.output.debug_console(value),
            0x510..=0x51b => self.write_fw_cfg(port, value, now),
            _ if self.write_serial(port, value, now) => {}
            _ => *self.unknown_ports.entry(port).or_default() += 1,
        }
    }

    fn read_fw_cfg(&mut self, port: u16, now: GuestNs) -> u8 {
        match &mut self.firmware {
            Some(firmware) => firmware.fw_cfg.read(port - 0x510, now),
            None => {
                *self.unknown_ports.entry(port).or_default() += 1;
                OPEN_BUS
            }
        }
    }

    fn write_fw_cfg(&mut self, port: u16, value: u8, now: GuestNs) {
        match &mut self.firmware {
            Some(firmware) => firmware.fw_cfg.write(port - 0x510, value, now),
            None => *self.unknown_ports.entry(port).or_default() += 1,
        }
    }
}
