//! Serving one client.

use super::listener::Connection;
use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use dejavm_stub::{Ended, Options, Session, State, Target, interrupts};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Signals are seen at least this often.
const LOOK_UP: Duration = Duration::from_millis(100);
/// What a client may send while the machine runs; more is its mistake.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// How a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// `detach`: the machine is to go on.
    Detached,
    /// `kill`, or the end of a gdb that was told to.
    Killed,
    /// Its connection broke.
    Lost,
    /// We were asked to end.
    Stopped,
}

/// Bytes of the client that came while the machine ran.
struct Ahead {
    bytes: VecDeque<u8>,
    open: bool,
}

impl Ahead {
    /// Takes what is there; whether the client wants something, or is gone.
    fn look(&mut self, arrived: &Receiver<Vec<u8>>) -> bool {
        loop {
            match arrived.try_recv() {
                Ok(bytes) if self.bytes.len() < AHEAD_BYTES_MAX => self.bytes.extend(bytes),
                Ok(_) => {}
                Err(TryRecvError::Empty) => {
                    return !self.open || interrupts(self.bytes.make_contiguous());
                }
                Err(TryRecvError::Disconnected) => {
                    self.open = false;
                    return true;
                }
            }
        }
    }
}

/// Serves a client until it leaves, or `stop` is set.
pub fn serve(
    target: &mut dyn Target,
    mut connection: Connection,
    options: Options,
    stop: &AtomicBool,
) -> Left {
    let arrived = connection.arrived().clone();
    let ahead = Rc::new(RefCell::new(Ahead { bytes: VecDeque::new(), open: true }));
    let interrupted = {
        let (ahead, arrived) = (Rc::clone(&ahead), arrived.clone());
        Box::new(move || stop.load(Ordering::Relaxed) || ahead.borrow_mut().look(&arrived))
    };
    let mut session = Session::new(target, interrupted, options);
    loop {
        let output = session.take_output();
        if !output.is_empty() && connection.send(&output).is_err() {
            return Left::Lost;
        }
        match session.state() {
            State::Ended(Ended::Detached) => return Left::Detached,
            State::Ended(Ended::Killed) => return Left::Killed,
            State::Work => {
                session.work();
                if stop.load(Ordering::Relaxed) {
                    return Left::Stopped;
                }
            }
            State::Input => {
                let bytes: Vec<u8> = ahead.borrow_mut().bytes.drain(..).collect();
                if !bytes.is_empty() {
                    session.receive(&bytes);
                    continue;
                }
                match arrived.recv_timeout(LOOK_UP) {
                    Ok(bytes) => session.receive(&bytes),
                    Err(RecvTimeoutError::Disconnected) => return Left::Lost,
                    Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                        return Left::Stopped;
                    }
                    Err(RecvTimeoutError::Timeout) => session.quiet(),
                }
            }
        }
    }
}
