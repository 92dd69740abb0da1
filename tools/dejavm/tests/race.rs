//! A race of threads in a Linux: none of 200 runs shows it; some schedule does in the first run, and each replay of that shows it again.

mod program;

use program::debian::fetched;
use program::{Folder, dejavm, run};
use std::fs;
use std::process::Command;

/// Seeds that are tried.
const SEEDS: u64 = 200;
const REPLAYS: usize = 20;

/// An archive of executable files, to append to an initial RAM disk (cpio(5), newc).
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all: Vec<u8> = Vec::new();
    let entry = |all: &mut Vec<u8>, inode: usize, name: &str, contents: &[u8]| {
        let (mode, size, length) = (0o100_755, contents.len(), name.len() + 1);
        let head = format!(
            "070701{inode:08X}{mode:08X}{:024X}{:08X}{size:08X}{:032X}{length:08X}{:08X}{name}\0",
            1, 0, 0, 0
        );
        for piece in [head.as_bytes(), contents] {
            all.extend_from_slice(piece);
            all.resize(all.len().next_multiple_of(4), 0);
        }
    };
    for (inode, (name, contents)) in (9000..).zip(files) {
        entry(&mut all, inode, name, contents);
    }
    entry(&mut all, 0, "TRAILER!!!", &[]);
    all
}

#[test]
fn a_race_of_threads_is_caught_by_a_seed_and_then_always_there() {
    let folder = Folder::new("race_of_threads");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/race/race.c");
    let program = folder.path("race");
    let mut compiler = Command::new("gcc");
    compiler.args(["-O1", "-static", "-pthread", "-o", &program, source]);
    assert!(compiler.status().expect("gcc").success());
    let mut initrd = fs::read(fetched("initramfs-amd64.gz")).unwrap();
    // Archives begin at multiples of four bytes.
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    let race = fs::read(&program).unwrap();
    initrd.extend(archive(&[
        ("bin/race", &race),
        ("workload/race", include_bytes!("race/workload")),
    ]));
    let (initrd, kernel) = (folder.write("initrd", &initrd), fetched("vmlinuz-cloud-amd64"));
    let (plain, branch) = (folder.path("plain.dvr"), folder.path("branch.dvr"));
    let console = folder.path("console");
    let said = || String::from_utf8_lossy(&fs::read(&console).unwrap()).replace("\r", "");
    let append = "console=ttyS0 quiet cryptomgr.notests dejavm.workload=race";
    let mut line = vec!["record", "--kernel", &kernel, "--initrd", &initrd, "--append", append];
    line.extend(["-m", "128", "--smp", "2", "--rtc-epoch", "0", "--idle", "skip", "--json"]);
    line.extend(["-o", &plain, "--console", &console]);
    let recorded = run(&line).ok().json();
    assert!(said().contains("RACE-NEVER-LOST in 200 runs"), "{}", said());

    // Turns are dealt by a seed from shortly before the program on: short ones would make the boot long.
    let (mut at, mut begun) = (0, recorded["position"].as_u64().unwrap());
    while begun - at > 4_000_000 {
        let middle = (at + begun) / 2;
        let line = "replay {} --until {} --console {}";
        dejavm(line, &[&plain, &middle.to_string(), &console]).ok();
        if said().contains("RACE-BEGINS") { begun = middle } else { at = middle }
    }
    let at = at.to_string();
    let caught = (0..SEEDS).find_map(|seed| {
        let seed = seed.to_string();
        let line =
            "branch {} --at {} --schedule-seed {} -o {} --force --idle skip --json --console {}";
        let branched = dejavm(line, &[&plain, &at, &seed, &branch, &console]).ok().json();
        assert!(said().contains("RACE-"), "seed {seed}: {}", said());
        said().contains("RACE-LOST in run 1\n").then_some((seed, branched))
    });
    let (seed, branched) = caught.expect("a seed that catches it");
    println!("seed {seed} loses an addition in the first run");
    for _ in 0..REPLAYS {
        let line = "replay {} --json --console {}";
        let replayed = dejavm(line, &[&branch, &console]).ok().json();
        for field in ["position", "machine_hash", "console_hash"] {
            assert_eq!(replayed[field], branched[field], "{field}");
        }
        assert!(said().contains("RACE-LOST in run 1"), "{}", said());
    }
}
