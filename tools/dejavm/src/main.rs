//! `dejavm`: records a whole x86 virtual machine and replays it bit for bit.
//!
//! This crate is the only place of the project with threads, clocks and terminals.
#![forbid(unsafe_code)]

mod arguments;
mod branch;
mod branching;
mod commit;
mod console;
mod convert;
mod debugger;
mod demo;
mod disk;
mod disks;
mod doctor;
mod engine;
mod entropy;
mod exit;
mod firmware;
mod info;
mod kvm;
mod live;
mod lockstep;
mod marks;
mod network;
mod open;
mod pack;
mod packing_thread;
mod partial;
mod processors;
mod progress;
mod record;
mod recording;
mod replay;
mod replay_debugged;
mod screenshot;
mod serial;
mod snapshot;
mod terminal;
mod unrecorded;
mod view;
mod vmx;
mod world;

use arguments::{Arguments, Command, Help};
use clap::{CommandFactory, Parser};
use exit::{Exit, Failure};
use serde_json::Value;
use std::io::{self, Write};
use std::process::ExitCode;

/// What a command has to say at its end.
pub struct Outcome {
    /// For programs; printed only if they asked.
    pub json: Value,
    /// The status to end with, and why if it is not 0.
    pub failure: Option<Failure>,
}

impl Outcome {
    /// All went well.
    pub fn ok(json: Value) -> Outcome {
        Outcome { json, failure: None }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Also help and version, which are no errors: clap knows the stream.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { Exit::Usage } else { Exit::Ok }.code());
        }
    };
    let (json, result) = match &arguments.command {
        Command::Record(arguments) => (arguments.recording.report.json, record::run(arguments)),
        Command::Branch(arguments) => (arguments.recording.report.json, branch::run(arguments)),
        Command::Replay(arguments) => (arguments.report.json, replay::replay(arguments)),
        Command::Verify(arguments) => (arguments.json, replay::verify(arguments)),
        Command::Info(arguments) => (arguments.json, info::info(arguments)),
        Command::Ls(arguments) => (arguments.json, info::ls(arguments)),
        Command::Marks(arguments) => (arguments.json, marks::run(arguments)),
        Command::Pack(arguments) => (arguments.json, pack::run(arguments)),
        Command::Disk(arguments) => (arguments.json, disk::run(arguments)),
        Command::Snapshot(arguments) => (arguments.json, snapshot::run(arguments)),
        Command::Screenshot(arguments) => (arguments.json, screenshot::run(arguments)),
        Command::Convert(arguments) => (arguments.json, convert::run(arguments)),
        Command::Doctor(arguments) => (arguments.json, doctor::run(arguments)),
        Command::Demo(arguments) => (arguments.json, demo::run(arguments)),
        Command::Gdbinit => (false, gdbinit()),
        Command::Help(topic) => (false, help(topic)),
    };
    let (value, failure) = match result {
        Ok(outcome) => (outcome.json, outcome.failure),
        Err(failure) => (failure.json(), Some(failure)),
    };
    if let Some(failure) = &failure {
        eprintln!("dejavm: {failure}");
    }
    let printed = if json { writeln!(io::stdout(), "{value:#}") } else { Ok(()) };
    match (failure, printed) {
        (Some(failure), _) => ExitCode::from(failure.exit.code()),
        (None, Ok(())) => ExitCode::from(Exit::Ok.code()),
        (None, Err(_)) => ExitCode::from(Exit::Failed.code()),
    }
}

fn gdbinit() -> Result<Outcome, Failure> {
    console::print(&debugger::gdbinit())?;
    Ok(Outcome::ok(Value::Null))
}

fn help(help: &Help) -> Result<Outcome, Failure> {
    let mut command = Arguments::command();
    command.build();
    let text = match help.topic.as_deref() {
        None => command.render_long_help().to_string(),
        Some("exit-codes") => exit::table(),
        Some(topic) => match command.find_subcommand_mut(topic) {
            Some(command) => command.render_long_help().to_string(),
            None => {
                let sentence =
                    format!("there is no command `{topic}` to explain; see `dejavm help`");
                return Err(Failure::new(Exit::Usage, sentence));
            }
        },
    };
    console::print(&text)?;
    Ok(Outcome::ok(Value::Null))
}
