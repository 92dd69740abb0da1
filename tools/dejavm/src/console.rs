//! Where the guest's console goes.

use crate::exit::{Exit, Failure};
use crate::serial::Port;
use dejavm_machine::Output;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Receives the guest's console.
pub struct Console {
    sink: Option<Box<dyn Write>>,
    /// The serial port that is the console.
    port: Option<u8>,
    /// Where the debug console goes, if anywhere.
    debug: Option<Box<dyn Write>>,
    name: String,
    /// The first failure to write; nothing is written after it.
    failed: Option<io::Error>,
}

impl Console {
    /// The console's place: a file if one is given, else standard error if standard output is for the
    /// result, else standard output.
    pub fn new(file: Option<&Path>, json: bool) -> Result<Console, Failure> {
        let (sink, name): (Box<dyn Write>, String) = match file {
            Some(path) => {
                let file = File::create(path).map_err(|error| {
                    let name = path.display();
                    let sentence = format!("{name}: the console's file cannot be made: {error}");
                    Failure::new(Exit::Failed, sentence)
                })?;
                (Box::new(file), path.display().to_string())
            }
            None if json => (Box::new(io::stderr()), "standard error".into()),
            None => (Box::new(io::stdout()), "standard output".into()),
        };
        let port = Some(Port::COM1.number());
        Ok(Console { sink: Some(sink), port, debug: None, name, failed: None })
    }

    /// Writes what the guest sends to the debug console (ports 0x402 and 0xe9) to a file, or to standard error if it is `-`.
    pub fn with_debug(mut self, file: Option<&Path>) -> Result<Console, Failure> {
        let Some(path) = file else { return Ok(self) };
        self.debug = Some(if path == Path::new("-") {
            Box::new(io::stderr())
        } else {
            let file = File::create(path).map_err(|error| {
                let name = path.display();
                let sentence = format!("{name}: the debug console's file cannot be made: {error}");
                Failure::new(Exit::Failed, sentence)
            })?;
            Box::new(file)
        });
        Ok(self)
    }

    /// Another port is the console, or none.
    pub fn show(&mut self, port: Option<Port>) {
        self.port = port.map(Port::number);
    }

    /// A console that nobody sees.
    pub fn none() -> Console {
        Console { sink: None, port: None, debug: None, name: String::new(), failed: None }
    }

    /// What the guest emitted. Of its serial lines only the console's is printed.
    pub fn write(&mut self, output: &[Output]) {
        let Some(sink) = &mut self.sink else { return };
        if self.failed.is_some() {
            return;
        }
        let mut wrote = Ok(());
        for piece in output {
            match piece {
                Output::Serial { port, bytes } if Some(*port) == self.port => {
                    wrote = wrote.and_then(|()| sink.write_all(bytes));
                }
                Output::DebugConsole { bytes } => {
                    if let Some(debug) = &mut self.debug {
                        wrote = wrote.and_then(|()| debug.write_all(bytes));
                    }
                }
                Output::Serial { .. } | Output::Frame { .. } => {}
            }
        }
        self.failed = wrote.and_then(|()| sink.flush()).err();
    }

    /// Whether the console can no longer be written.
    pub fn is_broken(&self) -> bool {
        self.failed.is_some()
    }

    /// The failure, if the console could not be written.
    pub fn check(&self) -> Result<(), Failure> {
        match &self.failed {
            None => Ok(()),
            Some(error) => {
                let sentence =
                    format!("the guest's console could not be written to {}: {error}", self.name);
                Err(Failure::new(Exit::Failed, sentence))
            }
        }
    }
}

/// Prints a command's text on standard output.
pub fn print(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| {
        Failure::new(Exit::Failed, format!("standard output cannot be written: {error}"))
    })
}
