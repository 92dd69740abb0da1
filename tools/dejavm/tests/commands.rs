//! The commands on guests of our own, as a user runs them.

mod program;

use program::{Folder, command, dejavm, run, wait};
use std::fs;
use std::io::Write;
use std::process::Stdio;

#[test]
fn a_recording_replays_with_the_same_console() {
    let folder = Folder::new("same_console");
    for name in ["hello", "modes", "paging", "smc", "spin", "timer"] {
        let (kernel, file) = (folder.guest(name), folder.path(&format!("{name}.dvr")));
        let recorded = dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
        assert!(!recorded.stdout.is_empty(), "{name}");
        assert!(recorded.sentence().contains("left by the debug exit port with 0x10"), "{name}");
        let replayed = dejavm("replay {}", &[&file]).ok();
        assert_eq!(replayed.stdout, recorded.stdout, "{name}");
        assert!(replayed.sentence().contains("replayed to the end"), "{name}");
        // The guest of virtual-8086 mode prints some of it to the debug console only.
        let expected = dejavm_images::EXPECTED.iter().find(|(known, _)| *known == name);
        if let Some((_, expected)) = expected.filter(|_| name != "modes") {
            assert_eq!(recorded.stdout.replace('\r', ""), expected.replace('\r', ""), "{name}");
        }
        let quiet = dejavm("replay {} --quiet", &[&file]).ok();
        assert_eq!(quiet.stdout, "", "{name}");
        let verified = dejavm("verify {}", &[&file]).ok();
        assert!(
            verified.stdout.starts_with("equal: 1 digests over "),
            "{name}: {}",
            verified.stdout
        );
    }
}

#[test]
fn programs_get_one_object_and_the_console_goes_elsewhere() {
    let folder = Folder::new("json");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    let console = folder.path("console.txt");
    let line = "record --kernel {} -m 32 -o {} --json --console {} --rtc-epoch 0";
    let recorded = dejavm(line, &[&kernel, &file, &console]).ok().json();
    assert_eq!(recorded["ending"], "debug-exit");
    assert_eq!(recorded["debug_exit"], 0x10);
    let position = recorded["position"].as_u64().unwrap();
    assert!(position > 100);
    let text = fs::read_to_string(&console).unwrap();
    assert_eq!(recorded["console_bytes"].as_u64(), Some(2 * text.len() as u64), "both consoles");

    let replayed = dejavm("replay {} --json", &[&file]).ok();
    assert!(replayed.stderr.contains(text.trim()), "the console goes to standard error");
    let replayed = replayed.json();
    for field in ["ending", "position", "guest_ns", "console_hash", "machine_hash", "memory_hash"] {
        assert_eq!(replayed[field], recorded[field], "{field}");
    }
    assert_eq!(replayed["result"], "equal");
    assert_eq!(
        dejavm("verify {} --json", &[&file]).ok().json()["machine_hash"],
        recorded["machine_hash"]
    );

    let info = dejavm("info {} --json", &[&file]).ok().json();
    assert_eq!(info["status"], "complete");
    for field in ["position", "guest_ns", "file_bytes", "log_bytes", "console_bytes"] {
        assert_eq!(info[field], recorded[field], "{field}");
    }
    assert_eq!(info["file_bytes"].as_u64(), Some(fs::metadata(&file).unwrap().len()));
    assert_eq!(info["machine"]["rtc_epoch_s"], 0);
    assert_eq!(info["machine"]["ram_bytes"], 32 << 20);

    let failed = dejavm("verify {} --json", &[&folder.path("none.dvr")]);
    assert_eq!((failed.code, &failed.json()["exit_code"]), (6, &6.into()));
}

/// What recording costs is measured against this: it has to be the same run.
#[test]
fn without_a_log_the_same_runs_and_nothing_is_written() {
    let folder = Folder::new("no_log");
    let (kernel, file) = (folder.guest("timer"), folder.path("timer.dvr"));
    let line = "record --kernel {} -m 32 -o {} --json --rtc-epoch 0";
    let ran = dejavm(&format!("{line} --no-log"), &[&kernel, &file]).ok();
    assert!(!fs::exists(&file).unwrap());
    let recorded = dejavm(line, &[&kernel, &file]).ok();
    assert_eq!(ran.json()["instructions"], recorded.json()["instructions"]);
    let console = |stderr: &str| stderr.split("dejavm: ").next().map(str::to_owned);
    assert_eq!(console(&ran.stderr), console(&recorded.stderr));
}

#[test]
fn typed_input_is_recorded() {
    let folder = Folder::new("typed");
    let (kernel, file) = (folder.guest("echo"), folder.path("echo.dvr"));
    for idle in ["skip", "realtime"] {
        let line =
            ["record", "--kernel", &kernel, "-m", "32", "-o", &file, "--force", "--idle", idle];
        let mut child = command(&line).stdin(Stdio::piped()).spawn().unwrap();
        // More than any FIFO holds; the guest echoes in upper case until `q`.
        let text = "abcdefghijklmnopr stuvwxyz ".repeat(40);
        let mut stdin = child.stdin.take().unwrap();
        // The guest resets its FIFO when it starts: what is typed before that is lost, as it should be.
        // So the text may lose its beginning, and nothing else.
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.write_all(b"q").unwrap();
        drop(stdin);
        let recorded = wait(child).ok();
        let echoed = &recorded.stdout;
        let tail = text.to_uppercase().split_off(500);
        assert!(echoed.contains(&tail), "{idle}: {echoed}");
        let replayed = dejavm("replay {}", &[&file]).ok();
        assert_eq!(replayed.stdout, recorded.stdout, "{idle}");
    }
}

#[test]
fn a_recording_stops_where_it_is_told() {
    let folder = Folder::new("until");
    let (kernel, file) = (folder.guest("spin"), folder.path("spin.dvr"));
    let line = "record --kernel {} -m 32 -o {} --until 5000000 --digest-interval 1000000 --json";
    let recorded = dejavm(line, &[&kernel, &file]).ok().json();
    assert_eq!(
        (&recorded["ending"], &recorded["position"]),
        (&"stopped".into(), &5_000_000.into())
    );
    let verified = dejavm("verify {} --json", &[&file]).ok().json();
    assert_eq!(verified["digests"], 6);
    let verified = dejavm("verify {} --json --until 2500000", &[&file]).ok().json();
    assert_eq!((&verified["digests"], &verified["position"]), (&2.into(), &2_500_000.into()));
    assert_eq!(verified["complete"], false);
}

#[test]
fn the_size_and_the_flushes_of_the_tlb_change_nothing() {
    let folder = Folder::new("tlb");
    let (kernel, file) = (folder.guest("paging"), folder.path("paging.dvr"));
    let line = "record --kernel {} -m 32 -o {} --digest-interval 500";
    dejavm(line, &[&kernel, &file]).ok();
    let mut digests = Vec::new();
    for tuning in [
        "",
        "--tlb-slots 1",
        "--tlb-slots 64",
        "--tlb-slots 7 --tlb-flush-seed 3",
        "--engine soft",
        "--engine soft,interp",
        "--engine soft,reference",
        "--translate-after 0",
        "--translate-after 0 --mix-seed 5",
    ] {
        let verified = dejavm(&format!("verify {{}} --json {tuning}"), &[&file]).ok().json();
        assert_eq!(verified["complete"], true);
        digests.push(verified["digests"].as_u64().unwrap());
    }
    assert!(digests[0] > 2, "{digests:?}");
    assert!(digests.iter().all(|&count| count == digests[0]), "{digests:?}");
}

/// What executes is no part of a recording: whoever makes it, the file is the same.
#[test]
fn every_engine_records_the_same_file() {
    let folder = Folder::new("engines");
    let (kernel, file) = (folder.guest("smc"), folder.path("smc.dvr"));
    let line = "record --kernel {} -m 32 -o {} --force --rtc-epoch 0 --checkpoint-interval 0 \
                --digest-interval 1000";
    let mut files = Vec::new();
    for engine in [
        "",
        "--engine soft",
        "--engine soft,interp",
        "--engine soft,reference",
        "--translate-after 0",
        "--translate-after 0 --mix-seed 7",
    ] {
        dejavm(&format!("{line} {engine}"), &[&kernel, &file]).ok();
        files.push(fs::read(&file).unwrap());
        // A branch says who its parent is; it is as long as any other.
        let branch = folder.path("branch.dvr");
        let line = "branch {} --at 2000 -o {} --force --digest-interval 1000";
        dejavm(&format!("{line} {engine}"), &[&file, &branch]).ok();
        let verified = dejavm(&format!("verify {{}} --json {engine}"), &[&branch]).ok().json();
        assert_eq!(verified["complete"], true, "{engine}");
    }
    assert!(files.iter().all(|file| *file == files[0]));
    dejavm("demo --json --engine soft,interp", &[]).ok();
}

#[test]
fn external_files_stay_outside_and_are_checked() {
    let folder = Folder::new("external");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    let initrd = folder.write("initrd", &[7; 100_000]);
    let line = "record --kernel {} --initrd {} --append x -m 32 -o {} --external";
    let recorded = dejavm(line, &[&kernel, &initrd, &file]).ok();
    assert!(fs::metadata(&file).unwrap().len() < 4000);
    assert_eq!(dejavm("replay {}", &[&file]).ok().stdout, recorded.stdout);

    folder.write("initrd", &[8; 100_000]);
    let refused = dejavm("replay {}", &[&file]);
    assert_eq!(refused.code, 4);
    assert!(
        refused.sentence().contains("the initrd that it needs has changed"),
        "{}",
        refused.stderr
    );
    assert!(refused.sentence().contains(&initrd), "{}", refused.stderr);

    fs::remove_file(&initrd).unwrap();
    let refused = dejavm("verify {}", &[&file]);
    assert_eq!(refused.code, 4);
    assert!(refused.sentence().contains(&initrd), "{}", refused.stderr);
    assert!(refused.sentence().contains("put back the file"), "{}", refused.stderr);
}

#[test]
fn the_demo_needs_nothing_and_proves_itself() {
    let ran = run(&["demo"]).ok();
    assert!(ran.stdout.contains("PANIC: divide error"), "{}", ran.stdout);
    assert!(ran.stdout.contains("replayed: the same crash at position "), "{}", ran.stdout);
    let value = run(&["demo", "--json"]).ok().json();
    assert_eq!(value["recorded"]["position"], value["replayed"]["position"]);
    assert_eq!(value["recorded"]["console_hash"], value["replayed"]["console_hash"]);
    assert!(value["replayed"]["digests"].as_u64().unwrap() > 5);
}

#[test]
fn doctor_says_what_each_engine_can_promise() {
    let value = run(&["doctor", "--json"]).ok().json();
    assert_eq!(value["engines"][0]["name"], "soft");
    assert_eq!(value["engines"][0]["tier"], "exact");
    assert_eq!(value["engines"][1]["usable"], false);
    let text = run(&["doctor"]).ok().stdout;
    // Counters or none: one line says which, or what is missing.
    let pmu = &value["host"]["pmu"];
    let (present, reason) = (pmu["present"].as_bool().unwrap(), pmu["reason"].as_str().unwrap());
    let line = format!("\n  pmu   {}; {reason}\n", if present { "yes" } else { "no" });
    assert!(reason.len() > 40 && !reason.contains('\n') && text.contains(&line), "{text}");
    let units = std::fs::read_dir("/sys/bus/event_source/devices").into_iter().flatten().flatten();
    let is_shown =
        units.into_iter().any(|unit| unit.file_name().to_string_lossy().starts_with("cpu"));
    assert_eq!(reason.starts_with("this host has no hardware counters"), !is_shown, "{reason}");
    assert!(text.contains("soft  exact") && text.contains("\n  kvm   "), "{text}");
    // Whatever this host's KVM is: if guests do not run on it, somebody can read why.
    let kvm = &value["engines"][1];
    assert_eq!(kvm["works"].as_bool().unwrap(), kvm["tier"].is_string(), "{kvm}");
    assert!(kvm["reason"].as_str().unwrap().len() > 40, "{kvm}");
}

#[test]
fn ls_lists_complete_cut_short_and_unreadable_files() {
    let folder = Folder::new("ls");
    let (kernel, file) = (folder.guest("hello"), folder.path("b.dvr"));
    dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
    let bytes = fs::read(&file).unwrap();
    folder.write("a.dvr", b"not a recording at all");
    folder.write("c.dvr", &bytes[..bytes.len() - 200]);
    folder.write("d.txt", b"of no interest");
    let listed = dejavm("ls {} --json", &[folder.0.to_str().unwrap()]).ok().json();
    let statuses: Vec<&str> = listed["recordings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["unreadable", "complete", "cut short"]);
    let text = dejavm("ls {}", &[folder.0.to_str().unwrap()]).ok().stdout;
    assert_eq!(text.lines().count(), 3);

    let cut = dejavm("verify {} --json", &[&folder.path("c.dvr")]).ok();
    assert!(cut.stderr.contains("the recording was cut short: the file ends at offset"));
    assert_eq!(cut.json()["complete"], false);

    // A command without a recording's name tells which there are.
    let mut nameless = command(&["replay"]);
    nameless.current_dir(&folder.0);
    let nameless = wait(nameless.spawn().unwrap());
    assert_eq!(nameless.code, 6);
    assert!(nameless.sentence().ends_with("here are a.dvr, b.dvr, c.dvr"), "{}", nameless.stderr);
}

#[test]
fn exit_codes_are_documented() {
    let table = run(&["help", "exit-codes"]).ok().stdout;
    for (code, word) in [
        (0, "done"),
        (1, "could not be done"),
        (2, "command line"),
        (3, "not what was recorded"),
        (4, "recording cannot be used"),
        (5, "host cannot"),
        (6, "not found"),
    ] {
        let line = table.lines().find(|line| line.starts_with(&format!("  {code}  ")));
        assert!(line.is_some_and(|line| line.contains(word)), "{code}: {table}");
    }
    assert!(run(&["--help"]).ok().stdout.contains(table.trim()));
    assert_eq!(run(&["help", "record"]).ok().stdout, run(&["record", "--help"]).ok().stdout);
}

#[test]
fn checkpoints_and_marks_are_in_the_recording() {
    let folder = Folder::new("marks");
    let (kernel, file) = (folder.guest("timer"), folder.path("timer.dvr"));
    let record = "record --kernel {} -m 32 -o {} --force --checkpoint-interval";
    let none = dejavm(&format!("{record} 0"), &[&kernel, &file]).ok();
    assert!(none.sentence().contains("left by the debug exit port"));
    let kinds = dejavm("info {} --json", &[&file]).ok().json();
    assert!(kinds["chunks"]["checkpoint"].is_null(), "{kinds}");
    dejavm(&format!("{record} 500 --checkpoint-size 8"), &[&kernel, &file]).ok();
    let info = dejavm("info {} --json", &[&file]).ok().json();
    assert!(info["checkpoints"].as_u64() > Some(2), "{info}");
    let bytes = |kind: &str| info["chunks"][kind]["bytes"].as_u64().unwrap();
    assert_eq!(info["checkpoint_bytes"], bytes("checkpoint") + bytes("contents"));
    let told = dejavm("info {}", &[&file]).ok().stdout;
    assert!(told.contains("1 % of the guest's memory (at most 30 %, unless told"), "{told}");
    let help = dejavm("record --help", &[]).ok().stdout;
    assert!(help.contains("[default: 30 % of the guest's memory]"), "{help}");
    assert!(info["parent"].is_null());
    let end = info["position"].as_u64().unwrap();

    assert_eq!(dejavm("marks {}", &[&file]).ok().stdout, "");
    dejavm(&format!("marks {{}} --add late --at {}", end - 1), &[&file]).ok();
    let listed = dejavm("marks {} --add early --at 777", &[&file]).ok().stdout;
    let names: Vec<&str> =
        listed.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(names, ["early", "late"], "{listed}");
    let marks = dejavm("marks {} --json", &[&file]).ok().json();
    assert_eq!(marks["marks"][0]["position"], 777);
    let beyond = dejavm(&format!("marks {{}} --add no --at {}", end + 1), &[&file]);
    assert!(beyond.stderr.contains("is not in the recording"), "{}", beyond.stderr);
    dejavm("verify {}", &[&file]).ok();
}
