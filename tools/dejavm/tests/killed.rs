//! A recorder that is killed leaves a recording that replays to what was written last; one that is
//! asked to end ends its recording.

mod program;

use program::{Folder, command, dejavm, wait};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: u64 = 50;

/// Lets a recorder live until its file has so many bytes; or, as no recorder may be so slow, a minute.
fn await_bytes(path: &str, bytes: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(path).map_or(0, |file| file.len()) < bytes {
        assert!(Instant::now() < deadline, "{path} does not reach {bytes} bytes");
        std::thread::yield_now();
    }
}

#[test]
fn a_recorder_killed_at_any_moment_leaves_a_recording() {
    let folder = Folder::new("killed");
    let seed: u64 = 20_061_122;
    let mut random = seed;
    let mut lengths = Vec::new();
    // Short waits between checkpoints, so that recorders are killed while one is under way.
    let guests = [("spin", "2000000", "700000"), ("timer", "1000", "2000")];
    let mut with_checkpoints = 0;
    for (guest, digests, checkpoints) in guests {
        let (kernel, whole) = (folder.guest(guest), folder.path("whole.dvr"));
        let line = format!(
            "record --kernel {{}} -m 16 -o {{}} --force --digest-interval {digests} --checkpoint-interval \
                 {checkpoints}"
        );
        dejavm(&line, &[&kernel, &whole]).ok();
        let whole_bytes = fs::metadata(&whole).unwrap().len();
        for n in 0..KILLS / 2 {
            let file = folder.path(&format!("{guest}-{n}.dvr"));
            let arguments = [
                "record",
                "--kernel",
                &kernel,
                "-m",
                "16",
                "-o",
                &file,
                "--digest-interval",
                digests,
                "--checkpoint-interval",
                checkpoints,
            ];
            let mut child = command(&arguments).stdout(Stdio::null()).spawn().unwrap();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            await_bytes(&file, (random >> 33) % (whole_bytes * 9 / 10));
            child.kill().unwrap();
            wait(child);

            let left = fs::metadata(&file).unwrap().len();
            let ran = dejavm("verify {} --json", &[&file]);
            let context = format!("seed {seed}, {guest}, kill {n}, {left} bytes: {}", ran.stderr);
            match ran.code {
                0 => {
                    let value = ran.json();
                    if value["complete"] == false {
                        assert!(
                            ran.stderr.contains("was cut short: the file ends at"),
                            "{context}"
                        );
                        let info = dejavm("info {} --json", &[&file]).ok().json();
                        assert_eq!(info["status"], "cut short", "{context}");
                        assert_eq!(info["position"], value["position"], "{context}");
                        assert_eq!(info["guest_ns"], value["guest_ns"], "{context}");
                        with_checkpoints += u32::from(info["checkpoints"] != 0);
                        lengths.push(value["position"].as_u64().unwrap());
                    }
                }
                // Killed before the start state was written.
                4 => assert!(ran.stderr.contains("ends at offset") || left < 16, "{context}"),
                _ => panic!("{context}"),
            }
        }
    }
    assert!(lengths.iter().filter(|&&position| position > 0).count() > 10, "{lengths:?}");
    assert!(with_checkpoints > 10, "{with_checkpoints}");
}

#[test]
fn a_recorder_that_is_asked_to_end_ends_its_recording() {
    let folder = Folder::new("asked");
    let kernel = folder.guest("echo");
    for signal in ["INT", "TERM", "HUP"] {
        let file = folder.path(&format!("{signal}.dvr"));
        // Waits for input for ever.
        let arguments = ["record", "--kernel", &kernel, "-m", "16", "-o", &file];
        let child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        await_bytes(&file, 1000);
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let ran = wait(child).ok();
        assert!(ran.sentence().contains("stopped"), "{signal}: {}", ran.stderr);
        let value = dejavm("verify {} --json", &[&file]).ok().json();
        assert_eq!((&value["complete"], &value["ending"]), (&true.into(), &"stopped".into()));
    }
}
