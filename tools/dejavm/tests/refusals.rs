//! Bad input: one sentence that names the thing and what to do, the right exit code, nothing damaged.

mod program;

use program::{Folder, Ran, command, dejavm, run, wait};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Demands a refusal of one sentence.
#[track_caller]
fn refused(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert_eq!(ran.stdout, "", "nothing on standard output");
    for part in parts {
        assert!(ran.stderr.contains(part), "no {part:?} in {:?}", ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn inputs_that_make_no_machine() {
    let folder = Folder::new("no_machine");
    let kernel = folder.guest("hello");
    let (big, text) = (folder.write("big", &vec![1; 40 << 20]), folder.write("text", b"no kernel"));
    let damaged = folder.write("damaged", &fs::read(&kernel).unwrap()[..60]);
    let (none, out) = (folder.path("none"), folder.path("out.dvr"));
    let table: &[(&str, &[&str], i32, &[&str])] = &[
        ("record --kernel {} -o {}", &[&none, &out], 6, &[&none, "kernel cannot be read"]),
        ("record --kernel {} -o {}", &[&text, &out], 1, &[&text, "not one that can be started"]),
        ("record --kernel {} -o {}", &[&damaged, &out], 1, &[&damaged, "damaged"]),
        ("record --kernel {} -o {}", &[folder.0.to_str().unwrap(), &out], 1, &["cannot be read"]),
        (
            "record --kernel {} --initrd {} -o {}",
            &[&kernel, &none, &out],
            6,
            &[&none, "RAM disk cannot be read"],
        ),
        (
            "record --kernel {} --initrd {} -m 32 -o {}",
            &[&kernel, &big, &out],
            1,
            &[&big, "does not fit", "more RAM with -m"],
        ),
        ("record --kernel {} -m 0 -o {}", &[&kernel, &out], 2, &["-m", "too few"]),
        ("record --kernel {} -m 1000G -o {}", &[&kernel, &out], 2, &["too many: at most 64 GiB"]),
        ("record --kernel {} -m lots -o {}", &[&kernel, &out], 2, &["number of MiB"]),
        ("record --kernel {} --smp 9 -o {}", &[&kernel, &out], 2, &["have 1 to 8 virtual CPUs"]),
        (
            "record --kernel {} --smp 2 --engine kvm -o {}",
            &[&kernel, &out],
            2,
            &["machines of 2 CPUs run by software only"],
        ),
        ("record --kernel {} --cpu pentium -o {}", &[&kernel, &out], 2, &["dejavm-v2"]),
        (
            "record --kernel {} -o {} --engine xen",
            &[&kernel, &out],
            2,
            &[
                "--engine",
                "the engines are auto, kvm, kvm,step, soft, soft,interp and soft,reference",
            ],
        ),
        ("replay {} --engine interp", &[&out], 2, &["the engines are"]),
        ("verify {} --engine soft,", &[&out], 2, &["the engines are"]),
        ("record --kernel {}", &[&kernel], 2, &["--output"]),
        ("frobnicate", &[], 2, &["frobnicate"]),
        ("help frobnicate", &[], 2, &["frobnicate"]),
    ];
    for (line, paths, code, parts) in table {
        refused(&dejavm(line, paths), *code, parts);
        assert!(!fs::exists(&out).unwrap(), "{line}: no recording was begun");
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::new("no_output");
    let kernel = folder.guest("hello");
    let file = folder.write("there.dvr", b"precious");
    let inside = folder.path("none/out.dvr");
    let record = "record --kernel {} -m 32 -o {}";

    refused(&dejavm(record, &[&kernel, &file]), 1, &[&file, "exists", "--force"]);
    let text = folder.write("text", b"no kernel");
    let forced = dejavm("record --kernel {} -m 32 --force -o {}", &[&text, &file]);
    refused(&forced, 1, &["not one that can be started"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious", "only a recording that can begin overwrites");

    refused(&dejavm(record, &[&kernel, &inside]), 1, &[&inside, "cannot be made"]);
    let folder_name = folder.0.to_str().unwrap();
    refused(&dejavm(record, &[&kernel, folder_name]), 1, &["this is a folder"]);

    let before = fs::read(&kernel).unwrap();
    let forced = dejavm("record --kernel {} -m 32 --force -o {}", &[&kernel, &kernel]);
    refused(&forced, 1, &["would overwrite"]);
    assert_eq!(fs::read(&kernel).unwrap(), before);

    dejavm("record --kernel {} -m 32 --force -o {}", &[&kernel, &file]).ok();
    dejavm("verify {}", &[&file]).ok();

    let locked = folder.0.join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    // Root writes everywhere.
    if fs::write(locked.join("probe"), b"").is_err() {
        let out = locked.join("out.dvr");
        refused(&dejavm(record, &[&kernel, out.to_str().unwrap()]), 1, &["cannot be made"]);
    }
}

#[test]
fn a_full_disk() {
    let folder = Folder::new("full_disk");
    let kernel = folder.guest("hello");
    let ran = dejavm("record --kernel {} -m 32 --force -o {}", &[&kernel, "/dev/full"]);
    assert_eq!(ran.code, 1);
    assert!(ran.sentence().contains("could not be written at offset 0"), "{}", ran.stderr);
    assert!(ran.sentence().contains("No space left"), "{}", ran.stderr);

    // A limit on the file's size stands in for a disk that fills up later.
    let file = folder.path("limited.dvr");
    let script = format!(
        "trap '' XFSZ; ulimit -f 12; exec {} record --kernel {} -m 32 -o {} --digest-interval 1000000",
        env!("CARGO_BIN_EXE_dejavm"),
        folder.guest("spin"),
        file
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&file) && text.contains("is intact and replays so far"), "{text}");
    let replayed = dejavm("verify {} --json", &[&file]).ok();
    assert!(replayed.stderr.contains("cut short"), "{}", replayed.stderr);
    assert!(replayed.json()["position"].as_u64().unwrap() > 0);
}

#[test]
fn recordings_that_cannot_be_used() {
    let folder = Folder::new("no_recording");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    dejavm("record --kernel {} -m 32 -o {} --digest-interval 500", &[&kernel, &file]).ok();
    let bytes = fs::read(&file).unwrap();
    let mut newer = bytes.clone();
    newer[10..12].copy_from_slice(&7u16.to_le_bytes());
    let crc = crc32c::crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut flipped = bytes.clone();
    // In the log, behind pages and before the index.
    let at = bytes.windows(4).rposition(|window| window == b"DVck").unwrap() - 40;
    flipped[at] ^= 4;
    let newer = folder.write("newer.dvr", &newer);
    let flipped = folder.write("flipped.dvr", &flipped);
    let empty = folder.write("empty.dvr", b"");
    let short = folder.write("short.dvr", &bytes[..50]);
    let none = folder.path("none.dvr");
    for command in ["replay {}", "verify {}", "info {}"] {
        let table: &[(&str, i32, &[&str])] = &[
            (&none, 6, &[&none, "cannot be opened"]),
            (&empty, 4, &[&empty, "not a dejavm recording"]),
            (&kernel, 4, &[&kernel, "not a dejavm recording"]),
            (&newer, 4, &[&newer, "format 7", "use a newer dejavm"]),
            (&short, 4, &[&short, "ends at offset 50"]),
            (folder.0.to_str().unwrap(), 6, &["this is a folder", "dejavm ls"]),
        ];
        for (path, code, parts) in table {
            refused(&dejavm(command, &[path]), *code, parts);
        }
    }
    let damaged = dejavm("verify {}", &[&flipped]);
    refused(&damaged, 4, &[&flipped, "offset", "everything before it replays"]);
    assert_eq!(dejavm("info {} --json", &[&flipped]).ok().json()["status"], "damaged");
}

#[test]
fn a_console_that_nobody_reads() {
    let folder = Folder::new("broken_console");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = wait(command(&["replay", &file]).stdout(full).spawn().unwrap());
    assert_eq!(ran.code, 1);
    assert!(ran.sentence().contains("console could not be written"), "{}", ran.stderr);
    assert_eq!(run(&["replay", &file]).code, 0);
}
