//! gdb behind an editor: its machine interface, spoken as VS Code's extension code-debug (WebFreak.debug 0.27)
//! speaks it, which is what its requests for attaching, breakpoints, stacks and steps back become.

use dejavm_gdb_tests::{hunted, hunted_program, serve_while};
use dejavm_stub::Target;
use dejavm_units::Position;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

struct Gdb {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    commands: u32,
    /// What it said besides results.
    said: Vec<String>,
}

impl Gdb {
    fn start() -> Gdb {
        let mut command = Command::new("gdb");
        command.args(["-q", "-nx", "--interpreter=mi2"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Gdb { child, lines, commands: 0, said: Vec::new() }
    }

    /// A line that begins so; what comes behind.
    fn await_line(&mut self, beginning: &str) -> String {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("{beginning}: {:?}", self.said));
            let line = line.unwrap();
            println!("<- {line}");
            if let Some(rest) = line.strip_prefix(beginning) {
                return rest.to_owned();
            }
            self.said.push(line);
        }
    }

    /// The result of a command: its class, and what belongs to it.
    fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        let number = self.commands;
        println!("-> {number}-{command}");
        self.said.clear();
        writeln!(self.child.stdin.as_mut().unwrap(), "{number}-{command}").unwrap();
        self.await_line(&format!("{number}^"))
    }

    /// What the user types into the editor's console; what is printed.
    fn console(&mut self, command: &str) -> String {
        let result = self.run(&format!("interpreter-exec console \"{command}\""));
        assert!(result.starts_with("done") || result.starts_with("running"), "{result}");
        self.said.concat()
    }

    /// Makes it run, and waits for the stop.
    fn resume(&mut self, command: &str) -> String {
        let result = self.run(command);
        assert!(result.starts_with("running"), "{command}: {result}");
        self.await_line("*stopped,")
    }

    fn position(&mut self) -> u64 {
        let said = self.console("monitor position");
        let digits: String = said.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("{said:?}"))
    }
}

#[test]
fn as_code_debug_speaks_it() {
    let mut replay = hunted(1);
    let (_, end) = replay.extent();
    replay.seek(Position(end.0 - 100_000_000), &mut || false).unwrap();
    serve_while(&mut replay, |port| {
        let mut gdb = Gdb::start();
        // Its attributes are "target", "remote" and "autorun", as in docs/debugging.md.
        assert_eq!(gdb.run("gdb-set target-async on"), "done");
        assert!(gdb.run("list-features").starts_with("done,features="));
        assert!(gdb.run("environment-directory \"/tmp\"").starts_with("done"));
        let connected = gdb.run(&format!("target-select remote 127.0.0.1:{port}"));
        assert!(connected.starts_with("connected"), "{connected}");
        gdb.console(&format!("add-symbol-file {}", hunted_program().display()));

        // A function breakpoint, and the button "continue".
        let set = gdb.run("break-insert -f \"farewell\"");
        assert!(set.contains("func=\"farewell\""), "{set}");
        let stop = gdb.resume("exec-continue");
        assert!(stop.starts_with("reason=\"breakpoint-hit\""), "{stop}");

        // The views of the editor.
        assert!(gdb.run("thread-info").contains("current-thread-id=\"1\""));
        let stack = gdb.run("stack-list-frames --thread 1 0 1");
        assert!(
            stack.contains("func=\"farewell\"") && stack.contains("func=\"_start\""),
            "{stack}"
        );
        let variables = gdb.run("stack-list-variables --thread 1 --frame 0 --simple-values");
        assert!(variables.contains("name=\"session\""), "{variables}");
        let greet = gdb.run("data-evaluate-expression --thread 1 --frame 0 session->greet");
        assert_eq!(greet, "done,value=\"0x41414140\"");
        assert!(gdb.run("data-list-register-values N").contains("register-values"));

        // The hunt, with the button "reverse".
        let dead = gdb.position();
        gdb.console("watch -l session->greet");
        let stop = gdb.resume("exec-continue --reverse");
        assert!(stop.contains("reason=\"watchpoint-trigger\""), "{stop}");
        assert!(stop.contains("func=\"account\""), "{stop}");
        let store = gdb.position();
        assert!(store < dead);
        gdb.console("delete");

        // The other buttons, forwards and backwards.
        gdb.resume("exec-finish");
        assert_eq!(gdb.position(), store + 2);
        gdb.resume("exec-next");
        let after = gdb.position();
        assert!(after > store + 2);
        gdb.resume("exec-next --reverse");
        let before = gdb.position();
        assert!(before < after);
        gdb.resume("exec-step --reverse");
        // Into an inlined function costs no instruction.
        assert!(gdb.position() <= before);

        // The button "pause", with seconds of the guest ahead.
        gdb.console("monitor goto start");
        gdb.console("maintenance flush register-cache");
        assert!(gdb.run("exec-continue").starts_with("running"));
        assert_eq!(gdb.run("exec-interrupt"), "done");
        let stop = gdb.await_line("*stopped,");
        assert!(stop.starts_with("reason=\"signal-received\",signal-name=\"SIGINT\""), "{stop}");

        assert_eq!(gdb.run("target-detach"), "done");
        assert_eq!(gdb.run("gdb-exit"), "exit");
        gdb.child.wait().unwrap();
    });
}
