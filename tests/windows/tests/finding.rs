//! A Windows is found however its processors stand, and its debugger data block wherever it is.

use dejavm_windows_guest::dump::{Dump, dump, of, usual};
use dejavm_windows_guest::{Memory, Options, System, Windows};
use std::io::Read;
use vmss2core::{Guest, Kind, LinuxOptions, WindowsOptions, convert, is_windows};

/// What every dump must say, wherever it was found.
#[track_caller]
fn check(dump: &Dump) {
    let guest = &dump.guest;
    let (block, plain) = &guest.debugger_data;
    let (modules, data) = match guest.system.is_64() {
        true => (dump.long(0x20), dump.long(0x80)),
        false => (u64::from(dump.word(0x18)), u64::from(dump.word(0x60))),
    };
    assert_eq!((modules, data), (guest.modules, *block));
    assert_eq!(dump.linear(*block, plain.len()), *plain, "plain in the dump");
    assert_eq!(dump.linear(guest.flag, 1), [0], "KdpDataBlockEncoded");
}

#[test]
fn all_systems_are_found() {
    for system in System::ALL {
        for processors in [1, 2, 5] {
            let options = Options { processors, ..Options::new(system) };
            check(&usual(&options));
        }
    }
}

#[test]
fn windows_is_recognised_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    for system in System::ALL {
        let mut guest = Windows::new(&Options::new(system));
        let path = guest.write(folder.path()).unwrap();
        assert!(is_windows(&Guest::open(&path, None).unwrap()), "{system:?}");
        // The same processors with another system's memory.
        guest.memory = Memory::default();
        let path = guest.write(folder.path()).unwrap();
        assert!(!is_windows(&Guest::open(&path, None).unwrap()));
        let Err(error) = of(guest, &WindowsOptions::default()) else { panic!("none is there") };
        assert!(error.to_string().contains("lead to KUSER_SHARED_DATA; -M makes"), "{error}");
    }
}

/// `--auto` makes a crash dump of a Windows.
#[test]
fn windows_is_what_auto_makes() {
    let folder = tempfile::tempdir().unwrap();
    let path = Windows::new(&Options::new(System::Ten64)).write(folder.path()).unwrap();
    let made = folder.path().join("made");
    let kind = Kind::Auto(LinuxOptions::default(), WindowsOptions::default());
    convert(&kind, &path, None, &made).unwrap();
    let mut begin = [0; 8];
    std::fs::File::open(made).unwrap().read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"PAGEDU64");
}

/// In users' code with page tables that lack the kernel: by KernelGSBase, by the page where processors start, by page
/// tables that refer to themselves.
#[test]
fn the_kernel_is_found_behind_a_shadow() {
    let usually = Options { shadow: true, ..Options::new(System::Ten64) };
    let unknown = Options { knows_kernel_gs: false, ..usually.clone() };
    let without_stub = Options { low_stub: false, ..unknown.clone() };
    for options in [&usually, &unknown, &without_stub] {
        let dump = usual(options);
        check(&dump);
        assert_eq!(dump.long(0x10), dump.guest.space.root, "the kernel's page tables: {options:?}");
    }
    let lost = Options { self_reference: false, ..without_stub };
    assert!(dump(&lost, &WindowsOptions::default()).is_err());
}

#[test]
fn the_kernel_is_found_without_descriptor_tables() {
    for system in System::ALL {
        let mut guest = Windows::new(&Options::new(system));
        for vcpu in &mut guest.vcpus {
            vcpu.idtr.base = if system.is_64() { 0xffff_8000_0000_0000 } else { 0 };
        }
        check(&of(guest, &WindowsOptions::default()).unwrap());
    }
}

/// Nothing leads into the kernel but what its debugger data block says.
#[test]
fn the_kernel_is_found_by_its_debugger_data() {
    for data_in_pool in [false, true] {
        let system = System::Seven64;
        let options = Options { low_stub: false, data_in_pool, ..Options::new(system) };
        let mut guest = Windows::new(&options);
        for vcpu in &mut guest.vcpus {
            (vcpu.idtr.base, vcpu.rip) = (0, 0x7ff7_1234_0000);
        }
        let kpcr = system.layout().kpcr;
        for n in 0..2 {
            let table = guest.space.physical(kpcr.0 + n * kpcr.1 + 0x38);
            guest.memory.put(table, &[0; 8]);
        }
        check(&of(guest, &WindowsOptions::default()).unwrap());
    }
}

#[test]
fn the_debugger_data_block_is_found_anywhere() {
    for system in System::ALL {
        let searched = Options { kpcr_version: false, ..Options::new(system) };
        check(&usual(&searched));
        let without_version = Options { version_block: false, ..searched.clone() };
        check(&usual(&without_version));
        let in_pool = Options { data_in_pool: true, keys: None, ..without_version.clone() };
        for scan_all in [false, true] {
            let windows = WindowsOptions { scan_all, ..WindowsOptions::default() };
            check(&dump(&in_pool, &windows).unwrap());
        }
        let gone = Options { data_block: false, ..searched };
        let Err(error) = dump(&gone, &WindowsOptions::default()) else { panic!("none is there") };
        assert!(error.to_string().contains("no plain one anywhere in memory; -WDDB"), "{error}");
    }
}

#[test]
fn a_given_debugger_data_block_is_taken() {
    for system in System::ALL {
        // Nothing leads to it there, if it is encoded.
        let options = Options { data_in_pool: true, version_block: false, ..Options::new(system) };
        let guest = Windows::new(&options);
        let at = guest.debugger_data.0;
        let given = |at: u64| {
            let debugger_data = Some(address(at));
            WindowsOptions { debugger_data, ..WindowsOptions::default() }
        };
        check(&of(guest.clone(), &given(at)).unwrap());
        let found = of(guest.clone(), &WindowsOptions::default());
        assert_eq!(found.is_ok(), options.keys.is_none(), "{system:?}");
        let Err(error) = of(guest, &given(at + 8)) else { panic!("none is there") };
        assert!(error.to_string().contains("neither plain nor encoded"), "{error}");
    }
}

/// As the command line has it.
fn address(at: u64) -> vmss2core::Gva {
    vmss2core::Gva(at)
}

#[test]
fn any_keys_will_do() {
    use dejavm_windows_guest::Keys;
    for (n, seed) in (0..16u64).zip([1, 2, 3, 4].into_iter().cycle()) {
        let low = n * 5 % 64;
        let keys = Keys {
            never: 0x7a61_f00d_1234_5600u64.rotate_left(n as u32) & !63 | low,
            always: 0x1357_9bdf_0246_8ace_u64.wrapping_mul(n * 2 + 1),
        };
        let options = Options { keys: Some(keys), seed, ..Options::new(System::Ten64) };
        check(&usual(&options));
    }
}
