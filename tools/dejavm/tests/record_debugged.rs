//! gdb on a machine that is being recorded.

mod program;

use program::gdb::Gdb;
use program::recorder::{Recorder, until};
use program::{Folder, dejavm};

#[test]
fn a_debugger_comes_writes_and_goes_while_the_guest_is_typed_to() {
    let folder = Folder::new("record_debugged_echo");
    let mut recorder = Recorder::start(&folder, "echo", &["--idle", "realtime"]);
    // It waits in HLT by now, or is about to.
    let mut gdb = recorder.gdb("");
    gdb.expect("break *received", "Breakpoint 1 at");
    recorder.type_in("a");
    gdb.expect("continue", "Breakpoint 1, 0x");
    gdb.expect("stepi", "in received ()");
    gdb.expect("x/i $pc", "push   %ebx");
    // Nobody has read the key yet: it is stored first, and replaced then.
    gdb.expect("watch *(int *) &stored", "Hardware watchpoint 2");
    gdb.expect("continue", "New value = 1");
    gdb.run("set var *(char *) &ring = 'x'");
    gdb.expect("p/c *(char *) &ring", "'x'");
    // A register: AL is written over before it is read again.
    gdb.run("set $edi = 0x1234");
    gdb.expect("p/x $edi", "= 0x1234");
    gdb.expect("set $cs = 0", "cannot be written");
    gdb.expect("reverse-stepi", "does not support");
    gdb.run("delete");
    // ^C stops a guest that waits.
    let stopped = gdb.interrupted("continue");
    assert!(stopped.contains("SIGINT") || stopped.contains("SIGTRAP"), "{}", gdb.transcript);
    gdb.expect("monitor mark typed", "");
    gdb.run("detach");
    drop(gdb);

    // It comes again, loses its connection without a word, and once more, to kill.
    drop(recorder.gdb(""));
    let mut gdb = recorder.gdb("");
    recorder.type_in("bc");
    gdb.run("kill");
    recorder.type_in("q");
    let (ran, console, recorded) = recorder.end();
    assert_eq!(recorded["ending"], "debug-exit", "{}", ran.stderr);
    assert!(console.contains("XBC"), "{console}");
    assert!(ran.stderr.contains("`kill` ends no recording"), "{}", ran.stderr);
}

#[test]
fn a_debugger_that_only_looks_leaves_no_trace() {
    for guest in ["timer", "hello", "paging"] {
        let folder = Folder::new(&format!("record_debugged_{guest}"));
        let (kernel, plain) = (folder.guest(guest), folder.path("plain.dvr"));
        let line = "record --kernel {} -m 16 -o {} --rtc-epoch 1000000000 --json";
        let plain = dejavm(line, &[&kernel, &plain]).ok().json();

        let recorder = Recorder::start(&folder, guest, &["--gdb-wait"]);
        let mut gdb = recorder.gdb("");
        assert_eq!(gdb.position(), 0, "it waits for us");
        gdb.run("stepi 50");
        assert_eq!(gdb.position(), 50);
        gdb.run("break *$pc if $eax == 0x12345678");
        gdb.run("watch -l *(int *) ($esp - 4)");
        gdb.run("stepi 20");
        gdb.run("delete");
        gdb.run("info registers");
        gdb.run("x/64xw $esp");
        // Its end: the recorder waits until we have seen enough.
        gdb.expect("continue", "the guest left by the debug exit port");
        gdb.run("info registers");
        gdb.expect("stepi", "it is over");
        gdb.run("detach");
        drop(gdb);
        let (_, _, debugged) = recorder.end();
        for key in ["position", "guest_ns", "machine_hash", "memory_hash", "console_hash", "ending"]
        {
            assert_eq!(debugged[key], plain[key], "{guest}: {key}");
        }
    }
}

#[test]
fn a_recorder_killed_while_gdb_holds_the_guest_leaves_all_up_to_there() {
    let folder = Folder::new("record_debugged_killed");
    let recorder = Recorder::start(&folder, "timer", &["--gdb-wait"]);
    let mut gdb = recorder.gdb("");
    gdb.run("stepi 321");
    gdb.run("set $edi = 7");
    let position = gdb.position();
    assert!(position >= 321, "interrupts are run through");
    let file = &recorder.file;
    until("it is written down", || {
        dejavm("info {} --json", &[file]).ok().json()["position"] == position
    });
    let Recorder { mut child, file, .. } = recorder;
    child.child().kill().unwrap();
    child.wait();
    let left = dejavm("verify {} --json", &[&file]).ok().json();
    assert_eq!((&left["complete"], &left["position"]), (&false.into(), &position.into()));
    assert_eq!(left["inputs"], 1);
}

#[test]
fn a_recording_ends_on_request_while_gdb_holds_the_guest() {
    let folder = Folder::new("record_debugged_asked");
    let mut recorder = Recorder::start(&folder, "timer", &["--gdb-wait"]);
    let mut gdb = recorder.gdb("");
    gdb.run("stepi 10");
    let id = recorder.child.child().id().to_string();
    let sent = std::process::Command::new("kill").args(["-s", "TERM", &id]).status();
    assert!(sent.unwrap().success());
    let (_, _, recorded) = recorder.end();
    assert_eq!((&recorded["ending"], &recorded["position"]), (&"stopped".into(), &10.into()));
}

#[test]
fn debian_boots_under_gdb() {
    let image = |name: &str| {
        let path = dejavm_images::fetched(name).unwrap_or_else(|missing| panic!("{missing}"));
        path.to_str().unwrap().to_owned()
    };
    let (kernel, initrd) = (image("vmlinuz-cloud-amd64"), image("initramfs-amd64.gz"));
    let folder = Folder::new("record_debugged_debian");
    let file = folder.path("debian.dvr");
    let append = "console=ttyS0 panic=-1 dejavm.workload=echo cryptomgr.notests";
    let more = ["--initrd", &initrd, "--append", append, "-m", "256", "--idle", "realtime"];
    let mut recorder = Recorder::of(&folder, &kernel, &file, &more);
    recorder.kernel = String::new();
    let mut gdb = Gdb::start(None);
    gdb.run(&format!("target remote {}", recorder.socket));
    gdb.expect("info registers rip cr3 efer", "rip");
    // Somewhere in the boot, three times.
    let mut before = gdb.position();
    for _ in 0..3 {
        gdb.run("monitor stopat +60000000");
        gdb.expect("continue", "dejavm: position ");
        gdb.expect("stepi", "0x");
        gdb.expect("x/2i $pc", "=>");
        gdb.run("break *$pc");
        gdb.run("delete");
        let now = gdb.position();
        assert!(now > before, "{before} {now}");
        before = now;
    }
    gdb.run("detach");
    drop(gdb);
    recorder.await_text("DEJAVM-ECHO-READY");
    // What one gdb has said of the guest's processes, the next need not say again.
    for (command, threads) in [("monitor linux", "threads are its "), ("info threads", "kthreadd")]
    {
        let mut gdb = Gdb::start(None);
        gdb.run(&format!("target remote {}", recorder.socket));
        gdb.expect(command, threads);
        gdb.run("detach");
    }
    recorder.type_in("hello under gdb\nquit\n");
    let (_, console, recorded) = recorder.end();
    assert!(console.contains("[hello under gdb]"), "{console}");
    assert!(recorded["position"].as_u64() >= Some(before));
}
