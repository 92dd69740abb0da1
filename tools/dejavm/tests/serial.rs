//! Serial ports and the virtio console: a Debian kernel talks by them to programs on this host, whoever comes and goes, and the
//! recording replays without any of them.

mod program;

use program::debian::fetched;
use program::recorder::until;
use program::{Folder, Kept, Ran, command, dejavm};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ChildStderr, Command};

/// So long a guest may take to answer, beside other tests.
const PATIENCE: Timespec = Timespec { tv_sec: 240, tv_nsec: 0 };

/// A recorder, its messages, and its files.
struct Recorder {
    child: Kept,
    messages: BufReader<ChildStderr>,
    said: String,
    file: String,
    console: String,
}

impl Recorder {
    fn start(folder: &Folder, append: &str, more: &[&str]) -> Recorder {
        let parts = ["initramfs-amd64.gz", "modules-cloud-amd64.gz"];
        let initrd: Vec<u8> =
            parts.iter().flat_map(|part| fs::read(fetched(part)).unwrap()).collect();
        let (initrd, kernel) = (folder.write("initrd", &initrd), fetched("vmlinuz-cloud-amd64"));
        let append =
            format!("console=ttyS0 quiet cryptomgr.notests dejavm.workload=serial {append}");
        let (file, console) = (folder.path("guest.dvr"), folder.path("console"));
        let mut line =
            vec!["record", "--kernel", &kernel, "--initrd", &initrd, "--append", &append];
        line.extend(["-m", "128", "-o", &file, "--json", "--console", &console]);
        line.extend(["--rtc-epoch", "1577836800", "--digest-interval", "300000000"]);
        line.extend(more);
        let mut child = Kept::new(command(&line).spawn().unwrap());
        let messages = BufReader::new(child.child().stderr.take().unwrap());
        Recorder { child, messages, said: String::new(), file, console }
    }

    /// Reads messages until one has `text`; that one.
    fn message(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.messages.read_line(&mut line).unwrap() > 0,
                "no {text:?} in {}",
                self.said
            );
            self.said.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Its end after the guest's own, and the messages.
    fn end(self) -> (Value, String) {
        let console = self.console.clone();
        let (recorded, said) = self.ended();
        let console = String::from_utf8_lossy(&fs::read(&console).unwrap()).into_owned();
        assert!(console.contains("DEJAVM-WORKLOAD-OK"), "{said}\n{console}");
        assert_eq!(recorded["ending"], "power-off");
        (recorded, said)
    }

    /// Its end, and the messages; the replay is what was recorded.
    fn ended(mut self) -> (Value, String) {
        self.messages.read_to_string(&mut self.said).unwrap();
        let ran = self.child.wait();
        assert_eq!(ran.code, 0, "{}", self.said);
        let recorded = ran.json();
        let verified = dejavm("verify {} --json", &[&self.file]).ok().json();
        for field in ["position", "machine_hash", "memory_hash", "console_hash", "console_bytes"] {
            assert_eq!(verified[field], recorded[field], "{field}");
        }
        (recorded, self.said)
    }
}

/// Somebody at the other end of a line.
struct Talk<S: Read + Write + AsFd> {
    stream: S,
    heard: String,
    /// So much of it was expected.
    expected: usize,
}

impl Talk<UnixStream> {
    fn to(socket: &str) -> Talk<UnixStream> {
        until("it listens", || Path::new(socket).exists());
        Talk::with(UnixStream::connect(socket).unwrap())
    }
}

impl<S: Read + Write + AsFd> Talk<S> {
    fn with(stream: S) -> Talk<S> {
        Talk { stream, heard: String::new(), expected: 0 }
    }

    /// Waits for a line with `text`.
    fn hear(&mut self, text: &str) {
        loop {
            let rest = &self.heard[self.expected..];
            if let Some(at) = rest.find(text)
                && let Some(end) = rest[at..].find('\n')
            {
                self.expected += at + end + 1;
                return;
            }
            let mut ready = [PollFd::new(&self.stream, PollFlags::IN)];
            let waited = poll(&mut ready, Some(&PATIENCE)).unwrap();
            assert!(waited > 0, "for minutes no {text:?} after {:?}", self.heard);
            let mut piece = [0; 4096];
            let length = self.stream.read(&mut piece).unwrap();
            assert!(length > 0, "the end, and no {text:?} after {:?}", self.heard);
            self.heard.push_str(str::from_utf8(&piece[..length]).unwrap());
        }
    }

    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }
}

#[test]
fn four_ports_and_a_console_lead_elsewhere_and_the_recording_replays() {
    let folder = Folder::new("serial_ports");
    let (com2, hvc, numbers) = (folder.path("com2"), folder.path("hvc"), folder.path("numbers"));
    let ports = [
        format!("2=unix:{com2}"),
        "3=pty".into(),
        format!("4=file:{numbers}"),
        format!("virtio=unix:{hvc}"),
    ];
    let more: Vec<&str> = ports.iter().flat_map(|port| ["--serial", port]).collect();
    let append = "dejavm.ports=ttyS1,ttyS2,hvc0 dejavm.say=ttyS3";
    let mut recorder = Recorder::start(&folder, append, &more);
    let mut console = Talk::to(&hvc);
    let mut second = Talk::to(&com2);
    let line = recorder.message("serial port 3 is ");
    let terminal = line.trim().rsplit(' ').next().unwrap();
    // It must not become this program's own: that would be told when it is hung up.
    let how = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = rustix::fs::open(terminal, how, Mode::empty()).map(File::from);
    let mut third = Talk::with(open.unwrap());

    second.hear("ttyS1 ready");
    second.say("one\n");
    second.hear("ttyS1 [one]");
    // Whoever hangs up does no harm, and another may come.
    drop(second);
    third.hear("ttyS2 ready");
    third.say("by a terminal\n");
    third.hear("ttyS2 [by a terminal]");
    let mut second = Talk::to(&com2);
    let long = "x".repeat(3000);
    second.say(&format!("{long}\n"));
    second.hear(&format!("ttyS1 [{long}]"));
    console.hear("hvc0 ready");
    console.say(&format!("{long}\n"));
    console.hear(&format!("hvc0 [{long}]"));
    console.say("quit\n");
    console.hear("hvc0 done");
    second.say("quit\n");
    third.say("quit\n");
    second.hear("ttyS1 done");

    let expected: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    let file = recorder.file.clone();
    let (_, said) = recorder.end();
    assert!(!said.contains("lost"), "{said}");
    assert!(!Path::new(&com2).exists() && !Path::new(&hvc).exists(), "sockets are removed");
    assert_eq!(fs::read_to_string(&numbers).unwrap(), expected);

    // A replay writes what each port sent, to where it is told.
    let (two, four) = (folder.path("two"), folder.path("four"));
    let replay = ["replay", &file, "--serial", &format!("2=file:{two}")].map(str::to_owned);
    let more = ["--serial", &format!("4=file:{four}"), "--serial", "virtio=stdio"];
    let line: Vec<String> = replay.into_iter().chain(more.map(str::to_owned)).collect();
    let replayed = program::run(&line).ok();
    assert_eq!(fs::read_to_string(&four).unwrap(), expected);
    let sent = format!("ttyS1 ready\nttyS1 [one]\nttyS1 [{long}]\nttyS1 done\n");
    assert_eq!(fs::read_to_string(&two).unwrap(), sent);
    assert_eq!(replayed.stdout, format!("hvc0 ready\nhvc0 [{long}]\nhvc0 done\n"));
}

/// More than a megabyte for a client that takes none of it, and a little for a pipe that nobody opens.
#[test]
fn who_does_not_read_holds_nothing_up() {
    let folder = Folder::new("serial_deaf");
    let (socket, pipe) = (folder.path("hvc"), folder.path("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let ports = [format!("virtio=unix:{socket}"), format!("2=file:{pipe}")];
    let more: Vec<&str> = ports.iter().flat_map(|port| ["--serial", port]).collect();
    let append = "dejavm.ports=ttyS1 dejavm.say=hvc0 dejavm.numbers=220000";
    let mut recorder = Recorder::start(&folder, append, &more);
    let deaf = Talk::to(&socket);
    until("the guest waits for lines", || {
        fs::read_to_string(&recorder.console).is_ok_and(|console| console.contains("answering"))
    });
    assert!(
        Command::new("kill")
            .arg(recorder.child.child().id().to_string())
            .status()
            .unwrap()
            .success()
    );
    let file = recorder.file.clone();
    let (recorded, said) = recorder.ended();
    assert_eq!(recorded["ending"], "stopped");
    let lost = said.lines().filter(|line| line.contains("virtio console: nobody takes"));
    assert_eq!(lost.count(), 1, "{said}");
    drop(deaf);
    // The recording has it all.
    let sent = folder.path("sent");
    dejavm("replay {} -q --serial {}", &[&file, &format!("virtio=file:{sent}")]).ok();
    let expected: String = (1..=220_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(&sent).unwrap() == expected);
}

#[test]
fn ports_that_cannot_be_had_are_refused_in_a_sentence() {
    let folder = Folder::new("serial_refused");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    let refused = |line: &str, paths: &[&str], code: i32, parts: &[&str]| {
        let Ran { code: got, stderr, .. } = dejavm(line, paths);
        assert_eq!(got, code, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "no {part:?} in {stderr}");
        }
        assert!(!fs::exists(&file).unwrap(), "nothing was recorded");
    };
    let record = |port: &str, code: i32, parts: &[&str]| {
        let line = format!("record --kernel {{}} -m 32 -o {{}} --serial {port}");
        refused(&line, &[&kernel, &file], code, parts);
    };
    record("5=pty", 2, &["the ports are 1, 2, 3, 4 and virtio"]);
    record("2=telnet:x", 2, &["a port leads to one of stdio, pty, file:PATH"]);
    record("2=pty --serial 2=null", 2, &["--serial 2: it is said twice"]);
    record("stdio --serial stdio", 2, &["--serial 2: another port is on standard input"]);
    let console = folder.path("console");
    let line = format!("1=null --console {console}");
    record(&line, 2, &["--console: no serial port is on stdio"]);
    assert!(!fs::exists(&console).unwrap(), "no console's file was made");
    record("2=file:/nonexistent/file", 1, &["/nonexistent/file", "serial port 2 cannot be made"]);
    record("2=unix:/nonexistent/socket", 5, &["/nonexistent/socket: it cannot be listened on"]);
    record("2=device:/nonexistent", 5, &["/nonexistent: it cannot be opened"]);
    record("2=device:/etc/passwd", 5, &["this is no character device"]);

    dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
    let (plain, branch) = (file.clone(), folder.path("branch.dvr"));
    let replayed = dejavm("replay {} --serial 2=null", &[&plain]);
    assert!(replayed.stderr.contains("started without that port"), "{}", replayed.stderr);
    let typed = dejavm("replay {} --serial 1=pty", &[&plain]);
    assert!(typed.stderr.contains("a replay takes nothing in"), "{}", typed.stderr);
    let branched = dejavm("branch {} --at start -o {} --serial virtio=null", &[&plain, &branch]);
    assert_eq!(branched.code, 2, "{}", branched.stderr);
    assert!(branched.stderr.contains("--serial virtio: this machine was started without"));
}

/// What was COM1's on standard output goes where it is told, in recording and in replay.
#[test]
fn the_first_port_may_lead_elsewhere_too() {
    let folder = Folder::new("serial_first");
    let (kernel, file) = (folder.guest("hello"), folder.path("hello.dvr"));
    let plain = dejavm("record --kernel {} -m 32 -o {}", &[&kernel, &file]).ok();
    assert!(!plain.stdout.is_empty());
    let (one, again) = (folder.path("one"), folder.path("again"));
    let to_file = format!("1=file:{one}");
    let line = "record --kernel {} -m 32 -o {} --force --serial {}";
    let recorded = dejavm(line, &[&kernel, &file, &to_file]).ok();
    assert_eq!(recorded.stdout, "");
    assert_eq!(fs::read_to_string(&one).unwrap(), plain.stdout);
    let replayed = dejavm("replay {} --serial {}", &[&file, &format!("file:{again}")]).ok();
    assert_eq!((replayed.stdout.as_str(), fs::read_to_string(&again).unwrap()), ("", plain.stdout));
    // A device that takes nothing is told of once.
    let full = dejavm(line, &[&kernel, &file, "1=file:/dev/full"]).ok();
    assert_eq!(full.stderr.matches("can no longer be written").count(), 1, "{}", full.stderr);
    dejavm("verify {}", &[&file]).ok();
}
