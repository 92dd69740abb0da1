//! A recorder that a debugger comes to.

use super::gdb::Gdb;
use super::{Folder, Kept, Ran, command, dejavm};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Nothing here takes so long, on the slowest host.
const PATIENCE: Duration = Duration::from_secs(600);

#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        // Another processor's work is waited for: this one's is left to it.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A recorder that listens on a unix socket, and what it needs.
pub struct Recorder {
    pub child: Kept,
    /// The guest's console.
    pub console: String,
    pub file: String,
    pub socket: String,
    pub kernel: String,
}

impl Recorder {
    pub fn start(folder: &Folder, guest: &str, more: &[&str]) -> Recorder {
        let (kernel, file) = (folder.guest(guest), folder.path("it.dvr"));
        let more = [more, &["-m", "16", "--rtc-epoch", "1000000000"]].concat();
        Recorder::of(folder, &kernel, &file, &more)
    }

    pub fn of(folder: &Folder, kernel: &str, file: &str, more: &[&str]) -> Recorder {
        let socket = folder.path("gdb");
        let (listen, console) = (format!("--gdb={socket}"), folder.path("console"));
        let arguments =
            ["record", "--kernel", kernel, "-o", file, "--json", "--console", &console, &listen];
        let arguments: Vec<&str> = arguments.iter().chain(more).copied().collect();
        let child = Kept::new(command(&arguments).stdin(Stdio::piped()).spawn().unwrap());
        until("it listens", || Path::new(&socket).exists());
        let (file, kernel) = (file.to_owned(), kernel.to_owned());
        Recorder { child, console, file, socket, kernel }
    }

    pub fn gdb(&self, connect: &str) -> Gdb {
        let mut gdb = Gdb::start(Some(&self.kernel));
        let reply = gdb.run(&format!("target remote {}", self.socket));
        assert!(reply.contains(connect), "no {connect:?}:\n{}", gdb.transcript);
        gdb
    }

    pub fn console(&self) -> String {
        std::fs::read(&self.console)
            .map_or(String::new(), |text| String::from_utf8_lossy(&text).into())
    }

    #[track_caller]
    pub fn await_text(&self, text: &str) {
        until(text, || self.console().contains(text));
    }

    pub fn type_in(&mut self, keys: &str) {
        let input = self.child.child().stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// Its end, its console, and the replay of what it recorded.
    pub fn end(self) -> (Ran, String, serde_json::Value) {
        let console = self.console.clone();
        let ran = self.child.wait().ok();
        let console = String::from_utf8_lossy(&std::fs::read(console).unwrap()).into_owned();
        let recorded = ran.json();
        let replayed = dejavm("verify {} --json", &[&self.file]).ok().json();
        assert_eq!(replayed["result"], "equal", "{}", ran.stderr);
        assert_eq!(replayed["position"], recorded["position"]);
        assert_eq!(replayed["console_hash"], recorded["console_hash"]);
        (ran, console, recorded)
    }
}
