//! The ACPI tables (ACPI specification 6.5), written where the firmware of a PC would leave them.
//!
//! RSDP at 0xe0000, then FACS, DSDT, FADT, MADT and XSDT. The DSDT is AML from the `acpi_tables`
//! builder; the MADT is spelt out here because the builder lacks source overrides.

use crate::board::io_apic_id;
use crate::config::MachineConfig;
use crate::memory_map::{FIRMWARE, HIGH_MEMORY, IO_APIC, LOCAL_APIC};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as GasSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink, aml};
use dejavm_memory::{GuestRam, VGA_WINDOW};
use dejavm_units::Gpa;

const OEM_ID: [u8; 6] = *b"DEJAVM";
const OEM_TABLE_ID: [u8; 8] = *b"DEJAVMPC";
const OEM_REVISION: u32 = 1;

/// The fixed hardware's ports: those of the PIIX4 as firmware usually maps them.
pub(crate) const PM_BASE: u16 = 0x600;
/// PM1a event block: status and enable.
pub(crate) const PM1_EVENT: u16 = PM_BASE;
/// PM1a control.
pub(crate) const PM1_CONTROL: u16 = PM_BASE + 4;
/// The 32-bit power management timer.
pub(crate) const PM_TIMER: u16 = PM_BASE + 8;
/// The system control interrupt.
pub(crate) const SCI_IRQ: u8 = 9;
/// What the guest writes to SLP_TYP to switch the power off.
pub(crate) const SLEEP_TYPE_S5: u8 = 5;
/// The reset control register and the value that resets.
const RESET_PORT: u16 = 0xcf9;
const RESET_VALUE: u8 = 6;
/// The CMOS byte that holds the century.
const CENTURY: u8 = 0x32;

/// First and last address that PCI devices may be given: from the end of low RAM to the I/O APIC.
const PCI_MEMORY: (u32, u32) = (0xc000_0000, IO_APIC as u32 - 1);
/// Where SeaBIOS begins to give addresses if low RAM ends here or before (its `i440fx_mem_addr_setup`).
const PCI_MEMORY_BY_FIRMWARE: u32 = 0x8000_0000;

/// `IAPC_BOOT_ARCH`: legacy devices, 8042.
const BOOT_ARCH: u16 = 1 << 0 | 1 << 1;
/// No VGA.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;

/// What the tables tell of a machine.
#[derive(Clone, Copy)]
pub(crate) struct Platform {
    processors: u8,
    io_apic_id: u8,
    display: bool,
    /// Firmware steers interrupts and gives addresses.
    firmware: bool,
    low_ram: u64,
    /// COM2 to COM4.
    serial_ports: [bool; 3],
}

impl Platform {
    pub(crate) fn of(config: &MachineConfig) -> Platform {
        Platform {
            processors: config.hardware.processors,
            io_apic_id: io_apic_id(config),
            display: config.hardware.display,
            firmware: config.hardware.firmware.is_some(),
            low_ram: config.ram.low_bytes(),
            serial_ports: config.hardware.serial_ports,
        }
    }

    fn pci_memory(&self) -> (u32, u32) {
        let by_firmware = self.firmware && self.low_ram <= PCI_MEMORY_BY_FIRMWARE.into();
        let (first, last) = PCI_MEMORY;
        (if by_firmware { PCI_MEMORY_BY_FIRMWARE } else { first }, last)
    }
}

/// Where the root pointer is.
pub(crate) const RSDP: u64 = FIRMWARE;

/// Writes all tables into RAM.
pub(crate) fn write_tables(ram: &mut GuestRam, platform: Platform) {
    let tables = Tables::build(RSDP, platform);
    assert!(RSDP + tables.bytes.len() as u64 <= HIGH_MEMORY, "the tables fit below 1 MiB");
    ram.write(Gpa(RSDP), &tables.bytes).expect("any machine has RAM below 1 MiB");
}

/// All tables, one after the other.
struct Tables {
    /// The address of the root pointer, which comes first.
    base: u64,
    bytes: Vec<u8>,
    /// Addresses of the others.
    dsdt: u64,
    fadt: u64,
    madt: u64,
    xsdt: u64,
}

impl Tables {
    fn build(base: u64, platform: Platform) -> Tables {
        let bytes = vec![0; Rsdp::len()];
        let mut tables = Tables { base, bytes, dsdt: 0, fadt: 0, madt: 0, xsdt: 0 };
        let facs = tables.put(&bytes_of(&FACS::new()), 64);
        tables.dsdt = tables.put(dsdt(platform).as_slice(), 16);
        tables.fadt = tables.put(&bytes_of(&fadt(facs, tables.dsdt, platform.display)), 16);
        tables.madt = tables.put(madt(platform.processors, platform.io_apic_id).as_slice(), 16);
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(tables.fadt);
        xsdt.add_entry(tables.madt);
        tables.xsdt = tables.put(&bytes_of(&xsdt), 16);
        let root = bytes_of(&Rsdp::new(OEM_ID, tables.xsdt));
        tables.bytes[..root.len()].copy_from_slice(&root);
        tables
    }

    /// Adds a table at the next multiple of `alignment` and returns its address.
    fn put(&mut self, table: &[u8], alignment: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let at = self.base + self.bytes.len() as u64;
        self.bytes.extend(table);
        at
    }
}

/// Tables for firmware that puts them where it likes, and how (QEMU, docs/specs/acpi_hest_ghes.rst and include/hw/acpi/bios-linker-loader.h).
pub(crate) struct ForFirmware {
    /// The root pointer.
    pub(crate) root: Vec<u8>,
    /// The other tables.
    pub(crate) tables: Vec<u8>,
    /// What to do with the two.
    pub(crate) script: Vec<u8>,
}

/// File names in the script.
const ROOT_FILE: &str = "etc/acpi/rsdp";
const TABLES_FILE: &str = "etc/acpi/tables";

/// Bytes of a command in the script.
const COMMAND_BYTES: usize = 128;

/// A command: its number, and fields one after the other.
struct Command(Vec<u8>);

impl Command {
    fn new(number: u32) -> Command {
        Command(number.to_le_bytes().to_vec())
    }

    fn file(mut self, name: &str) -> Command {
        let end = self.0.len() + 56;
        self.0.extend(name.as_bytes());
        self.0.resize(end, 0);
        self
    }

    fn number(mut self, number: u64) -> Command {
        self.0.extend((number as u32).to_le_bytes());
        self
    }

    fn byte(mut self, byte: u8) -> Command {
        self.0.push(byte);
        self
    }

    fn end(mut self, script: &mut Vec<u8>) {
        self.0.resize(COMMAND_BYTES, 0);
        script.extend(self.0);
    }
}

/// The tables with addresses that count from their files' beginnings, and the script that makes them true.
pub(crate) fn for_firmware(platform: Platform) -> ForFirmware {
    const HIGH: u8 = 1;
    const BELOW_1_MIB: u8 = 2;
    let Tables { base: _, mut bytes, dsdt, fadt, madt, xsdt } = Tables::build(0, platform);
    let mut script = Vec::new();
    // Allocate: file, alignment, zone.
    Command::new(1).file(ROOT_FILE).number(16).byte(BELOW_1_MIB).end(&mut script);
    Command::new(1).file(TABLES_FILE).number(64).byte(HIGH).end(&mut script);
    let mut pointer = |file, offset, bytes| {
        // Add a pointer: where it is, what it points to, offset, size.
        Command::new(2).file(file).file(TABLES_FILE).number(offset).byte(bytes).end(&mut script);
    };
    pointer(TABLES_FILE, fadt + 36, 4);
    pointer(TABLES_FILE, fadt + 40, 4);
    pointer(TABLES_FILE, xsdt + 36, 8);
    pointer(TABLES_FILE, xsdt + 44, 8);
    pointer(ROOT_FILE, 24, 8);
    let mut sum = |file, offset, start, length| {
        // Add a checksum: file, where it is, of what.
        Command::new(3).file(file).number(offset).number(start).number(length).end(&mut script);
    };
    for table in [dsdt, fadt, madt, xsdt] {
        let at = table as usize + 4;
        let length = u32::from_le_bytes(std::array::from_fn(|n| bytes[at + n]));
        sum(TABLES_FILE, table + 9, table, length.into());
    }
    sum(ROOT_FILE, 8, 0, 20);
    sum(ROOT_FILE, 32, 0, 36);
    let root = bytes[..Rsdp::len()].to_vec();
    bytes[..Rsdp::len()].fill(0);
    ForFirmware { root, tables: bytes, script }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(facs: u64, dsdt: u64, display: bool) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // No SMI command port: the hardware is in ACPI mode from the start (PM1_CNT.SCI_EN reads 1).
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    // Beyond these latencies a power state does not exist: C2 above 100 us, C3 above 1000 us.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (BOOT_ARCH | if display { 0 } else { BOOT_ARCH_NO_VGA }).into();
    let reset = u64::from(RESET_PORT);
    fadt.reset_reg = GAS::new(GasSpace::SystemIo, 8, 0, AccessSize::ByteAccess, reset);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

/// The interrupt controllers: those of the processors, one I/O APIC with GSI 0 to 23, the 8259 pair, and how
/// ISA interrupts reach the I/O APIC.
fn madt(processors: u8, io_apic_id: u8) -> Sdt {
    const PCAT_COMPAT: u32 = 1;
    let mut madt = Sdt::new(*b"APIC", 36, 4, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let mut append = |bytes: &[u8]| madt.append_slice(bytes);
    append(&(LOCAL_APIC as u32).to_le_bytes());
    append(&PCAT_COMPAT.to_le_bytes());
    // Processor local APICs: ACPI uid, APIC id, enabled.
    for processor in 0..processors {
        append(&[0, 8, processor, processor, 1, 0, 0, 0]);
    }
    // I/O APIC, GSI base 0.
    append(&[1, 12, io_apic_id, 0]);
    append(&(IO_APIC as u32).to_le_bytes());
    append(&0u32.to_le_bytes());
    // Interrupt source overrides of bus 0 (ISA): the timer is on pin 2; the SCI and the PCI lines are
    // level-triggered, active high as the rest of the ISA bus.
    const CONFORMING: u16 = 0;
    const LEVEL_ACTIVE_HIGH: u16 = 3 << 2 | 1;
    for (irq, gsi, flags) in [
        (0u8, 2u32, CONFORMING),
        (SCI_IRQ, u32::from(SCI_IRQ), LEVEL_ACTIVE_HIGH),
        (10, 10, LEVEL_ACTIVE_HIGH),
        (11, 11, LEVEL_ACTIVE_HIGH),
    ] {
        append(&[2, 10, 0, irq]);
        append(&gsi.to_le_bytes());
        append(&flags.to_le_bytes());
    }
    // NMI on LINT1 of every processor.
    append(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

/// `\_S5`, and `\_SB.PCI0` with the ISA devices that cannot be found by asking.
fn dsdt(platform: Platform) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let s5 = SLEEP_TYPE_S5;
    Name::new(Path::new("_S5_"), &Package::new(vec![&s5, &s5, &aml::ZERO, &aml::ZERO]))
        .to_aml_bytes(&mut dsdt);

    Scope::new(Path::new("_SB_"), vec![&PciRoot(platform)]).to_aml_bytes(&mut dsdt);
    dsdt.update_checksum();
    dsdt
}

/// The PCI host bridge and the ISA devices behind it.
struct PciRoot(Platform);

impl Aml for PciRoot {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let firmware = self.0.firmware;
        let routes: Vec<Route> =
            (1..32).flat_map(|slot| (0..4).map(move |pin| Route { slot, pin, firmware })).collect();
        let routes = Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
        let isa = |name, id, ports, irq| IsaDevice { name, id, uid: None, ports, irq };
        let others = COM_PORTS.iter().zip(self.0.serial_ports).filter(|(_, exists)| *exists);
        let others: Vec<&IsaDevice> = others.map(|(device, _)| device).collect();
        let (id, address) = (
            Name::new(Path::new("_HID"), &EISAName::new("PNP0A03")),
            Name::new(Path::new("_ADR"), &aml::ZERO),
        );
        let (uid, windows, routes) = (
            Name::new(Path::new("_UID"), &aml::ZERO),
            Name::new(Path::new("_CRS"), &PciWindows(self.0)),
            Name::new(Path::new("_PRT"), &routes),
        );
        let devices = [
            isa("COM1", "PNP0501", &[(0x3f8, 8)], 4),
            isa("PS2K", "PNP0303", &[(0x60, 1), (0x64, 1)], 1),
            isa("PS2M", "PNP0F13", &[], 12),
            isa("RTC_", "PNP0B00", &[(0x70, 2)], 8),
        ];
        let mut children: Vec<&dyn Aml> = vec![&id, &address, &uid, &windows, &routes];
        children.extend(devices.iter().chain(others).map(|device| device as &dyn Aml));
        Device::new(Path::new("PCI0"), children).to_aml_bytes(sink);
    }
}

/// What the host bridge passes on: bus numbers, ports and memory.
struct PciWindows(Platform);

impl Aml for PciWindows {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (first, last) = self.0.pci_memory();
        ResourceTemplate::new(vec![
            &AddressSpace::<u16>::new_bus_number(0, 0xff),
            &IO::new(0xcf8, 0xcf8, 1, 8),
            &AddressSpace::<u16>::new_io(0, 0xcf7, None),
            &AddressSpace::<u16>::new_io(0xd00, 0xffff, None),
            &AddressSpace::<u32>::new_memory(
                AddressSpaceCacheable::Cacheable,
                true,
                VGA_WINDOW.start as u32,
                VGA_WINDOW.end as u32 - 1,
                None,
            ),
            &AddressSpace::<u32>::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                first,
                last,
                None,
            ),
        ])
        .to_aml_bytes(sink);
    }
}

/// The lines that PCI's interrupts come by.
pub(crate) const PCI_GSIS: [u8; 2] = [10, 11];

/// The line that an interrupt pin (0 for INTA#) of a device comes by.
pub(crate) fn gsi(device: u32, pin: u8) -> u8 {
    PCI_GSIS[(device as usize + usize::from(pin)) % 2]
}

/// As [`gsi`] where SeaBIOS steered the chipset's four lines (its `pci_irqs`).
fn firmware_gsi(device: u32, pin: u8) -> u8 {
    [10, 10, 11, 11][(device as usize + 3 + usize::from(pin)) % 4]
}

/// One entry of `_PRT`: the GSI of an interrupt pin. The slots take turns on the two PCI lines.
struct Route {
    slot: u32,
    pin: u8,
    firmware: bool,
}

impl Aml for Route {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let address = self.slot << 16 | 0xffff;
        let gsi = if self.firmware {
            firmware_gsi(self.slot, self.pin)
        } else {
            gsi(self.slot, self.pin)
        };
        Package::new(vec![&address, &self.pin, &aml::ZERO, &gsi]).to_aml_bytes(sink);
    }
}

/// The serial ports beyond the first.
const COM_PORTS: [IsaDevice; 3] = [
    IsaDevice { name: "COM2", id: "PNP0501", uid: Some(2), ports: &[(0x2f8, 8)], irq: 3 },
    IsaDevice { name: "COM3", id: "PNP0501", uid: Some(3), ports: &[(0x3e8, 8)], irq: 4 },
    IsaDevice { name: "COM4", id: "PNP0501", uid: Some(4), ports: &[(0x2e8, 8)], irq: 3 },
];

/// A device on the ISA bus: its ports and its edge-triggered interrupt.
struct IsaDevice {
    name: &'static str,
    id: &'static str,
    /// What tells it from others of its kind.
    uid: Option<u8>,
    ports: &'static [(u16, u8)],
    irq: u32,
}

impl Aml for IsaDevice {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let ports: Vec<IO> =
            self.ports.iter().map(|&(port, count)| IO::new(port, port, 1, count)).collect();
        let interrupt = Interrupt::new(true, true, false, false, self.irq);
        let mut resources: Vec<&dyn Aml> = ports.iter().map(|ports| ports as &dyn Aml).collect();
        resources.push(&interrupt);
        let id = Name::new(Path::new("_HID"), &EISAName::new(self.id));
        let uid = self.uid.map(|uid| Name::new(Path::new("_UID"), &uid));
        let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
        let mut children: Vec<&dyn Aml> = vec![&id];
        children.extend(uid.iter().map(|uid| uid as &dyn Aml));
        children.push(&resources);
        Device::new(Path::new(self.name), children).to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_memory::RamLayout;

    fn platform() -> Platform {
        Platform::of(&MachineConfig::new(RamLayout::new(4 << 20).unwrap()))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn read(ram: &GuestRam, gpa: u64, bytes: usize) -> Vec<u8> {
        let mut buffer = vec![0; bytes];
        ram.read(Gpa(gpa), &mut buffer).unwrap();
        buffer
    }

    fn table(ram: &GuestRam, gpa: u64) -> Vec<u8> {
        let length = u32_at(&read(ram, gpa, 8), 4);
        read(ram, gpa, length as usize)
    }

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[test]
    fn every_table_is_found_from_the_root_and_sums_to_zero() {
        let mut ram = GuestRam::new(RamLayout::new(4 << 20).unwrap()).unwrap();
        write_tables(&mut ram, platform());
        let root = read(&ram, 0xe_0000, 36);
        assert_eq!(&root[..8], b"RSD PTR ");
        assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));

        let xsdt = table(&ram, u64_at(&root, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
        let mut found = Vec::new();
        for at in (36..xsdt.len()).step_by(8) {
            let table = table(&ram, u64_at(&xsdt, at));
            assert_eq!(sum(&table), 0, "{:?}", &table[..4]);
            found.push(table);
        }
        let [fadt, madt] = &found[..] else { panic!("{} tables", found.len()) };

        assert_eq!(&fadt[..4], b"FACP");
        assert_eq!(u32_at(fadt, 36) % 64, 0, "the FACS is aligned");
        assert_eq!(&read(&ram, u32_at(fadt, 36).into(), 4), b"FACS");
        let dsdt = table(&ram, u32_at(fadt, 40).into());
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        assert_eq!([fadt[46], fadt[47]], [9, 0], "SCI_INT");
        assert_eq!([56, 64, 76].map(|at| u32_at(fadt, at)), [0x600, 0x604, 0x608]);
        assert_eq!((fadt[128], u64_at(fadt, 120)), (6, 0xcf9), "reset register");

        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(u32_at(madt, 36), 0xfee0_0000);
        let mut at = 44;
        let mut kinds = Vec::new();
        while at < madt.len() {
            kinds.push(madt[at]);
            assert!(madt[at + 1] > 1, "a structure has a length");
            at += usize::from(madt[at + 1]);
        }
        assert_eq!((at, kinds), (madt.len(), vec![0, 1, 2, 2, 2, 2, 4]));
    }

    /// What recordings with kernels outside rebuild must not change.
    #[test]
    fn a_serial_port_that_does_not_exist_is_not_declared() {
        let plain = dsdt(platform());
        let with = |serial_ports| dsdt(Platform { serial_ports, ..platform() });
        let named = |table: &Sdt, name: &[u8]| {
            table.as_slice().windows(name.len()).filter(|window| *window == name).count()
        };
        for (n, name) in [b"COM2", b"COM3", b"COM4"].into_iter().enumerate() {
            assert_eq!(named(&plain, name), 0);
            let mut ports = [false; 3];
            ports[n] = true;
            let table = with(ports);
            assert_eq!((named(&table, name), named(&table, b"COM")), (1, 2));
            // DefName _UID, a byte.
            assert_eq!(named(&table, &[b"_UID\x0a", &[n as u8 + 2][..]].concat()), 1);
            assert_eq!(sum(table.as_slice()), 0);
        }
    }

    #[test]
    fn the_dsdt_declares_power_off() {
        let dsdt = dsdt(platform());
        // DefName, NameSeg "_S5_", DefPackage: length 10, four elements, two byte constants, two zeros.
        let s5 = [0x08, b'_', b'S', b'5', b'_', 0x12, 8, 4, 0x0a, 5, 0x0a, 5, 0, 0];
        assert!(
            dsdt.as_slice().windows(s5.len()).any(|window| window == s5),
            "{:x?}",
            &dsdt.as_slice()[36..60]
        );
    }
}
