//! Each device against scripts from seeds: what fuzzers do with more time.

use dejavm_hostile::devices::{self, Device, random_script};

/// Runs the scripts of `count` seeds; something must be seen of the device.
fn scripts<D: Device>(count: u64) {
    let mut seen = 0;
    for seed in 0..count {
        let script = random_script::<D>(seed);
        eprintln!("seed {seed}");
        seen += devices::run::<D>(&script);
    }
    assert!(seen as u64 > count * 100, "{seen}");
}

macro_rules! devices {
    ($($test:ident: $device:ident, $count:expr;)*) => {
        $(
            #[test]
            fn $test() {
                scripts::<devices::$device>($count);
            }
        )*
    };
}

devices! {
    virtio_block: VirtioBlock, 500;
    virtio_net: VirtioNet, 500;
    virtio_rng: VirtioRng, 500;
    ide: IdeFunction, 500;
    e1000: E1000Card, 500;
    vga: VgaCard, 20;
    i8042: Keyboard, 500;
    uart: SerialPort, 500;
    pit: Timer, 500;
    rtc: RealTimeClock, 500;
    pic: Pics, 500;
    lapic: LocalApic, 500;
    ioapic: IoApicChip, 500;
    acpi_pm: AcpiBlock, 500;
    system_control: SystemPorts, 500;
    pci_host: PciBridges, 500;
    fw_cfg: FirmwareConfig, 500;
}
