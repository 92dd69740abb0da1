//! PCI host bridge with configuration mechanism 1, and the chipset's two fixed functions: Intel
//! 82441FX ("440FX", datasheet 290549-001) at 0:0.0 and 82371SB ("PIIX3" ISA bridge, 290550-002) at
//! 0:1.0.
//!
//! Data path: a dword written to 0xcf8 selects a function and a register; accesses of any width to
//! 0xcfc go there. The board asks [`PciHost::selected`] first and serves the functions that are its
//! own (any [`PciFunction`]); what it does not know it leaves to `read` and `write` here, which serve
//! the two bridges and answer all-ones for a function that is not there.
//!
//! The bridges' registers that mean something to the board have queries: `pam` (shadow RAM of the
//! BIOS area) and `pirq_route` (interrupt steering).
//!
//! The subsystem of the host bridge is that of QEMU's (1af4:1100), where the silicon has zeros: SeaBIOS
//! knows a virtual machine by it, and then takes memory size, tables and boot order from fw_cfg.
//!
//! Not modelled: other buses, SMRAM, DRAM row boundaries, the ISA bridge's own resources.

use crate::RestoreError;
use dejavm_units::GuestNs;
use serde::{Deserialize, Serialize};

/// First I/O port; registers 0 to 7 are ports 0xcf8 to 0xcff.
pub const BASE_PORT: u16 = 0xcf8;
/// Number of I/O ports.
pub const PORT_COUNT: u16 = 8;
/// Bytes of a function's configuration space.
pub const CONFIG_SIZE: usize = 256;

const CONFIG_ENABLE: u32 = 1 << 31;
const CONFIG_ADDRESS_BITS: u32 = 0x80ff_fffc;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
/// Subsystem vendor and device.
const SUBSYSTEM: usize = 0x2c;
const MULTIFUNCTION: u8 = 0x80;
/// 440FX: seven programmable attribute map registers.
const PAM0: usize = 0x59;
/// PIIX3: four PIRQ route control registers.
const PIRQRCA: usize = 0x60;
const PIRQ_DISABLED: u8 = 0x80;

/// Bus, device and function numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct FunctionAddress {
    /// 0..256.
    pub bus: u8,
    /// 0..32.
    pub device: u8,
    /// 0..8.
    pub function: u8,
}

/// Where the 440FX sits.
pub const HOST_BRIDGE: FunctionAddress = FunctionAddress { bus: 0, device: 0, function: 0 };
/// Where the PIIX3's ISA bridge sits.
pub const ISA_BRIDGE: FunctionAddress = FunctionAddress { bus: 0, device: 1, function: 0 };

/// How wide an access is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
}

impl Width {
    /// Number of bytes.
    pub fn bytes(self) -> usize {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
        }
    }

    /// All-ones of this width: what nobody answers.
    pub fn ones(self) -> u32 {
        match self {
            Width::Byte => 0xff,
            Width::Word => 0xffff,
            Width::Dword => 0xffff_ffff,
        }
    }
}

/// The configuration side of a function.
pub trait PciFunction {
    /// Reads `width` at `offset` of the configuration space; never beyond its end.
    fn config_read(&mut self, offset: u8, width: Width) -> u32;
    /// Writes `width` at `offset` of the configuration space; never beyond its end.
    fn config_write(&mut self, offset: u8, width: Width, value: u32);
}

/// A configuration space whose registers are plain bits: some read-only, some writable, some cleared
/// by writing ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
    write_one_clears: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    /// A function's standard header, type 0, all read-only. `class` is class, subclass and programming
    /// interface, as in 0x060000.
    pub fn new(vendor: u16, device: u16, class: u32, revision: u8) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; CONFIG_SIZE],
            writable: [0; CONFIG_SIZE],
            write_one_clears: [0; CONFIG_SIZE],
        };
        space.set(0x00, &vendor.to_le_bytes());
        space.set(0x02, &device.to_le_bytes());
        space.set(0x08, &(class << 8 | u32::from(revision)).to_le_bytes());
        space
    }

    /// Sets bytes from `offset` on, whatever the guest may do with them.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest write the bits of `mask` from `offset` on.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Lets the guest clear the bits of `mask` from `offset` on, by writing ones.
    pub fn allow_clearing(&mut self, offset: usize, mask: &[u8]) {
        self.write_one_clears[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// The byte at `offset`.
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes[usize::from(offset)]
    }

    /// All 256 bytes: what a device saves.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Becomes `bytes`; `None`, and nothing changes, unless they are 256 that differ only where the
    /// guest may write.
    #[must_use]
    pub fn restore_bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let bytes: [u8; CONFIG_SIZE] = bytes.try_into().ok()?;
        for (index, byte) in bytes.iter().enumerate() {
            let changeable = self.writable[index] | self.write_one_clears[index];
            if (byte ^ self.bytes[index]) & !changeable != 0 {
                return None;
            }
        }
        self.bytes = bytes;
        Some(())
    }
}

impl PciFunction for ConfigSpace {
    fn config_read(&mut self, offset: u8, width: Width) -> u32 {
        let mut value = [0; 4];
        let bytes = self.bytes.iter().skip(usize::from(offset)).take(width.bytes());
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        u32::from_le_bytes(value)
    }

    fn config_write(&mut self, offset: u8, width: Width, value: u32) {
        let range = usize::from(offset)..(usize::from(offset) + width.bytes()).min(CONFIG_SIZE);
        for (index, written) in range.zip(value.to_le_bytes()) {
            let writable = self.writable[index];
            let byte = (self.bytes[index] & !writable) | (written & writable);
            self.bytes[index] = byte & !(written & self.write_one_clears[index]);
        }
    }
}

/// Everything of the bridges that can change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The register at 0xcf8.
    config_address: u32,
    /// Configuration space of the 440FX.
    host_bridge: Vec<u8>,
    /// Configuration space of the PIIX3.
    isa_bridge: Vec<u8>,
}

/// The host bridge, the ISA bridge and the way to their configuration.
#[derive(Clone, Debug)]
pub struct PciHost {
    // Configuration: none.
    // Glue: none.
    // State.
    config_address: u32,
    host_bridge: ConfigSpace,
    isa_bridge: ConfigSpace,
}

impl Default for PciHost {
    fn default() -> PciHost {
        PciHost::new()
    }
}

fn host_bridge_at_reset() -> ConfigSpace {
    let mut space = ConfigSpace::new(0x8086, 0x1237, 0x06_00_00, 0x02);
    space.set(SUBSYSTEM, &[0xf4, 0x1a, 0x00, 0x11]);
    // Memory access and bus mastering cannot be turned off; SERR# can.
    space.set(COMMAND, &0x0006u16.to_le_bytes());
    space.allow(COMMAND, &0x0100u16.to_le_bytes());
    space.set(STATUS, &0x0280u16.to_le_bytes());
    space.allow_clearing(STATUS, &0xf900u16.to_le_bytes());
    // Latency timer.
    space.allow(0x0d, &[0xf8]);
    // PMCCFG, DETURBO, DBC, AXC, DRAM row type, DRAMC, DRAMT.
    space.allow(0x50, &[0xff; 9]);
    space.allow(PAM0, &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    // DRB, FDHC, MTT, CLT.
    space.allow(0x60, &[0xff; 12]);
    space.set(0x72, &[0x02]);
    space.allow(0x72, &[0x78]);
    space
}

fn isa_bridge_at_reset() -> ConfigSpace {
    let mut space = ConfigSpace::new(0x8086, 0x7000, 0x06_01_00, 0x00);
    space.set(COMMAND, &0x0007u16.to_le_bytes());
    space.allow(COMMAND, &0x0108u16.to_le_bytes());
    space.set(STATUS, &0x0200u16.to_le_bytes());
    space.allow_clearing(STATUS, &0xf900u16.to_le_bytes());
    space.set(HEADER_TYPE, &[MULTIFUNCTION]);
    // IORT, XBCS.
    space.set(0x4c, &[0x4d, 0x00, 0x03, 0x00]);
    space.allow(0x4c, &[0x7f, 0x00, 0xff, 0x01]);
    space.set(PIRQRCA, &[PIRQ_DISABLED; 4]);
    space.allow(PIRQRCA, &[0x8f; 4]);
    // TOM, MSTAT, MBIRQ0, MBDMA, PCSC, APICBASE, DLC.
    space.set(0x69, &[0x02]);
    space.allow(0x69, &[0xfe, 0xff, 0xff]);
    space.set(0x70, &[0x80]);
    space.allow(0x70, &[0x8f]);
    space.set(0x76, &[0x0c, 0x0c]);
    space.allow(0x76, &[0x8f, 0x8f]);
    space.set(0x78, &[0x02]);
    space.allow(0x78, &[0xff, 0xff]);
    space.allow(0x80, &[0x7f]);
    space.allow(0x82, &[0x0f]);
    space
}

// Guest side.
impl PciHost {
    /// The bridges at power-on.
    pub fn new() -> PciHost {
        PciHost {
            config_address: 0,
            host_bridge: host_bridge_at_reset(),
            isa_bridge: isa_bridge_at_reset(),
        }
    }

    /// The reset pin.
    pub fn reset(&mut self) {
        *self = PciHost::new();
    }

    /// The function and the offset in its configuration space that an access of `width` to register
    /// `reg` (0..8) is for; `None` if it is not a configuration access. An access that would cross the
    /// dword is none.
    pub fn selected(&self, reg: u16, width: Width) -> Option<(FunctionAddress, u8)> {
        let in_dword = reg.checked_sub(4).filter(|in_dword| *in_dword < 4)?;
        let fits = usize::from(in_dword) + width.bytes() <= 4;
        if !fits || self.config_address & CONFIG_ENABLE == 0 {
            return None;
        }
        let [register, device_function, bus, _] = self.config_address.to_le_bytes();
        let (device, function) = (device_function >> 3, device_function & 7);
        Some((FunctionAddress { bus, device, function }, register | in_dword as u8))
    }

    /// Reads `width` at register `reg` (0..8).
    pub fn read(&mut self, reg: u16, width: Width, _now: GuestNs) -> u32 {
        if reg == 0 && width == Width::Dword {
            return self.config_address;
        }
        match self.selected(reg, width) {
            Some((address, offset)) => match self.function(address) {
                Some(function) => function.config_read(offset, width),
                None => width.ones(),
            },
            None => width.ones(),
        }
    }

    /// Writes `width` at register `reg` (0..8).
    pub fn write(&mut self, reg: u16, width: Width, value: u32, _now: GuestNs) {
        // Only a dword reaches the address register; narrower accesses are those of 0xcf9.
        if reg == 0 && width == Width::Dword {
            self.config_address = value & CONFIG_ADDRESS_BITS;
            return;
        }
        if let Some((address, offset)) = self.selected(reg, width)
            && let Some(function) = self.function(address)
        {
            function.config_write(offset, width, value);
        }
    }

    fn function(&mut self, address: FunctionAddress) -> Option<&mut ConfigSpace> {
        match address {
            HOST_BRIDGE => Some(&mut self.host_bridge),
            ISA_BRIDGE => Some(&mut self.isa_bridge),
            _ => None,
        }
    }
}

/// What a programmable attribute map says of a piece of the BIOS area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shadow {
    /// Reads come from RAM, else from ROM.
    pub read_ram: bool,
    /// Writes go to RAM, else they are lost.
    pub write_ram: bool,
}

// Board side.
impl PciHost {
    /// The shadowing of the 13 pieces that PAM0 to PAM6 steer, as (first guest physical address,
    /// bytes, attributes), in the order of the registers.
    pub fn pam(&self) -> [(u64, u64, Shadow); 13] {
        let shadow = |nibble: u8| Shadow { read_ram: nibble & 1 != 0, write_ram: nibble & 2 != 0 };
        std::array::from_fn(|piece| {
            if piece == 0 {
                return (0xf_0000, 0x1_0000, shadow(self.host_bridge.bytes[PAM0] >> 4));
            }
            let byte = self.host_bridge.bytes[PAM0 + 1 + (piece - 1) / 2];
            let nibble = if piece % 2 == 1 { byte } else { byte >> 4 };
            (0xc_0000 + 0x4000 * (piece as u64 - 1), 0x4000, shadow(nibble))
        })
    }

    /// The ISA interrupt line that PIRQA# to PIRQD# (`pirq` 0..4) is steered to, if any.
    pub fn pirq_route(&self, pirq: usize) -> Option<u8> {
        assert!(pirq < 4, "there is no PIRQ {pirq}");
        let route = self.isa_bridge.bytes[PIRQRCA + pirq];
        // 0, 1, 2, 8 and 13 are reserved (PIIX3, 60h-63h).
        let allowed = !matches!(route & 0xf, 0 | 1 | 2 | 8 | 13);
        (route & PIRQ_DISABLED == 0 && allowed).then_some(route & 0xf)
    }

    /// Never.
    pub fn deadline(&self) -> Option<GuestNs> {
        None
    }

    /// Nothing depends on time.
    pub fn advance(&mut self, _now: GuestNs) {}
}

mod save_restore {
    use super::*;

    impl PciHost {
        /// The state of the bridges.
        pub fn save(&self) -> State {
            let PciHost { config_address, host_bridge, isa_bridge } = self;
            State {
                config_address: *config_address,
                host_bridge: host_bridge.bytes().to_vec(),
                isa_bridge: isa_bridge.bytes().to_vec(),
            }
        }

        /// Becomes `state`. Refuses configuration spaces of another size or of other chips.
        pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
            let check = |valid, field| RestoreError::unless(valid, "the PCI host bridge", field);
            let State { config_address, host_bridge, isa_bridge } = state;
            check(config_address & !CONFIG_ADDRESS_BITS == 0, "config_address")?;
            let mut restored = PciHost { config_address, ..PciHost::new() };
            let host = restored.host_bridge.restore_bytes(&host_bridge);
            check(host.is_some(), "host_bridge")?;
            let isa = restored.isa_bridge.restore_bytes(&isa_bridge);
            check(isa.is_some(), "isa_bridge")?;
            *self = restored;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: GuestNs = GuestNs(0);

    fn select(pci: &mut PciHost, device: u32, function: u32, register: u32) {
        pci.write(0, Width::Dword, 1 << 31 | device << 11 | function << 8 | register, T);
    }

    #[test]
    fn enumeration_finds_the_two_bridges() {
        let mut pci = PciHost::new();
        let mut found = Vec::new();
        for device in 0..32 {
            select(&mut pci, device, 0, 0);
            let id = pci.read(4, Width::Dword, T);
            if id != 0xffff_ffff {
                found.push((device, id));
            }
        }
        assert_eq!(found, [(0, 0x1237_8086), (1, 0x7000_8086)]);
        select(&mut pci, 0, 0, 8);
        assert_eq!(pci.read(6, Width::Word, T), 0x0600, "Linux looks for a host bridge's class");
    }

    /// Linux's pci_check_type1().
    #[test]
    fn mechanism_1_probe() {
        let mut pci = PciHost::new();
        pci.write(3, Width::Byte, 0x01, T);
        let before = pci.read(0, Width::Dword, T);
        pci.write(0, Width::Dword, 0x8000_0000, T);
        assert_eq!(pci.read(0, Width::Dword, T), 0x8000_0000);
        pci.write(0, Width::Dword, before, T);
        assert_eq!(pci.read(4, Width::Dword, T), 0xffff_ffff, "not enabled");
    }

    #[test]
    fn pirq_routing() {
        let mut pci = PciHost::new();
        assert_eq!(pci.pirq_route(2), None);
        select(&mut pci, 1, 0, 0x60);
        pci.write(4 + 2, Width::Byte, 0x0b, T);
        assert_eq!(pci.pirq_route(2), Some(11));
        pci.write(4 + 2, Width::Byte, 0x0d, T);
        assert_eq!(pci.pirq_route(2), None, "IRQ 13 is reserved");
        assert_eq!(pci.read(4, Width::Dword, T), 0x800d_8080);
    }

    #[test]
    fn pam_of_the_bios_area() {
        let mut pci = PciHost::new();
        select(&mut pci, 0, 0, 0x58);
        pci.write(5, Width::Byte, 0x30, T);
        select(&mut pci, 0, 0, 0x5c);
        pci.write(4, Width::Byte, 0x21, T);
        let pam = pci.pam();
        assert_eq!(pam[0], (0xf_0000, 0x1_0000, Shadow { read_ram: true, write_ram: true }));
        // PAM3 (0x5c): low half 0xd0000, high half 0xd4000.
        assert_eq!(pam[5], (0xd_0000, 0x4000, Shadow { read_ram: true, write_ram: false }));
        assert_eq!(pam[6], (0xd_4000, 0x4000, Shadow { read_ram: false, write_ram: true }));
        assert_eq!(pam[12].0, 0xe_c000);
    }

    #[test]
    fn identity_is_read_only_and_accesses_do_not_cross_the_dword() {
        let mut pci = PciHost::new();
        select(&mut pci, 0, 0, 0);
        pci.write(4, Width::Dword, 0, T);
        assert_eq!(pci.read(4, Width::Dword, T), 0x1237_8086);
        assert_eq!(pci.read(7, Width::Word, T), 0xffff);
        assert_eq!(pci.read(5, Width::Word, T), 0x3780);
    }

    #[test]
    fn restore_refuses_another_chip() {
        let mut state = PciHost::new().save();
        state.isa_bridge[0] = 0;
        assert_eq!(PciHost::new().restore(state).unwrap_err().field, "isa_bridge");
    }
}
