//! `dejavm replay --gdb` as a debugger finds it: where it listens, whom it serves, how it ends.

mod program;

use program::{Folder, command, run, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr};

/// A replay that waits for debuggers.
struct Server {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// What the log line names.
    place: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = command(arguments).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let place = line
            .strip_prefix("dejavm is listening for debug connection on ")
            .and_then(|rest| rest.strip_suffix(".\n"))
            .unwrap_or_else(|| panic!("{line:?}"))
            .to_owned();
        Server { child, stderr, place }
    }

    fn port(&self) -> u16 {
        self.place.strip_prefix("port ").unwrap().parse().unwrap()
    }

    fn connect(&self) -> Client<TcpStream> {
        Client(TcpStream::connect(("127.0.0.1", self.port())).unwrap())
    }

    /// The rest of what it says, once it has ended; and its status.
    fn end(mut self) -> (i32, String, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        let ran = wait(self.child);
        (ran.code, rest, ran.stdout)
    }
}

struct Client<S>(S);

impl<S: Read + Write> Client<S> {
    /// Sends a packet; the payload of the first that comes back and is no console text.
    fn ask(&mut self, payload: &str) -> String {
        let sum = payload.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
        self.0.write_all(format!("${payload}#{sum:02x}").as_bytes()).unwrap();
        self.reply()
    }

    fn reply(&mut self) -> String {
        loop {
            let mut reply = String::new();
            while !reply.contains('#') {
                let mut byte = [0];
                self.0.read_exact(&mut byte).unwrap();
                reply.push(char::from(byte[0]));
            }
            self.0.read_exact(&mut [0; 2]).unwrap();
            let payload =
                reply.trim_start_matches('+').trim_start_matches('$').trim_end_matches('#');
            if !payload.starts_with('O') || payload == "OK" {
                return payload.to_owned();
            }
        }
    }

    /// Nothing more comes.
    fn is_closed(&mut self) -> bool {
        !matches!(self.0.read(&mut [0; 16]), Ok(1..))
    }
}

fn recording(folder: &Folder, guest: &str) -> String {
    let path = folder.path("it.dvr");
    let kernel = folder.guest(guest);
    run(&["record", "--kernel", &kernel, "-m", "16", "-o", &path, "--idle", "skip"]).ok();
    path
}

#[test]
fn one_client_at_a_time_and_one_after_the_other() {
    let folder = Folder::new("debugger-clients");
    let recording = recording(&folder, "hello");
    let server = Server::start(&["replay", &recording, "--gdb", "--json"]);
    assert!((8832..8932).contains(&server.port()), "a guest of 32 bits: {}", server.place);
    // Another server finds the next free port.
    let other = Server::start(&["replay", &recording, "--gdb", "--gdb-bits", "64"]);
    assert!((8864..8964).contains(&other.port()), "{}", other.place);
    let third = Server::start(&["replay", &recording, "--gdb=127.0.0.1"]);
    assert!((8832..8932).contains(&third.port()) && third.port() != server.port());

    let mut first = server.connect();
    assert!(first.ask("?").contains("08:00001000;"));
    assert!(first.ask("s").starts_with("T05"));
    assert!(server.connect().is_closed(), "a second one is turned away");
    let here = first.ask("p8");
    // Its connection breaks in the middle of a packet.
    first.0.write_all(b"$m1000").unwrap();
    drop(first);

    // The machine stands where it stood.
    let mut second = loop {
        let mut client = server.connect();
        // The first one's end takes a moment to be seen.
        let mut byte = [0];
        client.0.write_all(b"$qC#b4").unwrap();
        if client.0.read_exact(&mut byte).is_ok() {
            client.0.read_exact(&mut [0; 7]).unwrap();
            break client;
        }
    };
    assert_eq!(second.ask("p8"), here);
    assert_eq!(second.ask("D"), "OK");
    assert!(second.is_closed());
    drop(second);

    // After `detach` it went on: to the end, sooner or later.
    let mut last = loop {
        let mut client = server.connect();
        client.0.write_all(b"$qC#b4").unwrap();
        if client.0.read_exact(&mut [0]).is_ok() {
            client.0.read_exact(&mut [0; 7]).unwrap();
            break client;
        }
    };
    assert!(last.ask("bc").contains("replaylog:begin;"));
    assert!(last.ask("vCont;c").contains("replaylog:end;"));
    assert_eq!(last.ask("vKill;1"), "OK");
    let (code, log, json) = server.end();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("dejavm: a second debugger was turned away"), "{log}");
    assert!(log.contains("dejavm: the debugger is gone; another may come"), "{log}");
    assert!(log.contains("dejavm: the debugger has left; the replay goes on"), "{log}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["result"], "debugged");

    // `k` has no answer.
    let mut client = other.connect();
    assert!(client.ask("g").len() > 1000, "registers of 64 bits");
    client.0.write_all(b"$k#6b").unwrap();
    assert_eq!(other.end().0, 0);
    // The user's ^C ends it, a client or not.
    let _client = third.connect();
    kill_process(Pid::from_child(&third.child), Signal::INT).unwrap();
    assert_eq!(third.end().0, 0);
    // The recording never changes by all this.
    run(&["verify", &recording]).ok();
}

#[test]
fn a_run_is_interrupted_and_a_lost_client_stops_it() {
    let folder = Folder::new("debugger-interrupts");
    let recording = recording(&folder, "demo");
    let server = Server::start(&["replay", &recording, "--gdb"]);
    let mut client = server.connect();
    client.0.write_all(b"$vCont;c#a8").unwrap();
    client.0.write_all(b"\x03").unwrap();
    assert_eq!(client.reply().get(..3), Some("T02"));
    client.0.write_all(b"$vCont;c#a8").unwrap();
    drop(client);
    // Ended by the user while it may still run.
    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    assert_eq!(server.end().0, 0);
}

#[test]
fn a_unix_socket() {
    let folder = Folder::new("debugger-unix");
    let recording = recording(&folder, "hello");
    let socket = folder.path("gdb.socket");
    let server = Server::start(&["replay", &recording, &format!("--gdb={socket}")]);
    assert_eq!(server.place, socket);
    let mut client = Client(UnixStream::connect(&socket).unwrap());
    assert!(client.ask("?").starts_with("T05"));
    assert_eq!(client.ask("vKill;1"), "OK");
    assert_eq!(server.end().0, 0);
    assert!(!std::path::Path::new(&socket).exists(), "it cleans up");
    // Where it cannot listen it says so, and where a port was named no other is taken.
    let busy = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = busy.local_addr().unwrap().port();
    let ran = run(&["replay", &recording, &format!("--gdb={port}")]);
    assert_eq!(ran.code, 1);
    assert!(ran.sentence().contains("no debugger can be listened for"), "{}", ran.stderr);
    assert_eq!(run(&["replay", &recording, "--gdb=nowhere.example"]).code, 2);
}

#[test]
fn the_gdb_script_names_every_command() {
    let script = run(&["gdbinit"]).ok().stdout;
    for word in ["\"goto\"", "\"last-write\"", "\"dejavm-info\"", "dejavm-follow-mode"] {
        assert!(script.contains(word), "{word} in {script}");
    }
}

/// The script, in the real gdb: arguments are gdb's expressions, and gdb looks again where the machine moved.
#[test]
fn the_gdb_script_works() {
    let folder = Folder::new("debugger-script");
    let recording = recording(&folder, "paging");
    let script = folder.write("dejavm.gdb", run(&["gdbinit"]).ok().stdout.as_bytes());
    let server = Server::start(&["replay", &recording, "--gdb"]);
    let connect = format!("target remote :{}", server.port());
    let mut gdb = std::process::Command::new("gdb");
    gdb.args(["-batch", "-nx", "-ex", "set confirm off", "-x", &script, "-ex", &connect]);
    for command in [
        "goto 100",
        "set $there = 50",
        "goto $there",
        "position",
        "goto start",
        "print $pc",
        "dejavm-follow-mode",
        // Where the guest's 64-bit code begins.
        "break *0x100460",
        "continue",
        "print $r8",
        "goto 100",
        "print sizeof($sp)",
        "mark here",
        "dejavm-mark here",
        "stopat here",
        "kill",
    ] {
        gdb.args(["-ex", &format!("echo <{command}>"), "-ex", command]);
    }
    let output = gdb.output().expect("gdb is installed: `make deps`");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for expected in [
        "position 100, at 0x100150",
        "position 50, at 0x",
        "<print $pc>$1 = (void (*)()) 0x100000",
        "Breakpoint 1, 0x0",
        "<print $r8>$2 = 0",
        "<print sizeof($sp)>$3 = 4",
        "here is position 100",
        "the machine stands at 100 already",
    ] {
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    assert_eq!(server.end().0, 0);
    // The mark is in the recording.
    let marks = run(&["marks", &recording]).ok().stdout;
    assert!(marks.contains("  here"), "{marks}");
}
