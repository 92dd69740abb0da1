//! Checkpoints of machines that run, or that gdb holds: the machine does not notice, and they are what the recording gives for
//! the same position later.

mod program;

use program::gdb::Gdb;
use program::recorder::{Recorder, until};
use program::{Folder, Kept, command, dejavm};
use std::path::Path;
use std::process::Command;
use vmss::Checkpoint;

fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Demands that two checkpoints hold the same machine.
#[track_caller]
fn assert_same(ours: &str, theirs: &str) {
    let vmem = |path: &str| bytes(&path.replace(".vmss", ".vmem"));
    assert!(vmem(ours) == vmem(theirs), "memory: {ours}, {theirs}");
    assert!(bytes(ours) == bytes(theirs), "state: {ours}, {theirs}");
}

/// From the recording, at a position.
fn later(folder: &Folder, file: &str, at: &str) -> String {
    let path = folder.path(&format!("later-{at}.vmss"));
    dejavm("snapshot {} --at {} -o {} --force", &[file, at, &path]).ok();
    path
}

/// In a recording being made, in its replay, and in a branch of it; and it goes on from there as it did.
#[test]
fn gdb_writes_checkpoints() {
    let folder = Folder::new("snapshot_live_gdb");
    let (kernel, plain) = (folder.guest("timer"), folder.path("plain.dvr"));
    let line = "record --kernel {} -m 16 -o {} --rtc-epoch 1000000000 --json";
    let plain = dejavm(line, &[&kernel, &plain]).ok().json();

    let recorder = Recorder::start(&folder, "timer", &["--gdb-wait"]);
    let mut gdb = recorder.gdb("");
    let mut taken = Vec::new();
    for step in [1000, 20_000] {
        gdb.run(&format!("monitor stopat +{step}"));
        gdb.run("continue");
        let at = gdb.position().to_string();
        let said = gdb.expect("monitor snapshot", ".vmss: the machine at position ");
        assert!(said.contains(&format!("it-{at}.vmss: ")), "{said}");
        taken.push(at);
    }
    gdb.expect("monitor snapshot", "-2.vmss: the machine at position ");
    gdb.expect("monitor snapshot mine.vmss", "mine.vmss: the machine at position ");
    gdb.expect("monitor snapshot mine.vmss", "the file exists");
    gdb.expect("monitor snapshot mine.img", "ends in .vmss or .vmsn");
    for elsewhere in ["../x.vmss", "/tmp/x.vmss", "a/x.vmss", "x.vmss/"] {
        gdb.expect(&format!("monitor snapshot {elsewhere}"), "a name without a folder");
    }
    gdb.run("detach");
    drop(gdb);
    let (_, _, recorded) = recorder.end();
    for key in ["position", "guest_ns", "machine_hash", "memory_hash", "console_hash", "ending"] {
        assert_eq!(recorded[key], plain[key], "{key}");
    }

    let file = folder.path("it.dvr");
    for at in &taken {
        assert_same(&folder.path(&format!("it-{at}.vmss")), &later(&folder, &file, at));
    }
    let last = &taken[1];
    assert_same(&folder.path("mine.vmss"), &folder.path(&format!("later-{last}.vmss")));
    let again = folder.path("again.dvr");
    let line = "record --from {} -o {} --idle skip --json --console {}";
    let ran = dejavm(line, &[&folder.path("mine.vmss"), &again, &folder.path("said")]).ok().json();
    assert_eq!(ran["machine_hash"], plain["machine_hash"]);

    let socket = folder.path("replay-gdb");
    let listen = format!("--gdb={socket}");
    let replay = Kept::new(command(&["replay", &file, &listen, "--json"]).spawn().unwrap());
    until("it listens", || Path::new(&socket).exists());
    let mut gdb = Gdb::start(Some(&kernel));
    gdb.run(&format!("target remote {socket}"));
    gdb.run(&format!("monitor goto {}", taken[0]));
    gdb.expect("monitor snapshot replayed.vmss", "replayed.vmss: the machine at position ");
    gdb.expect("monitor branch", "a live machine from position ");
    gdb.run("set $edi = 0x5eed");
    gdb.expect("monitor snapshot branched.vmss", "branched.vmss: the machine at position ");
    gdb.run("kill");
    drop(gdb);
    replay.wait().ok();
    assert_same(&folder.path("replayed.vmss"), &folder.path(&format!("later-{}.vmss", taken[0])));
    let (branched, _, _) =
        Checkpoint::open(Path::new(&folder.path("branched.vmss")), None).unwrap();
    assert_eq!(branched.vcpus().unwrap()[0].gpr[7], 0x5eed);
}

/// A guest waits for keys while it is recorded. What SIGUSR1 does, Ctrl-A s does: both set the same flag.
#[test]
fn a_signal_and_the_command_write_checkpoints_of_a_recording_under_way() {
    let folder = Folder::new("snapshot_live_signal");
    let mut recorder = Recorder::start(&folder, "echo", &["--idle", "realtime"]);
    recorder.await_text("ready");
    recorder.type_in("ab");
    recorder.await_text("AB");
    let id = recorder.child.child().id().to_string();
    let sent = Command::new("kill").args(["-s", "USR1", &id]).status();
    assert!(sent.unwrap().success());
    let taken = || {
        let names = std::fs::read_dir(&folder.0).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.into_iter().find(|name| name.starts_with("it-") && name.ends_with(".vmss"))
    };
    until("the checkpoint is there", || taken().is_some());
    let live = taken().unwrap();
    let at = live.strip_prefix("it-").unwrap().strip_suffix(".vmss").unwrap().to_owned();

    // The file as it is now.
    until("the recording is written down", || {
        let known = dejavm("info {} --json", &[&recorder.file]).ok().json();
        known["position"].as_u64() >= at.parse().ok()
    });
    let now = folder.path("now.vmss");
    let written = dejavm("snapshot {} --at end -o {} --json", &[&recorder.file, &now]).ok().json();
    let end = written["position"].to_string();

    recorder.type_in("cq");
    let (_, console, _) = recorder.end();
    assert!(console.contains("ABC"), "{console}");
    let file = folder.path("it.dvr");
    assert_same(&now, &later(&folder, &file, &end));
    // Of a guest that waits, time passes at one position, and keys arrive: all but that is the same.
    let (live, theirs) = (folder.path(&live), later(&folder, &file, &at));
    let opened = |path: &str| Checkpoint::open(Path::new(path), None).unwrap().0.vcpus().unwrap();
    assert_eq!(opened(&live), opened(&theirs));
    assert!(bytes(&live.replace(".vmss", ".vmem")) == bytes(&theirs.replace(".vmss", ".vmem")));
}
