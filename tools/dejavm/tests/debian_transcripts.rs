//! The real gdb on stock Debian kernels, live and on the replay, with the symbols that the guest's kernel has of itself.

mod program;

use program::Folder;
use program::debian::Debian;

fn sessions(flavour: &'static str) {
    let folder = Folder::new(&format!("debian_transcripts_{flavour}"));
    let debian = Debian { flavour, vmlinux: None };
    let left = debian.live_session(&folder);
    debian.replay_session(&folder, &left);
}

#[test]
fn the_686_pae_kernel() {
    sessions("686-pae");
}

#[test]
fn the_amd64_kernel() {
    sessions("amd64");
}
