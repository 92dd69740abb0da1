//! A Debian guest that panicked, and its checkpoint.

use super::debian::fetched;
use super::{Folder, command, dejavm, wait};

/// Records a guest of a flavour whose workload makes it panic, and takes a checkpoint of its end: that file, and what the guest said.
pub fn panicked(folder: &Folder, flavour: &str, memory: &str) -> (String, String) {
    let (file, console) = (folder.path("panic.dvr"), folder.path("console"));
    let kernel = fetched(&format!("vmlinuz-{flavour}"));
    let initrd = fetched("initramfs-amd64.gz");
    let append = "console=ttyS0 panic=-1 cryptomgr.notests dejavm.workload=demo";
    let line =
        ["record", "--kernel", &kernel, "--initrd", &initrd, "--append", append, "-m", memory];
    let files = ["--idle", "skip", "-o", &file, "--json", "--console", &console];
    wait(command(&[&line[..], &files].concat()).spawn().unwrap()).ok();
    let state = folder.path("panic.vmss");
    dejavm("snapshot {} --at end -o {}", &[&file, &state]).ok();
    (state, std::fs::read_to_string(&console).unwrap())
}
