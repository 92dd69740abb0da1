//! `--engine kvm,step`: what it records the software CPU replays, and the other way round. On any host with a KVM, for where that does not
//! step, as `kvm_pvm` does not in programs, the software CPU executes.

mod program;

use program::{Folder, dejavm};
use std::fs::OpenOptions;

#[test]
fn steps_and_the_software_cpu_are_one() {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        eprintln!("/dev/kvm: {error}; nothing is tried");
        return;
    }
    let folder = Folder::new("kvm_steps");
    for guest in ["breaks", "hello", "paging"] {
        let kernel = folder.guest(guest);
        let mut positions = Vec::new();
        for (records, replays) in [("kvm,step", "soft"), ("soft", "kvm,step")] {
            let file = folder.path(&format!("{guest}-{records}.dvr"));
            let line = format!(
                "record --kernel {{}} -m 16 -o {{}} --until 20000 --digest-interval 500 --engine {records} --json"
            );
            let recorded = dejavm(&line, &[&kernel, &file]).ok().json();
            let line = format!("replay {{}} --engine {replays} --json");
            let replayed = dejavm(&line, &[&file]).ok().json();
            assert_eq!(replayed["machine_hash"], recorded["machine_hash"], "{guest}, {records}");
            assert!(replayed["digests"].as_u64() > Some(0), "{guest}, {records}: {replayed:#}");
            assert!(recorded["machine_hash"].is_string(), "{guest}, {records}: {recorded:#}");
            positions.push(recorded["position"].clone());
        }
        // They begin at different times of day, so these are not alike to the last.
        assert_eq!(positions[0], positions[1], "{guest}");
    }
}
