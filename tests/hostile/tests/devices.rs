//! Each device against scripts from seeds: what fuzzers do with more time.

use dejavm_hostile::devices::ALL;
use std::collections::BTreeSet;
use std::path::Path;

/// Runs the scripts of `count` seeds; something must be seen of the device.
fn scripts(name: &str, count: u64) {
    let device = ALL.iter().find(|device| device.name == name).expect("a device of that name");
    let mut seen = 0;
    for seed in 0..count {
        let script = (device.random_script)(seed);
        eprintln!("seed {seed}");
        seen += (device.run)(&script);
    }
    assert!(seen as u64 > count * 100, "{seen}");
}

macro_rules! devices {
    ($($device:ident, $count:expr;)*) => {
        $(
            #[test]
            fn $device() {
                scripts(stringify!($device), $count);
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($device)),*];
    };
}

devices! {
    acpi_pm, 500;
    e1000, 500;
    fw_cfg, 500;
    i8042, 500;
    ide, 500;
    ioapic, 500;
    lapic, 500;
    pci_host, 500;
    pic, 500;
    pit, 500;
    rtc, 500;
    system_control, 500;
    uart, 500;
    vga, 20;
    virtio_block, 500;
    virtio_console, 500;
    virtio_net, 500;
    virtio_rng, 500;
}

/// A new device has a test here and a fuzz target.
#[test]
fn no_device_is_left_out() {
    let all: BTreeSet<String> = ALL.iter().map(|device| device.name.to_owned()).collect();
    assert_eq!(all, TESTED.iter().map(|name| (*name).to_owned()).collect());
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let targets = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
    let targets = targets.filter_map(|file| {
        let name = file.unwrap().file_name().into_string().unwrap();
        Some(name.strip_prefix("device_")?.strip_suffix(".rs")?.to_owned())
    });
    assert_eq!(all, targets.collect());
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in all {
        assert!(manifest.contains(&format!("name = \"device_{name}\"")), "{name}");
    }
}
