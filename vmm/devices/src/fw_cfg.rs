//! QEMU's firmware configuration device (QEMU, docs/specs/fw_cfg.rst): how a virtual machine tells its firmware what it has.
//!
//! Data path: a key written to the selector chooses an item, whose bytes the data port gives one after the other, then zeros. The
//! items from 0x20 on are files; item 0x19 lists them. The address of a descriptor written to the DMA register makes the device
//! copy an item, or a part of it, to memory: the board calls [`FwCfg::service`] when that instruction is over.
//!
//! Items cannot be written; a write by DMA fails, and one to the data port is lost, as in QEMU for items of these kinds.

use crate::card::Surroundings;
use crate::{PortRange, RestoreError};
use dejavm_units::{Gpa, GuestNs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Registers 0 and 1 are the selector and its high byte, 1 being the data port when it is read; 4 to 11 the DMA address, most
/// significant byte first.
pub const PORTS: [PortRange; 2] =
    [PortRange { first: 0x510, count: 2, reg: 0 }, PortRange { first: 0x514, count: 8, reg: 4 }];

/// Bytes that one descriptor may ask for; more is an error.
const DMA_BYTES_MAX: u32 = 16 << 20;

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const FILE_DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;
/// Traditional interface, and DMA.
const FEATURES: u32 = 1 << 0 | 1 << 1;
/// What the DMA address reads as.
const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";
const NAME_BYTES: usize = 56;

/// Bits of a descriptor's control word.
mod control {
    pub(super) const ERROR: u32 = 1 << 0;
    pub(super) const READ: u32 = 1 << 1;
    pub(super) const SKIP: u32 = 1 << 2;
    pub(super) const SELECT: u32 = 1 << 3;
    pub(super) const WRITE: u32 = 1 << 4;
}

/// What the device has to tell. Shared by machines.
#[derive(Clone, Debug, Default)]
pub struct Items {
    items: BTreeMap<u16, Arc<[u8]>>,
    directory: Vec<(String, u32)>,
}

impl Items {
    /// The signature and the features, which every such device has.
    pub fn new() -> Items {
        let mut items = Items::default();
        items.set(SIGNATURE, b"QEMU");
        items.set(ID, &FEATURES.to_le_bytes());
        items.set(FILE_DIRECTORY, &0u32.to_be_bytes());
        items
    }

    /// Sets an item that has a number of its own.
    pub fn set(&mut self, key: u16, bytes: &[u8]) {
        self.items.insert(key, bytes.into());
    }

    /// Adds a file.
    ///
    /// # Panics
    /// If its name has more than 55 bytes.
    pub fn add_file(&mut self, name: &str, bytes: Arc<[u8]>) {
        assert!(name.len() < NAME_BYTES, "{name}: a name has a fixed place");
        let key = FIRST_FILE + self.directory.len() as u16;
        self.directory.push((name.to_owned(), bytes.len() as u32));
        self.items.insert(key, bytes);
        let mut directory = (self.directory.len() as u32).to_be_bytes().to_vec();
        for (index, (name, bytes)) in (FIRST_FILE..).zip(&self.directory) {
            directory.extend(bytes.to_be_bytes());
            directory.extend(index.to_be_bytes());
            directory.extend([0; 2]);
            let mut field = [0; NAME_BYTES];
            field[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(field);
        }
        self.items.insert(FILE_DIRECTORY, directory.into());
    }
}

/// Everything of the device that can change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The item chosen.
    selector: u16,
    /// Bytes of it that were given already.
    offset: u32,
    /// The DMA address register.
    dma_address: u64,
    /// A descriptor waits there.
    pending: Option<u64>,
}

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    // Configuration.
    items: Items,
    // State.
    state: State,
}

// Guest side.
impl FwCfg {
    /// The device with these items, nothing selected but the signature.
    pub fn new(items: Items) -> FwCfg {
        FwCfg { items, state: State::default() }
    }

    /// The reset pin.
    pub fn reset(&mut self) {
        self.state = State::default();
    }

    /// Reads register `reg` (see [`PORTS`]).
    pub fn read(&mut self, reg: u16, _now: GuestNs) -> u8 {
        match reg {
            1 => self.next_byte(),
            4..=11 => DMA_SIGNATURE[usize::from(reg - 4)],
            _ => 0,
        }
    }

    /// Writes register `reg` (see [`PORTS`]).
    pub fn write(&mut self, reg: u16, value: u8, _now: GuestNs) {
        let state = &mut self.state;
        match reg {
            0 => {
                state.selector = state.selector & 0xff00 | u16::from(value);
                state.offset = 0;
            }
            1 => {
                state.selector = state.selector & 0x00ff | u16::from(value) << 8;
                state.offset = 0;
            }
            4..=11 => {
                let shift = 8 * (11 - reg);
                state.dma_address =
                    state.dma_address & !(0xff << shift) | u64::from(value) << shift;
                if reg == 11 {
                    // The next one begins with a high half of 0.
                    state.pending = Some(std::mem::take(&mut state.dma_address));
                }
            }
            _ => {}
        }
    }

    fn item(&self) -> &[u8] {
        self.items.items.get(&self.state.selector).map_or(&[], |item| item)
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.item().get(self.state.offset as usize).copied();
        self.state.offset = self.state.offset.saturating_add(1);
        byte.unwrap_or(0)
    }
}

// Board side.
impl FwCfg {
    /// Whether the guest waits for a copy.
    pub fn wants_service(&self) -> bool {
        self.state.pending.is_some()
    }

    /// Makes the copy that the guest asked for.
    pub fn service(&mut self, around: &mut dyn Surroundings) {
        let Some(at) = self.state.pending.take() else { return };
        let mut descriptor = [0; 16];
        around.read_memory(Gpa(at), &mut descriptor);
        let [control, length, high, low] = std::array::from_fn(|n| {
            u32::from_be_bytes(std::array::from_fn(|byte| descriptor[4 * n + byte]))
        });
        if control & control::SELECT != 0 {
            self.state.selector = (control >> 16) as u16;
            self.state.offset = 0;
        }
        let mut outcome = 0;
        if length > DMA_BYTES_MAX {
            outcome = control::ERROR;
        } else if control & control::READ != 0 {
            let rest = self.item().get(self.state.offset as usize..).unwrap_or(&[]);
            let mut bytes = rest[..rest.len().min(length as usize)].to_vec();
            bytes.resize(length as usize, 0);
            around.write_memory(Gpa(u64::from(high) << 32 | u64::from(low)), &bytes);
            self.state.offset = self.state.offset.saturating_add(length);
        } else if control & control::WRITE != 0 {
            outcome = control::ERROR;
        } else if control & control::SKIP != 0 {
            self.state.offset = self.state.offset.saturating_add(length);
        }
        around.write_memory(Gpa(at), &outcome.to_be_bytes());
    }

    /// Never.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}

    /// The state of the device.
    pub fn save(&self) -> State {
        let FwCfg { items: _, state } = self;
        state.clone()
    }

    /// Becomes `state`: any is possible.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    const T: GuestNs = GuestNs(0);

    fn device() -> FwCfg {
        let mut items = Items::new();
        items.set(5, &[3, 0]);
        items.add_file("etc/e820", [1, 2, 3, 4, 5].as_slice().into());
        items.add_file("bootorder", b"/rom@x\0".as_slice().into());
        FwCfg::new(items)
    }

    fn select(device: &mut FwCfg, key: u16) {
        device.write(0, key as u8, T);
        device.write(1, (key >> 8) as u8, T);
    }

    fn bytes(device: &mut FwCfg, count: usize) -> Vec<u8> {
        (0..count).map(|_| device.read(1, T)).collect()
    }

    #[test]
    fn items_are_read_by_the_port() {
        let mut device = device();
        assert_eq!(bytes(&mut device, 6), *b"QEMU\0\0");
        select(&mut device, 1);
        assert_eq!(bytes(&mut device, 4), [3, 0, 0, 0]);
        select(&mut device, 0x19);
        assert_eq!(bytes(&mut device, 4), [0, 0, 0, 2]);
        let entry = bytes(&mut device, 64);
        assert_eq!(entry[..8], [0, 0, 0, 5, 0, 0x20, 0, 0]);
        assert_eq!(&entry[8..17], b"etc/e820\0");
        select(&mut device, 0x21);
        assert_eq!(bytes(&mut device, 8), *b"/rom@x\0\0");
        select(&mut device, 0x1234);
        assert_eq!(bytes(&mut device, 2), [0, 0], "an item that is not there");
    }

    /// Writes a descriptor at 0x100 and its address to the register, by two accesses as firmware does.
    fn transfer(device: &mut FwCfg, memory: &mut Memory, control: u32, length: u32) -> u32 {
        memory.bytes[0x100..0x104].copy_from_slice(&control.to_be_bytes());
        memory.bytes[0x104..0x108].copy_from_slice(&length.to_be_bytes());
        memory.bytes[0x108..0x110].copy_from_slice(&0x200u64.to_be_bytes());
        for (reg, byte) in (4..).zip(0x100u64.to_be_bytes()) {
            device.write(reg, byte, T);
        }
        assert!(device.wants_service());
        device.service(memory);
        assert!(!device.wants_service());
        u32::from_be_bytes(memory.bytes[0x100..0x104].try_into().unwrap())
    }

    #[test]
    fn items_are_copied_by_dma() {
        let mut device = device();
        let mut memory = Memory::new(0x1000);
        let signature: Vec<u8> = (4..12).map(|reg| device.read(reg, T)).collect();
        assert_eq!(signature, b"QEMU CFG");
        // Select and read; go on; skip and read zeros; a write fails, and so does what is too long.
        assert_eq!(transfer(&mut device, &mut memory, 0x20 << 16 | 0xa, 2), 0);
        assert_eq!(memory.bytes[0x200..0x203], [1, 2, 0]);
        assert_eq!(transfer(&mut device, &mut memory, 4, 1), 0);
        assert_eq!(transfer(&mut device, &mut memory, 2, 3), 0);
        assert_eq!(memory.bytes[0x200..0x203], [4, 5, 0]);
        assert_eq!(transfer(&mut device, &mut memory, 0x20 << 16 | 0x18, 1), 1);
        assert_eq!(transfer(&mut device, &mut memory, 0x20 << 16 | 0xa, u32::MAX), 1);
        assert_eq!(memory.bytes[0x200..0x203], [4, 5, 0]);
    }
}
