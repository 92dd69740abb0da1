//! What no driver would do, case by case.

mod base_addresses;
mod display;
mod e1000;
mod fw_cfg;
mod ide;
mod virtio;

use super::program::Program;

/// Where a program has the cards' registers, once it has placed them. PCI devices in the order of the machine's cards, from 3 on.
pub(super) mod place {
    pub const BLOCK: u32 = 0xe000_0000;
    pub const NET: u32 = 0xe010_0000;
    pub const RNG: u32 = 0xe020_0000;
    pub const E1000: u32 = 0xe030_0000;
    pub const CONSOLE: u32 = 0xe050_0000;
    pub const VGA_REGISTERS: u32 = 0xe040_0000;
    pub const VGA_MEMORY: u32 = 0xe100_0000;
    pub const E1000_PORTS: u16 = 0xc000;
    pub const BUS_MASTER: u16 = 0xc100;
    /// Each virtio card's device on the bus, and its registers.
    pub const VIRTIO_CARDS: [(u8, u32); 4] = [(3, BLOCK), (4, NET), (5, RNG), (7, CONSOLE)];
    /// What is not RAM: nowhere, both APICs, the display's window, ROM, a card's registers, the last page of all.
    pub const NO_RAM: [u64; 9] = [
        0xd000_0000,
        0xfec0_0000,
        0xfee0_0000,
        0xa_0000,
        0xf_0000,
        0xe000_0000,
        0xffff_f000,
        0x1_0000_0000,
        0xffff_ffff_ffff_f000,
    ];
}
use place::{BUS_MASTER, E1000, VIRTIO_CARDS};

/// The machine's RAM ends here.
const RAM_END: u64 = super::RAM_BYTES;
/// Where requests and data are.
const RINGS: u32 = 0x2_0000;
const TABLE: u32 = 0x2_8000;
const DATA: u32 = 0x3_0000;
/// What a program waits after each mistake: more than any card takes to look.
const PATIENCE_US: u32 = 60;

/// A case: its name, and what writes its program.
pub type Attack = (&'static str, fn(&mut Program));

/// All cases.
pub const ATTACKS: [Attack; 8] = [
    ("virtio queues", virtio::queues),
    ("virtio rings that lie over each other or nowhere", virtio::rings),
    ("base address registers over RAM, APICs and each other", base_addresses::base_addresses),
    ("IDE commands out of order", ide::commands),
    ("IDE by DMA to where no RAM is", ide::dma),
    ("e1000 rings", e1000::rings),
    ("copies of the configuration device", fw_cfg::copies),
    ("modes of the display", display::modes),
];

/// Gives every card its place and makes it master of the bus.
pub(super) fn place_cards(program: &mut Program) {
    for (device, place) in VIRTIO_CARDS {
        program.config(device, 0, 0x10, place);
        program.config(device, 0, 0x14, place + 0x8000);
        program.config(device, 0, 4, 7);
    }
    program.config(6, 0, 0x10, E1000);
    program.config(6, 0, 0x14, place::E1000_PORTS.into());
    program.config(6, 0, 4, 7);
    program.config(2, 0, 0x10, place::VGA_MEMORY);
    program.config(2, 0, 0x18, place::VGA_REGISTERS);
    program.config(2, 0, 4, 3);
    program.config(1, 1, 0x20, BUS_MASTER.into());
    program.config(1, 1, 0x40, 0x8000_8000);
    program.config(1, 1, 4, 5);
}
