//! The real LLDB on a Mach-O core. A slow judge, for LLDB is 100 MB to fetch (`make judges`).

mod mac_guest;

use mac_guest::{SLIDE, TEXT, registers};
use std::process::Command;
use vmss2core::{Kind, MacOptions};

#[test]
fn lldb_shows_registers_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (state, kernel) = mac_guest::write(folder.path());
    let output = folder.path().join("vmss.core");
    let kind = Kind::MacOs(MacOptions { is_64: true, kernel });
    vmss2core::convert(&kind, &state, None, &output).unwrap();
    let newest = std::fs::read_dir("/usr/bin").unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().ok()?;
        let number: u32 = name.strip_prefix("lldb-")?.parse().ok()?;
        Some((number, name))
    });
    let (_, lldb) = newest.max().expect("`tools/install-deps.sh judges` installs LLDB");
    let said = Command::new(lldb)
        .args(["-x", "-b", "-c"])
        .arg(&output)
        .args(["-o", "register read rip rax r15", "-o"])
        .arg(format!("memory read -f x -s 4 -c 1 {:#x}", TEXT + SLIDE))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let vcpu = registers();
    for wanted in [vcpu.rip, vcpu.gpr[0], vcpu.gpr[15]].map(|value| format!("= {value:#018x}")) {
        assert!(said.contains(&wanted), "{wanted}: {said}");
    }
    assert!(said.contains(": 0xfeedfacf"), "{said}");
}
