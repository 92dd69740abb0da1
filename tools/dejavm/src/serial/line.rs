//! A line: what goes out of a port and what comes in, with a thread for those who may keep it waiting.

use super::choice::Port;
use super::peer::Peer;
use crate::exit::{Exit, Failure};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes that wait for a reader at most; more are lost.
const PENDING_MAX: usize = 1 << 20;
/// Bytes that wait for the first reader to come at most; then older ones are lost.
const EARLY_MAX: usize = 1 << 16;
/// Pieces of input that wait for the guest at most; then the sender has to. And what a piece is at most.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 256;
/// The longest wait of a thread that nobody wakes.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How soon it is looked again whether there is room for input.
const ROOM_WAIT: Duration = Duration::from_millis(20);
/// So long a reader may take the rest when the recording has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line.
pub enum Line {
    /// To a file, which keeps nobody waiting.
    File {
        /// The file; none after a failure.
        file: Option<File>,
        /// How to speak of it.
        name: String,
    },
    /// To somebody who may.
    Served(Served),
}

/// A line, served by a thread of its own.
pub struct Served {
    name: String,
    outgoing: Arc<Mutex<Outgoing>>,
    wake: Arc<OwnedFd>,
    arrivals: Option<Receiver<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    /// It was said that something is lost.
    told: bool,
}

/// What waits to be written.
#[derive(Default)]
struct Outgoing {
    bytes: VecDeque<u8>,
    /// Somebody is there to take it.
    connected: bool,
    /// Somebody was there before: what is sent now, with nobody there, is for nobody.
    came: bool,
    /// Since when nothing more comes.
    finished: Option<Instant>,
}

impl Outgoing {
    fn set_connected(&mut self, connected: bool) {
        if self.connected && !connected {
            // What was meant for one who has left.
            self.bytes.clear();
        }
        self.connected = connected;
        self.came |= connected;
    }
}

fn lock(outgoing: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    // Each change is whole.
    outgoing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    /// What the guest sends goes to a file, or to a pipe or a device by its name.
    pub fn file(port: Port, path: &Path) -> Result<Line, Failure> {
        let shown = path.display();
        if path.metadata().is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            let peer = Peer::sink(path)
                .map_err(|sentence| Failure::new(Exit::Failed, format!("{port}: {sentence}")))?;
            return Line::of(port, peer, false);
        }
        let file = File::create(path).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("{shown}: the file of {port} cannot be made: {error}"),
            )
        })?;
        Ok(Line::File { file: Some(file), name: format!("{port} at {shown}") })
    }

    /// A line to a peer; `reads`: what comes from there is for the guest.
    pub fn of(port: Port, peer: Peer, reads: bool) -> Result<Line, Failure> {
        let cannot = |error: io::Error| {
            Failure::new(Exit::Environment, format!("{port}: it cannot be served: {error}"))
        };
        let how = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, how).map_err(|error| cannot(error.into()))?);
        let connected = peer.is_always_there();
        let outgoing =
            Arc::new(Mutex::new(Outgoing { connected, came: connected, ..Outgoing::default() }));
        let (sender, arrivals) = bounded(PIECES_MAX);
        let sender = reads.then_some(sender);
        let name = port.to_string();
        let thread = {
            let (outgoing, wake, name) = (Arc::clone(&outgoing), Arc::clone(&wake), name.clone());
            thread::Builder::new()
                .name(name.clone())
                .spawn(move || serve(peer, &outgoing, &wake, sender, &name))
                .map_err(cannot)?
        };
        let arrivals = reads.then_some(arrivals);
        let thread = Some(thread);
        Ok(Line::Served(Served { name, outgoing, wake, arrivals, thread, told: false }))
    }

    /// What arrives, if anything can.
    pub fn arrivals(&self) -> Option<&Receiver<Vec<u8>>> {
        match self {
            Line::File { .. } => None,
            Line::Served(served) => served.arrivals.as_ref(),
        }
    }

    /// The guest sent bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        match self {
            Line::File { file, name } => {
                if let Some(open) = file
                    && let Err(error) = open.write_all(bytes)
                {
                    eprintln!(
                        "\ndejavm: {name} can no longer be written: {error}; the recording goes on, and has what the guest sends"
                    );
                    *file = None;
                }
            }
            Line::Served(served) => served.write(bytes),
        }
    }
}

impl Served {
    fn write(&mut self, bytes: &[u8]) {
        let mut outgoing = lock(&self.outgoing);
        if !outgoing.connected {
            if !outgoing.came {
                outgoing.bytes.extend(bytes);
                let over = outgoing.bytes.len().saturating_sub(EARLY_MAX);
                outgoing.bytes.drain(..over);
            }
            return;
        }
        let room = PENDING_MAX.saturating_sub(outgoing.bytes.len()).min(bytes.len());
        outgoing.bytes.extend(&bytes[..room]);
        drop(outgoing);
        self.wake();
        if room < bytes.len() && !std::mem::replace(&mut self.told, true) {
            eprintln!(
                "\ndejavm: {}: nobody takes what the guest sends, and some of it is lost there; the recording goes on, and has it",
                self.name
            );
        }
    }

    fn wake(&self) {
        // A count that cannot grow has woken it already.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        lock(&self.outgoing).finished = Some(Instant::now());
        self.arrivals = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves bytes both ways until nothing more comes from the guest and what waits was taken.
fn serve(
    mut peer: Peer,
    outgoing: &Mutex<Outgoing>,
    wake: &OwnedFd,
    arrivals: Option<Sender<Vec<u8>>>,
    name: &str,
) {
    let mut buffer = [0; PIECE_BYTES];
    loop {
        let (pending, finished) = {
            let outgoing = lock(outgoing);
            (outgoing.connected && !outgoing.bytes.is_empty(), outgoing.finished)
        };
        if finished.is_some_and(|since| !pending || since.elapsed() >= PATIENCE) {
            return;
        }
        let room = arrivals.as_ref().filter(|sender| !sender.is_full() && finished.is_none());
        let time = match (&arrivals, room) {
            (Some(_), None) => ROOM_WAIT,
            _ => WAIT_MAX,
        };
        let ready = peer.wait(wake, room.is_some(), pending, time);
        let mut counted = [0; 8];
        let _ = rustix::io::read(wake, &mut counted);
        lock(outgoing).set_connected(ready.connected);
        if ready.read
            && let Some(sender) = room
            && let Some(bytes) = peer.read(&mut buffer)
            // Nobody takes it when the recording has ended.
            && sender.send(buffer[..bytes].to_vec()).is_err()
        {
            lock(outgoing).finished.get_or_insert_with(Instant::now);
        }
        let wrote = match ready {
            ready if ready.write => write(&mut peer, outgoing),
            ready if ready.connected => Ok(()),
            _ => Ok(()),
        };
        if let Err(error) = wrote {
            let mut outgoing = lock(outgoing);
            outgoing.set_connected(false);
            if !peer.lose() {
                eprintln!(
                    "\ndejavm: {name} can no longer be written: {error}; the recording goes on, and has what the guest sends"
                );
                return;
            }
        }
    }
}

fn write(peer: &mut Peer, outgoing: &Mutex<Outgoing>) -> io::Result<()> {
    let piece: Vec<u8> = lock(outgoing).bytes.iter().take(4096).copied().collect();
    let wrote = peer.write(&piece)?;
    lock(outgoing).bytes.drain(..wrote);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn path(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("dejavm-line-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn told(line: &Line) -> bool {
        matches!(line, Line::Served(Served { told: true, .. }))
    }

    #[test]
    fn a_pipe_that_nobody_reads_fills_up_and_holds_nothing_up() {
        let path = path("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut line = Line::file(Port::COM1, &path).unwrap();
        line.write(b"the beginning");
        assert!(!told(&line));
        line.write(&vec![7; 2 * PENDING_MAX]);
        assert!(told(&line), "more than waits, and than a pipe holds");
        drop(line);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_was_sent_before_anybody_came_is_kept_for_the_first_and_nothing_for_the_next() {
        let (peer, path) = Peer::pty().unwrap();
        let path = path.unwrap();
        let mut line = Line::of(Port::COM1, peer, true).unwrap();
        line.write(&vec![b'x'; EARLY_MAX]);
        line.write(b"early\n");
        let open = || {
            let how = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            File::from(rustix::fs::open(&path, how, Mode::empty()).unwrap())
        };
        let mut first = open();
        let mut got = vec![0; EARLY_MAX];
        first.read_exact(&mut got).unwrap();
        assert!(got.starts_with(b"xxx") && got.ends_with(b"xearly\n"));
        drop(first);
        let connected = |line: &Line| match line {
            Line::Served(served) => lock(&served.outgoing).connected,
            Line::File { .. } => false,
        };
        while connected(&line) {
            thread::yield_now();
        }
        line.write(b"for nobody\n");
        let mut second = open();
        while !connected(&line) {
            thread::yield_now();
        }
        line.write(b"late\n");
        let mut got = [0; 5];
        second.read_exact(&mut got).unwrap();
        assert_eq!(got, *b"late\n");
    }

    #[test]
    fn a_client_that_leaves_makes_room_for_another() {
        let path = path("socket");
        let (peer, _) = Peer::unix(&path).unwrap();
        let mut line = Line::of(Port::COM1, peer, true).unwrap();
        for n in 0..3u8 {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(&[n; 3]).unwrap();
            let mut got = Vec::new();
            while got.len() < 3 {
                let arrivals = line.arrivals().unwrap();
                got.extend(arrivals.recv_timeout(Duration::from_secs(60)).unwrap());
            }
            assert_eq!(got, [n; 3]);
            line.write(&[n + 10; 5]);
            let mut answer = [0; 5];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [n + 10; 5]);
        }
        drop(line);
        assert!(!path.exists());
    }
}
