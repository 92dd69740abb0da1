//! The real crash, with Debian's `-dbg` vmlinux, on a guest that panicked, with address-space randomization on: on the
//! checkpoint itself and on the core that `vmss2core -N` makes of it. A slow judge: its vmlinux is 631 MB (`make judges`).

mod program;

use program::debian::fetched;
use program::{Folder, command, dejavm, wait};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use vmss2core::{Kind, LinuxOptions};

fn crash(vmlinux: &str, dump: &str) -> String {
    let mut crash = Command::new("crash")
        .args(["-s", vmlinux, dump])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("crash is installed: `tools/install-deps.sh test`");
    let commands = b"sys\nps\nbt\nlog\nquit\n";
    crash.stdin.take().expect("it is piped").write_all(commands).unwrap();
    let ran = crash.wait_with_output().unwrap();
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

#[test]
fn a_panicked_guest_shows_its_panicking_stack() {
    let folder = Folder::new("judge_crash");
    let (file, console) = (folder.path("panic.dvr"), folder.path("console"));
    let (kernel, initrd) = (fetched("vmlinuz-amd64"), fetched("initramfs-amd64.gz"));
    let append = "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=demo";
    let arguments = [
        "record",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        append,
        "-m",
        "512",
        "-o",
        &file,
        "--json",
        "--console",
        &console,
    ];
    let recorded = wait(command(&arguments).spawn().unwrap()).ok().json();
    let said = std::fs::read_to_string(&console).unwrap();
    let version = said.lines().find_map(|line| line.split("Linux version ").nth(1)).unwrap();
    let release = version.split(' ').next().unwrap();

    let state = folder.path("panic.vmss");
    let at = recorded["position"].to_string();
    dejavm("snapshot {} --at {} -o {}", &[&file, &at, &state]).ok();
    let core = folder.path("vmss.core");
    vmss2core::convert(
        &Kind::Linux(LinuxOptions::default()),
        Path::new(&state),
        None,
        Path::new(&core),
    )
    .unwrap();
    let vmlinux = fetched("vmlinux-amd64-dbg");
    for dump in [&state, &core] {
        let said = crash(&vmlinux, dump);
        for wanted in [
            release,
            "PANIC: \"Kernel panic - not syncing: sysrq triggered crash\"",
            "COMMAND: \"demo\"",
            "sysrq_handle_crash at ",
            "entry_SYSCALL_64_after_hwframe at ",
        ] {
            assert!(said.contains(wanted), "{dump}: {wanted}\n{said}");
        }
    }
}
