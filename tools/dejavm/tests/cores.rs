//! Cores that `vmss2core` makes of our checkpoints, opened by the real gdb.

mod program;

use program::gdb::on_core;
use program::{Folder, dejavm};
use std::path::Path;
use vmss::Checkpoint;
use vmss2core::{Kind, LinuxOptions};

/// A guest in protected mode: registers, an address that is executed, and a physical one.
#[test]
fn gdb_opens_cores_of_both_views() {
    let folder = Folder::new("cores_gdb");
    let (kernel, file) = (folder.guest("hello"), folder.path("whole.dvr"));
    let line = "record --kernel {} -m 16 -o {} --idle skip --json --console {}";
    let whole = dejavm(line, &[&kernel, &file, &folder.path("console")]).ok().json();
    let at = (whole["position"].as_u64().unwrap() - 10).to_string();
    let state = folder.path("now.vmss");
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &state]).ok();
    let (checkpoint, memory, _) = Checkpoint::open(Path::new(&state), None).unwrap();
    let vcpu = checkpoint.vcpus().unwrap().remove(0);
    let output = folder.0.join("vmss.core");
    let convert = |kind| vmss2core::convert(&kind, Path::new(&state), None, &output).unwrap();

    let linear = convert(Kind::Linear(None));
    assert_eq!(linear, [folder.0.join("vmss.core0")]);
    let said = on_core(&linear[0], &["print/x $eip", "print/x $esp", "x/1xb $eip", "info threads"]);
    assert!(said.contains("GuestVM"), "{said}");
    for register in [vcpu.rip, vcpu.gpr[4]] {
        assert!(said.contains(&format!("= {register:#x}\n")), "{register:#x}: {said}");
    }
    assert!(said.contains(&format!("{:#x}:\t0x", vcpu.rip)), "{said}");

    let physical = convert(Kind::Physical);
    let mut word = [0; 4];
    memory.read(vcpu.gdtr.base, &mut word).unwrap();
    let said = on_core(&physical[0], &[&format!("x/1xw {:#x}", vcpu.gdtr.base)]);
    assert!(said.contains(&format!("{:#010x}", u32::from_le_bytes(word))), "{said}");

    let refused =
        vmss2core::convert(&Kind::Linux(LinuxOptions::default()), Path::new(&state), None, &output)
            .unwrap_err();
    assert!(refused.to_string().contains("no Linux kernel was found"), "{refused}");
    let refused =
        vmss2core::convert(&Kind::Linear(Some(1)), Path::new(&state), None, &output).unwrap_err();
    assert!(refused.to_string().contains("it has 1 processors"), "{refused}");
    let left: Vec<_> =
        std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{left:?}");
}
