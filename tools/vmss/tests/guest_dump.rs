//! A `debug.guest` that crash reads, read the same way: its reader is by VMware, and prints what it found before it complains
//! about the kernel.

use std::fs;
use std::process::{Command, Stdio};
use vmss::{GuestDump, Region};

/// Version 4, as crash 8.0.2 wants it: two processors, 512 KiB below a hole of 256 KiB and 256 KiB above.
fn dump() -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(4u32.to_le_bytes());
    out.extend(2u32.to_le_bytes());
    // Two magic numbers that crash knew then, with others between them.
    out.push(1);
    out.resize(8 + 14, 0);
    for long in [0x10_0000 - 1, 0xc0u64] {
        out.extend(long.to_le_bytes());
    }
    for word in [0, 1u32] {
        out.extend(word.to_le_bytes());
    }
    for long in [0x80, 0x40, 0, 0u64] {
        out.extend(long.to_le_bytes());
    }
    for n in 0..2u64 {
        out.extend(0x8005_0033u32.to_le_bytes());
        let control = [0xdead_0000 + n, 0x1_2345_6000 + n, 0x6f0];
        for long in control.into_iter().chain([0; 10]).chain([0xffff_fe00_0000_0000 + n]) {
            out.extend(long.to_le_bytes());
        }
        out.resize(out.len() + 42, 0);
        (0..21).for_each(|at| out.extend((0xffff_8000_0000_0000 + 0x100 * n + at).to_le_bytes()));
        out.resize(out.len() + 65, 0);
    }
    // The processors' pages, where crash's code leaves them.
    out.resize(out.len() + 2 * 4096, 0);
    out
}

#[test]
fn crash_finds_the_same_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("debug.guest");
    fs::write(&path, dump()).unwrap();
    fs::write(folder.path().join("debug.vmem"), vec![7; 0xc0 << 12]).unwrap();
    let (dump, memory, _) = GuestDump::open(&path, None).unwrap();
    let region = |first_page, page_in_file, pages| Region { first_page, page_in_file, pages };
    assert_eq!(memory.regions(), [region(0, 0, 0x80), region(0xc0, 0x80, 0x40)]);

    let ran = Command::new("crash")
        .args(["-d1", "/bin/true", "debug.guest"])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("crash is installed: `tools/install-deps.sh test`");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (_, found) = said.split_once("num_vcpus=2").unwrap_or_else(|| panic!("{said}"));
    let words: Vec<&str> = found.split_whitespace().collect();
    for region in memory.regions() {
        let range = format!("[{:#018x}-{:#018x}]", region.start(), region.end());
        assert!(words.contains(&range.as_str()), "{range}: {found}");
    }
    let cpus: Vec<&str> = found.split("CPU ").skip(1).collect();
    assert_eq!(cpus.len(), 2, "{found}");
    for (vcpu, said) in dump.vcpus.iter().zip(cpus) {
        let names = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split(' ');
        let rest = [
            ("RIP", vcpu.rip),
            ("CR0", vcpu.cr[0]),
            ("CR2", vcpu.cr[2]),
            ("CR3", vcpu.cr[3]),
            ("CR4", vcpu.cr[4]),
            ("base", vcpu.idtr.base),
        ];
        for (name, value) in names.zip(vcpu.gpr).chain(rest) {
            let shown = format!(" {name}: {value:016x}");
            assert!(said.contains(&shown), "{shown}: {said}");
        }
    }
}

#[test]
fn memory_must_be_of_just_the_right_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("debug.guest");
    fs::write(&path, dump()).unwrap();
    for bytes in [0, (0xc0 << 12) - 1, (0xc0 << 12) + 1] {
        fs::write(folder.path().join("debug.vmem"), vec![7; bytes]).unwrap();
        let said = GuestDump::open(&path, None).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("debug.vmem cannot be its guest memory"), "{said}");
    }
}
