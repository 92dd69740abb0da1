//! A machine that needs nobody: guests that neither wait for input nor for the host's time.

use crate::input_output::Output;
use crate::machine::{Machine, Stop};
use dejavm_units::Position;

impl Machine {
    /// Runs as [`Machine::run`] does, over idle time too, which is skipped as long as a chip will end it. What the guest says on
    /// the debug console is appended.
    pub fn run_alone(&mut self, until: Position, console: &mut Vec<u8>) -> Stop {
        loop {
            let stop = self.run(until);
            for output in self.take_output() {
                if let Output::DebugConsole { bytes } = output {
                    console.extend(bytes);
                }
            }
            match stop {
                Stop::Idle { wake: Some(wake) } => {
                    self.idle_until(wake);
                }
                stop => return stop,
            }
        }
    }
}
