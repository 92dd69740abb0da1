//! The real gdb on Debian's generic kernel with its `-dbg` vmlinux: functions, lines, types and variables of the kernel by
//! name, with address-space randomization on. A slow judge: its vmlinux is 631 MB, from a package of 855 MB (`make judges`).

mod program;

use program::Folder;
use program::debian::{Debian, fetched};

#[test]
fn the_amd64_kernel_with_its_vmlinux() {
    let folder = Folder::new("judge_vmlinux");
    let debian = Debian { flavour: "amd64", vmlinux: Some(fetched("vmlinux-amd64-dbg")) };
    let left = debian.live_session(&folder);
    debian.replay_session(&folder, &left);
}
