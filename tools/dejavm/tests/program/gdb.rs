//! A real gdb on a pipe, command by command, so that a test can act in between.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How long the guest goes on before gdb is asked to stop it, and how long that may take before it is asked again. Much longer than
/// it takes beside other tests: a gdb that is asked twice gives up and disconnects. Then it is over.
const ASKED: [(Duration, &str); 3] = [
    (Duration::from_millis(500), "INT"),
    (Duration::from_secs(60), "INT"),
    (Duration::from_secs(60), "KILL"),
];
/// What gdb prints when it is done with a command.
const DONE: &str = "<<done>>";

pub struct Gdb {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// All that was said, for failures.
    pub transcript: String,
}

impl Gdb {
    /// A gdb with the symbols of `image`, if any, that has not connected yet.
    pub fn start(image: Option<&str>) -> Gdb {
        let mut gdb = Command::new("gdb");
        gdb.args(["-q", "-nx"]);
        for setting in [
            "confirm off",
            "pagination off",
            "width 0",
            "debuginfod enabled off",
            "style enabled off",
        ] {
            gdb.args(["-ex", &format!("set {setting}")]);
        }
        gdb.args(image);
        // One pipe for both streams keeps their order.
        gdb.arg("-ex").arg("python import os; os.dup2(1, 2)");
        gdb.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = gdb.spawn().expect("gdb is installed: `make deps`");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut gdb = Gdb { child, input, output, transcript: String::new() };
        gdb.wait();
        gdb
    }

    /// Gives a command without waiting for its end.
    pub fn begin(&mut self, command: &str) {
        self.transcript.push_str(&format!("(gdb) {command}\n"));
        writeln!(self.input, "{command}").unwrap();
    }

    /// Waits for the end of the last command; what gdb printed.
    pub fn wait(&mut self) -> String {
        writeln!(self.input, "echo {DONE}\\n").unwrap();
        self.input.flush().unwrap();
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let length = self.output.read_line(&mut line).unwrap();
            assert!(length > 0, "gdb ended:\n{}{text}", self.transcript);
            // Commands from a pipe are prompted for, but not echoed.
            let line = line.replace("(gdb) ", "");
            if line.trim_end() == DONE {
                break;
            }
            text.push_str(&line);
        }
        self.transcript.push_str(&text);
        text
    }

    pub fn run(&mut self, command: &str) -> String {
        self.begin(command);
        self.wait()
    }

    /// Runs a command whose output must contain a text.
    #[track_caller]
    pub fn expect(&mut self, command: &str, text: &str) -> String {
        let printed = self.run(command);
        assert!(printed.contains(text), "no {text:?} after {command:?}:\n{}", self.transcript);
        printed
    }

    /// Runs a command that lets the guest go on, and `^C` when it does; what gdb printed.
    pub fn interrupted(&mut self, command: &str) -> String {
        self.begin(command);
        self.input.flush().unwrap();
        let mut text = String::new();
        while !text.contains("Continuing.") {
            let length = self.output.read_line(&mut text).unwrap();
            assert!(length > 0, "gdb ended:\n{}{text}", self.transcript);
        }
        // gdb may still be between two things and miss a signal.
        let (stopped, again) = std::sync::mpsc::channel::<()>();
        let id = self.child.id().to_string();
        let interrupter = std::thread::spawn(move || {
            for (time, signal) in ASKED {
                if again.recv_timeout(time) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let sent = Command::new("kill").args(["-s", signal, &id]).status();
                assert!(sent.unwrap().success());
            }
        });
        while !text.contains("received signal") {
            let length = self.output.read_line(&mut text).unwrap();
            assert!(length > 0, "gdb ended:\n{}{text}", self.transcript);
        }
        drop(stopped);
        interrupter.join().unwrap();
        self.transcript.push_str(&text);
        text + &self.wait()
    }

    /// `monitor position`.
    pub fn position(&mut self) -> u64 {
        let text = self.run("monitor position");
        text.trim().parse().unwrap_or_else(|_| panic!("{text:?}:\n{}", self.transcript))
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a gdb says of a core, command by command; it ends then.
pub fn on_core(core: &Path, commands: &[&str]) -> String {
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-core"]).arg(core);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let ran =
        gdb.stdin(Stdio::null()).output().expect("gdb is installed: `tools/install-deps.sh test`");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
