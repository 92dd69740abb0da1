//! The screen for VNC viewers, those that others wrote and those that misbehave.

mod program;

use dejavm_judges::{ask, script};
use program::gdb::Gdb;
use program::recorder::until;
use program::{Folder, Kept, command, dejavm};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A disk's first sector: what is typed is shown, and told to the debug console behind it; Esc leaves by the exit port.
///
/// ```text
/// 0:  mov ah, 0 / int 16h        10: mov al, 10h
/// 4:  cmp al, 1bh / je 10        12: out f4h, al
/// 8:  mov ah, 0eh / int 10h      14: jmp 14
/// c:  out e9h, al / jmp 0
/// ```
const ECHO: &[u8] =
    b"\xb4\x00\xcd\x16\x3c\x1b\x74\x08\xb4\x0e\xcd\x10\xe6\xe9\xeb\xf0\xb0\x10\xe6\xf4\xeb\xfe";

const TYPED: &str = "Hello, World? (it's 100 % \"echo\")";

/// A port that was free just now.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn file(path: &str) -> String {
    std::fs::read(path).map_or(String::new(), |text| String::from_utf8_lossy(&text).into())
}

/// vncdotool, on a port of this host.
fn viewer(port: u16, actions: &[&str]) {
    let port = port.to_string();
    ask(&script("vnc.py"), &[&[&*port], actions].concat());
}

/// gvnccapture, which has its ports counted from 5900.
fn capture(port: u16, picture: &str) {
    let ran = Command::new("gvnccapture")
        .args([&format!("127.0.0.1:{}", i32::from(port) - 5900), picture])
        .output()
        .expect("gvnccapture is there: tools/install-deps.sh test installs it");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// All show the same, in the dimensions of text.
#[track_caller]
fn assert_same(pictures: &[&str]) {
    let answer = ask(&script("pictures.py"), pictures);
    assert_eq!(answer["same"], true, "{answer}");
    assert_eq!(answer["sizes"][0].to_string(), "[720,400]");
}

fn starts(arguments: &[&str]) -> Kept {
    Kept::new(command(arguments).stdin(Stdio::piped()).spawn().unwrap())
}

#[test]
fn a_viewer_types_and_sees_what_a_screenshot_shows() {
    let folder = Folder::new("screen_typed");
    let mut disk = ECHO.to_vec();
    disk.resize(1 << 20, 0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let disk = folder.write("disk.img", &disk) + ",format=raw,if=ide";
    let [recording, log, dotool, gtk, shot] =
        ["it.dvr", "log", "dotool.png", "gtk.png", "shot.png"].map(|name| folder.path(name));
    let at = port();
    let recorder = starts(&[
        "record",
        "--bios",
        "-m",
        "32",
        "--disk",
        &disk,
        "--vnc",
        &at.to_string(),
        "-o",
        &recording,
        "--json",
        "--debug-console",
        &log,
        "--rtc-epoch",
        "1000000000",
    ]);
    until("it boots", || file(&log).contains("Booting from 0000:7c00"));
    viewer(at, &[&format!("type:{TYPED}"), "move:10,10", "move:50,20", "click:1"]);
    until("all was typed", || file(&log).ends_with(TYPED));
    viewer(at, &[&format!("capture:{dotool}")]);
    capture(at, &gtk);
    viewer(at, &["key:esc"]);
    let ran = recorder.wait().ok();
    assert_eq!(ran.json()["ending"], "debug-exit", "{}", ran.stderr);
    assert_eq!(ran.json()["debug_exit"], 0x10);

    let verified = dejavm("verify {} --json", &[&recording]).ok().json();
    assert_eq!(verified["machine_hash"], ran.json()["machine_hash"]);
    let screenshot = dejavm("screenshot {} {} --json", &[&recording, &shot]).ok().json();
    let line = screenshot["text"].as_array().unwrap().iter().find(|line| *line == TYPED);
    assert!(line.is_some(), "{screenshot}");
    assert_same(&[&shot, &dotool, &gtk]);

    // In replay: what comes at the end is waited for; keys are not heard.
    let at = port();
    let replay = starts(&["replay", &recording, "--vnc", &at.to_string(), "--json", "--quiet"]);
    // Who hangs up at once is no viewer, and the replay goes on waiting for one.
    until("it listens", || std::net::TcpStream::connect(("127.0.0.1", at)).is_ok());
    viewer(at, &["type:nobody hears this", &format!("expect:{shot}")]);
    let replayed = replay.wait().ok();
    assert_eq!(replayed.json()["machine_hash"], ran.json()["machine_hash"], "{}", replayed.stderr);

    // Under gdb: where it stands, there and back.
    let (at, socket) = (port(), folder.path("gdb"));
    let debugged =
        starts(&["replay", &recording, "--vnc", &at.to_string(), &format!("--gdb={socket}")]);
    until("it listens", || Path::new(&socket).exists());
    let mut gdb = Gdb::start(None);
    gdb.run(&format!("target remote {socket}"));
    let end = ran.json()["position"].as_u64().unwrap();
    for position in [end, end * 2 / 3, end] {
        gdb.run(&format!("monitor goto {position}"));
        let place = position.to_string();
        dejavm("screenshot {} {} --at {} --force", &[&recording, &shot, &place]).ok();
        capture(at, &gtk);
        let answer = ask(&script("pictures.py"), &[&shot, &gtk]);
        assert_eq!(answer["same"], true, "at {position}: {answer}\n{}", gdb.transcript);
    }
    gdb.run("kill");
    debugged.wait().ok();
}

/// A viewer of our own, byte by byte.
struct Viewer(UnixStream);

impl Viewer {
    fn come(socket: &str) -> Viewer {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        Viewer(stream)
    }

    /// Says so much as it is heard.
    fn say(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe) => {
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn hear(&mut self, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        self.0.read_exact(&mut heard).unwrap();
        heard
    }
}

const HELLO: &[u8] = b"RFB 003.008\n\x01\x01";
const ALL_OF_IT: &[u8] = b"\x03\0\0\0\0\0\xff\xff\xff\xff";
const A_DOWN: &[u8] = b"\x04\x01\0\0\0\0\0a";

#[test]
fn viewers_that_misbehave_and_that_are_killed_do_not_disturb_a_recording() {
    let folder = Folder::new("screen_hostile");
    let [recording, console, socket] = ["it.dvr", "console", "vnc"].map(|name| folder.path(name));
    let kernel = folder.guest("desk");
    let mut recorder = starts(&[
        "record",
        "--kernel",
        &kernel,
        "-m",
        "16",
        "--vnc",
        &format!("unix:{socket}"),
        "-o",
        &recording,
        "--json",
        "--console",
        &console,
        "--rtc-epoch",
        "1000000000",
    ]);
    until("it is ready", || file(&console).contains("desk ready, mouse 03\n"));

    // One that speaks something else is sent away.
    let mut stranger = Viewer::come(&socket);
    stranger.say(b"GET / HTTP/1.1\r\n\r\n");
    let mut said = Vec::new();
    stranger.0.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"RFB 003.008\n");
    // One that asks and never reads, and stays.
    let mut deaf = Viewer::come(&socket);
    deaf.say(HELLO);
    deaf.say(&ALL_OF_IT.repeat(10_000));
    // One that goes in the middle of a picture.
    for _ in 0..10 {
        let mut killed = Viewer::come(&socket);
        killed.say(HELLO);
        killed.say(ALL_OF_IT);
        killed.hear(12 + 2 + 4 + 24 + 1000);
    }
    // More than there is room for.
    let crowd: Vec<Viewer> = (0..40).map(|_| Viewer::come(&socket)).collect();
    drop(crowd);
    // One that goes with a key and a button down, which go up. It has to wait until the crowd has left.
    let mut typing = Viewer::come(&socket);
    until("there is room", || {
        let let_in = typing.0.read_exact(&mut [0; 12]).is_ok();
        if !let_in {
            typing = Viewer::come(&socket);
        }
        let_in
    });
    typing.say(HELLO);
    typing.say(&[A_DOWN, b"\x05\0\0\x10\0\x10", b"\x05\x01\0\x15\0\x0f"].concat());
    until("the key and the button are down", || {
        let console = file(&console);
        console.contains("k1e\n") && console.contains("m09050100\n")
    });
    assert!(!file(&console).contains("k9e"));
    drop(typing);
    until("they are up", || {
        let console = file(&console);
        console.contains("k9e\n") && console.contains("m08000000\n")
    });

    recorder.child().stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let ran = recorder.wait().ok();
    assert_eq!(ran.json()["ending"], "debug-exit", "{}", ran.stderr);
    assert!(ran.stderr.contains("a viewer was sent away: it speaks another protocol"));
    assert!(!Path::new(&socket).exists());
    let verified = dejavm("verify {} --json", &[&recording]).ok().json();
    for field in ["position", "machine_hash", "memory_hash", "console_hash"] {
        assert_eq!(verified[field], ran.json()[field], "{field}");
    }
}

#[test]
fn what_cannot_be_shown_is_refused_in_a_sentence() {
    let folder = Folder::new("screen_refused");
    let [recording, again] = ["it.dvr", "again.dvr"].map(|name| folder.path(name));
    let kernel = folder.guest("hello");
    dejavm("record --kernel {} -m 16 -o {} --rtc-epoch 0", &[&kernel, &recording]).ok();
    for line in ["replay {} --vnc :1", "replay {} --gdb=127.0.0.1:1 --vnc :1"] {
        let refused = dejavm(line, &[&recording]);
        assert_eq!(
            (refused.code, refused.sentence().contains("no display")),
            (2, true),
            "{}",
            refused.stderr
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().port().to_string();
    let refused = dejavm("record --kernel {} -m 16 -o {} --vnc {}", &[&kernel, &again, &taken]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.sentence().contains("no viewer can be listened for"), "{}", refused.stderr);
    assert!(!Path::new(&again).exists(), "nothing was begun");
    let refused = dejavm("record --kernel {} -m 16 -o {} --vnc a.example:1", &[&kernel, &again]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    let public = format!("0.0.0.0:{}", port());
    let public = dejavm("record --kernel {} -m 16 -o {} --vnc {}", &[&kernel, &again, &public]);
    assert!(public.stderr.contains("there is no password"), "{}", public.stderr);
}
