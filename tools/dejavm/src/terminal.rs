//! The user's terminal: raw while the guest has it, and the keys that are ours.

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::termios::{self, OptionalActions, OutputModes, Termios};
use std::io::{self, IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What Ctrl-A h shows.
pub const HELP: &str = "\r\ndejavm: Ctrl-A x stops the recording, Ctrl-A s writes a checkpoint of the machine, \
                        Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A h shows this\r\n";

/// Bytes that one read of standard input takes at most.
const READ_BYTES: usize = 1024;
/// Reads that may wait for the guest; then standard input waits.
const READS_MAX: usize = 64;

/// What the user's keys can ask of the program, seen where the machine runs.
pub struct Wishes {
    /// End the recording.
    pub stop: Arc<AtomicBool>,
    /// Write a checkpoint.
    pub snapshot: Arc<AtomicBool>,
}

/// The terminal in raw mode; restored when this is dropped, also by a panic. Signals that would end the
/// program only ask for the end, so it is dropped then too.
pub struct RawTerminal {
    saved: Termios,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal.
    pub fn enter() -> Option<RawTerminal> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let saved = termios::tcgetattr(&stdin).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        // Our own lines on standard error still need their carriage returns.
        raw.output_modes |= saved.output_modes & OutputModes::OPOST;
        termios::tcsetattr(&stdin, OptionalActions::Flush, &raw).ok()?;
        Some(RawTerminal { saved })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.saved);
    }
}

/// Finds our own keys among those for the guest.
#[derive(Debug, Default)]
pub struct Escapes {
    after_ctrl_a: bool,
}

/// What keys amount to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// For the guest.
    pub guest: Vec<u8>,
    /// The recording is to end.
    pub stop: bool,
    /// A checkpoint is to be written.
    pub snapshot: bool,
    /// The user wants to know the keys.
    pub help: bool,
}

const CTRL_A: u8 = 1;

impl Escapes {
    /// Takes keys as they were typed.
    pub fn feed(&mut self, typed: &[u8]) -> Keys {
        let mut keys = Keys::default();
        for &key in typed {
            if !std::mem::replace(&mut self.after_ctrl_a, false) {
                if key == CTRL_A {
                    self.after_ctrl_a = true;
                } else {
                    keys.guest.push(key);
                }
                continue;
            }
            match key {
                CTRL_A => keys.guest.push(CTRL_A),
                b'x' | b'X' => keys.stop = true,
                b's' | b'S' => keys.snapshot = true,
                // Any other key is a slip; tell which there are.
                _ => keys.help = true,
            }
        }
        keys
    }
}

/// Reads standard input in a thread. Keys are looked for only if a user types them: what comes from a
/// file or a pipe is for the guest, every byte. The channel closes at the end of the input.
pub fn read_stdin(typed: bool, wishes: Wishes) -> Receiver<Vec<u8>> {
    let (sender, receiver) = bounded(READS_MAX);
    // The thread ends with the program: it sleeps in `read`, which nothing can wake.
    let _ = thread::Builder::new()
        .name("stdin".into())
        .spawn(move || forward(io::stdin().lock(), typed, &wishes, &sender));
    receiver
}

fn forward(mut input: impl Read, typed: bool, wishes: &Wishes, sender: &Sender<Vec<u8>>) {
    let mut escapes = Escapes::default();
    let mut buffer = [0; READ_BYTES];
    loop {
        let got = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(got) => &buffer[..got],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let keys = match typed {
            true => escapes.feed(got),
            false => Keys { guest: got.to_vec(), ..Keys::default() },
        };
        if keys.stop {
            wishes.stop.store(true, Ordering::Relaxed);
        }
        if keys.snapshot {
            wishes.snapshot.store(true, Ordering::Relaxed);
        }
        if keys.help {
            eprint!("{HELP}");
        }
        if !keys.guest.is_empty() && sender.send(keys.guest).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_keys_are_taken_out_wherever_the_reads_are_cut() {
        let typed = b"ab\x01\x01c\x01hd\x01?\x01se\x01x";
        for cut in 0..=typed.len() {
            let mut escapes = Escapes::default();
            let first = escapes.feed(&typed[..cut]);
            let second = escapes.feed(&typed[cut..]);
            assert_eq!([first.guest, second.guest].concat(), b"ab\x01cde", "cut at {cut}");
            assert!(first.stop || second.stop, "cut at {cut}");
            assert!(first.help || second.help, "cut at {cut}");
            assert!(first.snapshot || second.snapshot, "cut at {cut}");
        }
    }

    #[test]
    fn a_pipe_is_not_typed() {
        let (sender, receiver) = bounded(4);
        let wishes = Wishes { stop: Arc::default(), snapshot: Arc::default() };
        forward(&b"\x01x\x01s"[..], false, &wishes, &sender);
        assert_eq!(receiver.try_recv().as_deref(), Ok(&b"\x01x\x01s"[..]));
        assert!(!wishes.stop.load(Ordering::Relaxed) && !wishes.snapshot.load(Ordering::Relaxed));
    }
}
