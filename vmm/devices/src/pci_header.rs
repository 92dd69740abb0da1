//! The configuration header of a card: base address registers, the command register's switches, the interrupt pin
//! (PCI Local Bus Specification 3.0, 6.1 and 6.2).

use crate::card::{Space, Window};
use crate::pci::{CONFIG_SIZE, ConfigSpace, PciFunction, Width};

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const BAR0: u8 = 0x10;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3c;
const INTERRUPT_PIN: u8 = 0x3d;

const COMMAND_PORTS: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// First byte that capabilities may use.
const FIRST_CAPABILITY: u8 = 0x40;

/// A card's configuration space, with registers that the guest places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PciHeader {
    space: ConfigSpace,
    // Configuration.
    /// Kind and size of each base address register, as the card was built.
    bars: [Option<(Space, u32)>; 6],
    next_capability: u8,
    /// Where the link to the next capability goes.
    link: u8,
}

impl PciHeader {
    /// A header without registers or capabilities. `class` is class, subclass and programming interface, as in 0x010180.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> PciHeader {
        let mut space = ConfigSpace::new(vendor, device, class, revision);
        let command = COMMAND_PORTS | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX;
        space.allow(COMMAND.into(), &command.to_le_bytes());
        space.allow(INTERRUPT_LINE.into(), &[0xff]);
        PciHeader { space, bars: [None; 6], next_capability: FIRST_CAPABILITY, link: CAPABILITIES }
    }

    /// Subsystem vendor and subsystem.
    #[must_use]
    pub fn subsystem(mut self, vendor: u16, device: u16) -> PciHeader {
        self.space.set(SUBSYSTEM.into(), &vendor.to_le_bytes());
        self.space.set(usize::from(SUBSYSTEM) + 2, &device.to_le_bytes());
        self
    }

    /// The function interrupts by INTA#.
    #[must_use]
    pub fn with_interrupt_pin(mut self) -> PciHeader {
        self.space.set(INTERRUPT_PIN.into(), &[1]);
        self
    }

    /// Base address register `bar` (0..6) decodes so many bytes or ports: a power of two, at least 16 of memory or 4 ports.
    #[must_use]
    pub fn with_bar(mut self, bar: u8, space: Space, bytes: u32) -> PciHeader {
        assert!(bytes.is_power_of_two() && bar < 6, "registers of PCI decode powers of two");
        let at = usize::from(BAR0 + 4 * bar);
        let writable = !(bytes - 1);
        match space {
            Space::Memory => assert!(bytes >= 16, "four bits say what it is"),
            Space::Ports => {
                assert!(bytes >= 4, "two bits say what it is");
                // All 32 bits can be written: SeaBIOS takes the size from all of them.
                self.space.set(at, &[1]);
            }
        }
        self.space.allow(at, &writable.to_le_bytes());
        self.bars[usize::from(bar)] = Some((space, bytes));
        self
    }

    /// Adds a capability: its id, and what follows the two bytes that all have. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let at = self.next_capability;
        let end = usize::from(at) + 2 + body.len();
        assert!(end <= CONFIG_SIZE, "capabilities fit the configuration space");
        self.space.set(at.into(), &[id, 0]);
        self.space.set(usize::from(at) + 2, body);
        self.space.set(self.link.into(), &[at]);
        self.link = at + 1;
        self.next_capability = end.next_multiple_of(4).min(0xfc) as u8;
        let status = self.word(STATUS) | STATUS_CAPABILITIES;
        self.space.set(STATUS.into(), &status.to_le_bytes());
        at
    }

    /// Lets the guest write the bits of `mask` from `offset` on.
    pub fn allow(&mut self, offset: u8, mask: &[u8]) {
        self.space.allow(offset.into(), mask);
    }

    /// Sets bytes from `offset` on: what has its initial value and is not the guest's to write.
    pub fn set(&mut self, offset: u8, bytes: &[u8]) {
        self.space.set(offset.into(), bytes);
    }

    /// Reads as the guest does; `interrupt`: whether the function has one pending, its switch left out.
    pub fn read(&mut self, offset: u8, width: Width, interrupt: bool) -> u32 {
        let mut status = self.word(STATUS) & !STATUS_INTERRUPT;
        if interrupt {
            status |= STATUS_INTERRUPT;
        }
        // No part of the state: derived at each read.
        let mut shown = self.space.clone();
        shown.set(STATUS.into(), &status.to_le_bytes());
        shown.config_read(offset, width)
    }

    /// Writes as the guest does.
    pub fn write(&mut self, offset: u8, width: Width, value: u32) {
        self.space.config_write(offset, width, value);
    }

    /// The two bytes at `offset`.
    pub fn word(&self, offset: u8) -> u16 {
        u16::from_le_bytes([self.space.byte(offset), self.space.byte(offset.wrapping_add(1))])
    }

    /// The four bytes at `offset`.
    pub fn dword(&self, offset: u8) -> u32 {
        u32::from(self.word(offset)) | u32::from(self.word(offset.wrapping_add(2))) << 16
    }

    /// Whether the function may assert INTA#.
    pub fn interrupt_allowed(&self) -> bool {
        self.word(COMMAND) & COMMAND_NO_INTX == 0
    }

    /// Whether the function may access memory.
    pub fn is_master(&self) -> bool {
        self.word(COMMAND) & COMMAND_MASTER != 0
    }

    /// Where the base address registers are, each with its number as region: those that the command register lets decode and
    /// that were placed.
    pub fn windows(&self) -> Vec<Window> {
        let command = self.word(COMMAND);
        let mut windows = Vec::new();
        for (region, bar) in (0..).zip(self.bars) {
            let Some((space, bytes)) = bar else { continue };
            let value = self.dword(BAR0 + 4 * region);
            let (enabled, first) = match space {
                Space::Memory => (command & COMMAND_MEMORY != 0, value & !0xf),
                Space::Ports => (command & COMMAND_PORTS != 0, value & !3),
            };
            // A register that nobody has written yet is not at 0: the guest sizes it with decoding on.
            let sizing = first == !(bytes - 1);
            // Beyond 64 Ki there are no ports.
            let exists = space == Space::Memory || first < 1 << 16;
            if enabled && first != 0 && !sizing && exists {
                windows.push(Window { space, first: first.into(), bytes: bytes.into(), region });
            }
        }
        windows
    }

    /// All 256 bytes: what a card saves.
    pub fn bytes(&self) -> &[u8] {
        self.space.bytes()
    }

    /// Becomes `bytes`; `None`, and nothing changes, unless they differ only where the guest may write.
    #[must_use]
    pub fn restore_bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.space.restore_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PciHeader {
        PciHeader::new(0x1af4, 0x1042, 0x01_00_00, 1)
            .with_bar(0, Space::Memory, 0x4000)
            .with_bar(4, Space::Ports, 16)
            .with_interrupt_pin()
    }

    #[test]
    fn registers_are_sized_and_placed() {
        let mut header = header();
        for (offset, size) in [(0x10, 0xffff_c000), (0x14, 0), (0x20, 0xffff_fff1)] {
            header.write(offset, Width::Dword, 0xffff_ffff);
            assert_eq!(header.read(offset, Width::Dword, false), size, "{offset:#x}");
        }
        header.write(0x04, Width::Word, 0x0003);
        assert_eq!(header.windows(), [], "being sized is no place");
        header.write(0x10, Width::Dword, 0xc012_3456);
        header.write(0x20, Width::Dword, 0xc043);
        let memory = Window { space: Space::Memory, first: 0xc012_0000, bytes: 0x4000, region: 0 };
        let ports = Window { space: Space::Ports, first: 0xc040, bytes: 16, region: 4 };
        assert_eq!(header.windows(), [memory, ports]);
        header.write(0x04, Width::Word, 0x0001);
        assert_eq!(header.windows(), [ports]);
    }

    #[test]
    fn capabilities_are_a_list() {
        let mut header = header();
        assert_eq!(header.read(0x06, Width::Word, false), 0);
        let first = header.add_capability(0x11, &[0; 10]);
        let second = header.add_capability(0x09, &[0; 14]);
        assert_eq!(header.read(0x06, Width::Word, true), 0x18);
        assert_eq!(header.read(0x34, Width::Byte, false), first.into());
        assert_eq!(header.read(first + 1, Width::Byte, false), second.into());
        assert_eq!(header.read(second, Width::Word, false), 0x0009);
    }
}
