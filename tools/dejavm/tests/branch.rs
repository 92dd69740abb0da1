//! A live machine made of a recording's: recorded on its own, and the recording stays as it is.

mod program;

use program::gdb::Gdb;
use program::{Folder, command, dejavm, wait};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Nothing here takes so long, on the slowest host.
const PATIENCE: Duration = Duration::from_secs(120);

#[track_caller]
fn typed(arguments: &[&str], keys: &str) -> serde_json::Value {
    let mut child = command(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
    wait(child).ok().json()
}

#[test]
fn a_branch_is_a_recording_of_its_own_with_another_future() {
    let folder = Folder::new("branch_echo");
    let (kernel, file) = (folder.guest("echo"), folder.path("echo.dvr"));
    let (said, said_again) = (folder.path("said"), folder.path("said_again"));
    let arguments =
        ["record", "--kernel", &kernel, "-m", "16", "-o", &file, "--json", "--console", &said];
    let child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&said).is_ok_and(|said| said.contains("echo ready\n")) {
        assert!(Instant::now() < deadline, "it does not get ready");
        std::thread::yield_now();
    }
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.unwrap().success());
    let recorded = wait(child).ok().json();
    let before = std::fs::read(&file).unwrap();

    // Where the guest waits for a key, and a little before.
    let end = recorded["position"].as_u64().unwrap();
    for at in [end - 10, end] {
        let (branch, at) = (folder.path(&format!("{at}.dvr")), at.to_string());
        let arguments =
            ["branch", &file, "--at", &at, "-o", &branch, "--json", "--console", &said_again];
        let branched = typed(&arguments, "zyq");
        assert_eq!(branched["ending"], "debug-exit");
        let console = std::fs::read_to_string(&said_again).unwrap();
        assert!(console.contains("ZY"), "{at}: {console}");
        let replayed = dejavm("verify {} --json", &[&branch]).ok().json();
        assert_eq!((&replayed["result"], &replayed["complete"]), (&"equal".into(), &true.into()));
        assert_eq!(replayed["position"], branched["position"]);
        let info = dejavm("info {}", &[&branch]).ok().stdout;
        assert!(info.contains("branched from") && info.contains("echo.dvr"), "{info}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), before, "the recording stays as it is");
}

#[test]
fn without_inputs_a_branch_ends_as_its_parent_did() {
    let folder = Folder::new("branch_timer");
    let (kernel, file) = (folder.guest("timer"), folder.path("timer.dvr"));
    let line = "record --kernel {} -m 16 -o {} --json";
    let recorded = dejavm(line, &[&kernel, &file]).ok().json();
    for at in [0u64, 1, 500, 1234] {
        let branch = folder.path(&format!("{at}.dvr"));
        let line = format!("branch {{}} --at {at} -o {{}} --json");
        let branched = dejavm(&line, &[&file, &branch]).ok().json();
        for key in ["position", "guest_ns", "machine_hash", "ending"] {
            assert_eq!(branched[key], recorded[key], "{at}: {key}");
        }
        dejavm("verify {}", &[&branch]).ok();
    }
    for (line, code, sentence) in [
        ("branch {} --at 999999 -o {}", 2, "position 999999 is not in it: it replays from 0 to"),
        ("branch {} --at nowhere -o {}", 6, "\"nowhere\" is neither a position nor one of its"),
    ] {
        let ran = dejavm(line, &[&file, &folder.path("none.dvr")]);
        assert_eq!(ran.code, code, "{}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{}", ran.stderr);
        assert!(!Path::new(&folder.path("none.dvr")).exists());
    }
    let ran = dejavm("branch {} --at 1 -o {} --force", &[&file, &file]);
    assert!(ran.sentence().contains("would overwrite"), "{}", ran.stderr);
}

#[test]
fn monitor_branch_writes_where_a_replay_refuses_and_goto_returns() {
    let folder = Folder::new("branch_monitor");
    let (kernel, file) = (folder.guest("timer"), folder.path("timer.dvr"));
    dejavm("record --kernel {} -m 16 -o {}", &[&kernel, &file]).ok();
    let socket = folder.path("gdb");
    let listen = format!("--gdb={socket}");
    let child = command(&["replay", &file, &listen]).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !Path::new(&socket).exists() {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::yield_now();
    }
    let mut gdb = Gdb::start(Some(&kernel));
    gdb.run(&format!("target remote {socket}"));
    gdb.expect("monitor goto 700", "700");
    gdb.expect("set $edi = 0x77", "monitor branch");
    gdb.expect("monitor branch", "a live machine from position 700 on, recorded into");
    gdb.run("maintenance flush register-cache");
    gdb.run("set $edi = 0x77");
    gdb.expect("p/x $edi", "= 0x77");
    gdb.run("stepi 10");
    assert!(gdb.position() >= 710);
    gdb.expect("monitor branch", "live already");
    gdb.expect("monitor goto 700", "700");
    gdb.run("maintenance flush register-cache");
    let back = gdb.run("p/x $edi");
    assert!(!back.contains("0x77"), "{}", gdb.transcript);
    gdb.run("monitor branch");
    gdb.expect("continue", "the guest left by the debug exit port");
    gdb.run("kill");
    drop(gdb);
    wait(child).ok();
    for n in [1, 2] {
        let branch = folder.path(&format!("timer-branch-{n}.dvr"));
        let verified = dejavm("verify {} --json", &[&branch]).ok().json();
        assert_eq!(verified["complete"], true, "{n}");
    }
}
