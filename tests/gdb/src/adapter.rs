//! A debug adapter as an editor has it: a child that speaks the Debug Adapter Protocol, version 1.x.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Nothing that is asked here takes so long, on the slowest host.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running adapter. Dropping it ends it.
pub struct Adapter {
    child: Child,
    input: ChildStdin,
    arriving: Receiver<Value>,
    /// Messages that nobody has asked for yet.
    waiting: VecDeque<Value>,
    requests: u64,
}

impl Adapter {
    /// Starts it.
    pub fn start(program: &str, arguments: &[&str]) -> Adapter {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the adapter is installed: `make judges`");
        let input = child.stdin.take().expect("it is a pipe");
        let output = BufReader::new(child.stdout.take().expect("it is a pipe"));
        let (sender, arriving) = channel();
        std::thread::spawn(move || forward(output, &sender));
        Adapter { child, input, arriving, waiting: VecDeque::new(), requests: 0 }
    }

    /// Sends a request; its number.
    pub fn send(&mut self, command: &str, arguments: Value) -> u64 {
        self.requests += 1;
        println!("-> {command} {arguments}");
        let request = json!({
            "seq": self.requests, "type": "request", "command": command, "arguments": arguments,
        });
        let text = request.to_string();
        write!(self.input, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("it reads");
        self.input.flush().expect("it reads");
        self.requests
    }

    /// The body of the response to a request, which must succeed.
    #[track_caller]
    pub fn response(&mut self, request: u64) -> Value {
        let response =
            self.next(|message| message["type"] == "response" && message["request_seq"] == request);
        assert_eq!(response["success"], true, "{response}");
        response["body"].clone()
    }

    /// Sends a request and waits for what comes back.
    #[track_caller]
    pub fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = self.send(command, arguments);
        self.response(request)
    }

    /// The next event of this kind; its body.
    #[track_caller]
    pub fn event(&mut self, name: &str) -> Value {
        let event = self.next(|message| message["type"] == "event" && message["event"] == name);
        event["body"].clone()
    }

    /// A command to the debugger behind it, as typed into the editor's console; the text that is
    /// answered, and what the adapter has printed until then.
    #[track_caller]
    pub fn console(&mut self, command: &str) -> String {
        self.printed();
        let body = self.ask("evaluate", json!({ "expression": command, "context": "repl" }));
        let result = body["result"].as_str().unwrap_or_default();
        format!("{}{result}", self.printed())
    }

    /// What it has printed since it was asked last.
    pub fn printed(&mut self) -> String {
        self.waiting.extend(self.arriving.try_iter());
        let mut text = String::new();
        self.waiting.retain(|message| {
            let output = message["event"] == "output";
            if output {
                text += message["body"]["output"].as_str().unwrap_or_default();
            }
            !output
        });
        text
    }

    /// The frames of a thread, innermost first: function, line, identifier.
    #[track_caller]
    pub fn stack(&mut self, thread: u64) -> Vec<(String, u64, Value)> {
        let body = self.ask("stackTrace", json!({ "threadId": thread, "levels": 20 }));
        let frames = body["stackFrames"].as_array().expect("a list").iter();
        let frame = |frame: &Value| {
            let name = frame["name"].as_str().unwrap_or_default().to_owned();
            (name, frame["line"].as_u64().unwrap_or_default(), frame["id"].clone())
        };
        frames.map(frame).collect()
    }

    /// The variables behind a reference: name, value, and the reference of what is inside.
    #[track_caller]
    pub fn variables(&mut self, reference: &Value) -> Vec<(String, String, Value)> {
        let body = self.ask("variables", json!({ "variablesReference": reference }));
        let variables = body["variables"].as_array().expect("a list").iter();
        let variable = |variable: &Value| {
            let text = |key: &str| variable[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("value"), variable["variablesReference"].clone())
        };
        variables.map(variable).collect()
    }

    #[track_caller]
    fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(index) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(index).expect("it was found there");
        }
        loop {
            let message = self.arriving.recv_timeout(PATIENCE);
            let message =
                message.unwrap_or_else(|error| panic!("{error}; before: {:?}", self.waiting));
            println!("<- {message}");
            if wanted(&message) {
                return message;
            }
            self.waiting.push_back(message);
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes messages apart, until the adapter ends or nobody listens.
fn forward(mut output: BufReader<ChildStdout>, sender: &Sender<Value>) -> Option<()> {
    loop {
        let mut bytes = 0;
        loop {
            let mut line = String::new();
            if output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim().split_once(": ") {
                None => break,
                Some(("Content-Length", length)) => bytes = length.parse().ok()?,
                Some(_) => {}
            }
        }
        let mut text = vec![0; bytes];
        output.read_exact(&mut text).ok()?;
        sender.send(serde_json::from_slice(&text).ok()?).ok()?;
    }
}
