//! `vmss2core`: core files of VMware checkpoints, for gdb, crash, drgn and makedumpfile.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use vmss2core::{Command, USAGE, convert, dump};

/// It could not be done.
const FAILED: u8 = 1;
/// The command line makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match Command::parse(&arguments) {
        Ok(command) => command,
        Err(sentence) => {
            eprintln!("vmss2core: {sentence}; without arguments it lists its options");
            return ExitCode::from(MISUSED);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("vmss2core: {sentence}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match command {
        Command::Help => write!(out, "{USAGE}").map_err(|error| error.to_string()),
        Command::Dump { state, json } => dump(&state, json, &mut out)
            .map_err(|error| format!("{}: {error}", state.display()))?
            .map_err(|error| error.to_string()),
        Command::Convert { kind, state, memory, output, quiet } => {
            let cores = convert(kind, &state, memory.as_deref(), &output)
                .map_err(|error| error.to_string())?;
            for core in cores.iter().filter(|_| !quiet) {
                writeln!(out, "{}", core.display()).map_err(|error| error.to_string())?;
            }
            Ok(())
        }
    }
}
