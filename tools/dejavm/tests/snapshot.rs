//! Checkpoints: what `dejavm snapshot` writes, read by others and gone on from.

mod program;

use program::{Folder, dejavm};
use std::path::Path;
use std::process::{Command, Stdio};
use vmss::Checkpoint;

/// A recording of a guest of our own, and its result.
fn recorded(folder: &Folder, guest: &str) -> (String, serde_json::Value) {
    let (kernel, file) = (folder.guest(guest), folder.path("whole.dvr"));
    let ran = dejavm(
        "record --kernel {} -m 16 -o {} --idle skip --json --console {}",
        &[&kernel, &file, &folder.path("console")],
    );
    (file, ran.ok().json())
}

/// A machine that goes on from a checkpoint ends as the recorded one did.
#[test]
fn a_machine_goes_on_from_a_checkpoint() {
    for (guest, name, how) in [
        ("paging", "apart.vmss", ""),
        ("paging", "within.vmsn", "--embed"),
        ("timer", "timer.vmss", ""),
        ("paging", "packed.vmss", "--compress"),
        ("timer", "packed.vmsn.zst", "--compress --embed"),
    ] {
        let folder = Folder::new(&format!("snapshot_{name}"));
        let (file, whole) = recorded(&folder, guest);
        let at = (whole["position"].as_u64().unwrap() / 2).to_string();
        let line = format!("snapshot {{}} --at {{}} -o {{}} --json {how}");
        let written = dejavm(&line, &[&file, &at, &folder.path(name)]).ok().json();
        assert_eq!(written["memory"].is_null(), how.ends_with("--embed"));
        let checkpoint = folder.path(written["state"].as_str().unwrap());
        assert_eq!(checkpoint.ends_with(".zst"), how.starts_with("--compress"));
        let again = folder.path("again.dvr");
        let arguments = "record --from {} -o {} --idle skip --json --console {}";
        let gone_on = dejavm(arguments, &[&checkpoint, &again, &folder.path("said")]).ok().json();
        for field in ["position", "guest_ns", "ending", "machine_hash"] {
            assert_eq!(gone_on[field], whole[field], "{guest}, {name}: {field}");
        }
        let console = |name| std::fs::read_to_string(folder.path(name)).unwrap();
        assert!(console("console").ends_with(&console("said")), "{guest}");
        dejavm("verify {}", &[&again]).ok();
        let end = whole["position"].to_string();
        let memory = [&file, &again].map(|recording| {
            let last = folder.path("last.vmss");
            dejavm("snapshot {} --at {} -o {} --force", &[recording, &end, &last]).ok();
            std::fs::read(folder.path("last.vmem")).unwrap()
        });
        assert!(memory[0] == memory[1], "{guest}, {name}: memory differs at the end");
    }
}

/// The instruction at EIP, without paging, is one of the guest's file.
#[test]
fn a_checkpoint_holds_the_machine() {
    let folder = Folder::new("snapshot_holds");
    let (file, whole) = recorded(&folder, "hello");
    let at = (whole["position"].as_u64().unwrap() / 2).to_string();
    let checkpoint = folder.path("now.vmss");
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &checkpoint]).ok();
    let (opened, memory, paths) = Checkpoint::open(Path::new(&checkpoint), None).unwrap();
    assert_eq!(paths.memory, Some(folder.path("now.vmem").into()));
    assert_eq!(memory.bytes(), 16 << 20);
    let vcpu = &opened.vcpus().unwrap()[0];
    assert!(!vcpu.is_long_mode());
    let mut code = [0; 16];
    memory.read(vcpu.rip, &mut code).unwrap();
    let guest = std::fs::read(folder.path("hello.elf")).unwrap();
    assert!(guest.windows(16).any(|bytes| bytes == code), "{:#x}: {code:x?}", vcpu.rip);
}

/// crash knows the format from VMware. It parses every tag before it complains about the kernel.
#[test]
fn crash_parses_it() {
    let folder = Folder::new("snapshot_crash");
    let (file, whole) = recorded(&folder, "paging");
    let at = (whole["position"].as_u64().unwrap() / 2).to_string();
    let checkpoint = folder.path("now.vmss");
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &checkpoint]).ok();
    let ran = Command::new("crash")
        .args(["-d1", "/bin/true", &checkpoint])
        .stdin(Stdio::null())
        .output()
        .expect("crash is installed: `tools/install-deps.sh test`");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (opened, _, _) = Checkpoint::open(Path::new(&checkpoint), None).unwrap();
    let vcpu = &opened.vcpus().unwrap()[0];
    for wanted in [
        "cpu:numVCPUs",
        "regionsCount",
        "regionSize",
        "IDTR",
        "S.base64",
        &format!("{:X}", vcpu.rip),
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

/// What is compressed is what would have been written: the real zstd unpacks it, and cores of both are the same.
#[test]
fn zstd_unpacks_what_is_compressed() {
    let folder = Folder::new("snapshot_zstd");
    let (file, whole) = recorded(&folder, "paging");
    let at = (whole["position"].as_u64().unwrap() / 2).to_string();
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &folder.path("plain.vmss")]).ok();
    let packed = folder.path("packed.vmss");
    dejavm("snapshot {} --at {} -o {} --compress", &[&file, &at, &packed]).ok();
    let core = |name: &str| {
        let state = folder.path(name);
        let output = folder.0.join("core");
        let made = vmss2core::convert(&vmss2core::Kind::Physical, Path::new(&state), None, &output);
        std::fs::read(&made.unwrap()[0]).unwrap()
    };
    assert!(core("plain.vmss") == core("packed.vmss.zst"));
    for part in ["vmss", "vmem"] {
        let path = folder.path(&format!("packed.{part}.zst"));
        let ran = Command::new("zstd").args(["-d", "-q", &path]).output();
        let ran = ran.expect("zstd is installed: `tools/install-deps.sh test`");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let [plain, unpacked] = ["plain", "packed"]
            .map(|name| std::fs::read(folder.path(&format!("{name}.{part}"))).unwrap());
        assert!(plain == unpacked, "{part}");
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < 1 << 20, "{part}: {size} bytes");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let folder = Folder::new("snapshot_refused");
    let (file, whole) = recorded(&folder, "timer");
    let checkpoint = folder.path("now.vmss");
    let end = (whole["position"].as_u64().unwrap() + 1).to_string();
    let refused = dejavm("snapshot {} --at {} -o {}", &[&file, &end, &checkpoint]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.sentence().contains("it replays from 0 to"), "{}", refused.sentence());
    let refused = dejavm("snapshot {} --at 5 -o {}", &[&file, &folder.path("now.img")]);
    assert_eq!(refused.code, 2);
    assert!(refused.sentence().contains("ends in .vmss or .vmsn"), "{}", refused.sentence());
    dejavm("snapshot {} --at 5 -o {}", &[&file, &checkpoint]).ok();
    let refused = dejavm("snapshot {} --at 6 -o {}", &[&file, &checkpoint]);
    assert_eq!(refused.code, 1);
    assert!(refused.sentence().contains("the file exists"), "{}", refused.sentence());
    let memory = std::fs::File::options().write(true).open(folder.path("now.vmem")).unwrap();
    memory.set_len((16 << 20) - 1).unwrap();
    let refused = dejavm("record --from {} -o {}", &[&checkpoint, &folder.path("x.dvr")]);
    let said = refused.sentence();
    assert!(said.contains("now.vmem: its last 0x1 bytes are missing"), "{said}");
    std::fs::remove_file(folder.path("now.vmem")).unwrap();
    let refused = dejavm("record --from {} -o {}", &[&checkpoint, &folder.path("x.dvr")]);
    assert_eq!(refused.code, 1);
    assert!(refused.sentence().contains("now.vmem"), "{}", refused.sentence());
    let names: Vec<_> =
        std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{names:?}");
}
