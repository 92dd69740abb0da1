//! Where the guest's serial ports lead while it is recorded: a terminal, a file, a socket, a device of the host's.
//!
//! What arrives becomes inputs of the recording. What the guest sends is written where somebody takes it and lost where nobody
//! does: no reader's absence, slowness or end holds the recording up. The recording has all of it anyway.

mod choice;
mod line;
mod options;
mod peer;

pub use choice::{Backend, Choice, Port};
pub use options::SerialOptions;

use crossbeam_channel::Receiver;
use dejavm_machine::Output;
use line::Line;

/// The backends of a machine's ports, those on standard input and output left out.
#[derive(Default)]
pub struct Serial {
    lines: Vec<(Port, Line)>,
    /// The port on standard input and output.
    pub stdio: Option<Port>,
}

impl Serial {
    /// What arrives, by port, from those that something can come from.
    pub fn arrivals(&self) -> Vec<(Port, Receiver<Vec<u8>>)> {
        let arrivals = |(port, line): &(Port, Line)| Some((*port, line.arrivals()?.clone()));
        self.lines.iter().filter_map(arrivals).collect()
    }

    /// Writes what the guest sent.
    pub fn write(&mut self, output: &[Output]) {
        if self.lines.is_empty() {
            return;
        }
        for piece in output {
            let Output::Serial { port, bytes } = piece else { continue };
            let line = self.lines.iter_mut().find(|(of, _)| of.number() == *port);
            if let Some((_, line)) = line {
                line.write(bytes);
            }
        }
    }
}
