//! Listening: one client at a time, and none waits unseen behind another.

use super::Address;
use crate::exit::{Exit, Failure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The ports of the product of 2007.
const PORT_64: u16 = 8864;
const PORT_32: u16 = 8832;
/// How many ports are tried from there on.
const PORTS_TRIED: u16 = 100;
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Signals are seen at least this often.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How long a client may wait for the one before to leave.
const PATIENCE: Duration = Duration::from_secs(1);
/// Chunks of a client's bytes that wait here at most before the client has to.
const CHUNKS_WAITING: usize = 16;
const CHUNK_BYTES: usize = 16 << 10;

/// A client's connection. Its bytes are read by a thread of its own, so that a run can look for them
/// without asking the kernel.
pub struct Connection {
    arrived: Receiver<Vec<u8>>,
    stream: Stream,
    /// Cleared at the end, so that the next client may come.
    busy: Arc<AtomicBool>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn pair(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Stream::Tcp(stream) => {
                stream.set_nodelay(true)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Box::new(stream.try_clone()?)
            }
            Stream::Unix(stream) => {
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Box::new(stream.try_clone()?)
            }
        })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }

    fn shut_down(&self) {
        // It may be shut down already.
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(std::net::Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(std::net::Shutdown::Both),
        };
    }
}

impl Connection {
    fn new(stream: Stream, busy: Arc<AtomicBool>) -> io::Result<Connection> {
        let mut reader = stream.pair()?;
        let (sender, arrived) = bounded(CHUNKS_WAITING);
        thread::Builder::new().name("gdb client".into()).spawn(move || {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let Some(bytes) = buffer.get(..length) else { return };
                if sender.send(bytes.to_vec()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Connection { arrived, stream, busy })
    }

    /// What the client sent; it is gone when this channel is closed and empty.
    pub fn arrived(&self) -> &Receiver<Vec<u8>> {
        &self.arrived
    }

    /// Sends bytes to the client.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.writer().write_all(bytes)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The reading thread wakes and ends.
        self.stream.shut_down();
        self.busy.store(false, Ordering::Release);
    }
}

/// A socket that clients connect to.
pub struct Listener {
    clients: Receiver<Connection>,
    /// As the log line names it: a port, or a path.
    name: String,
    /// As gdb's `target remote` takes it.
    target: String,
    /// The unix socket's file, removed at the end.
    file: Option<PathBuf>,
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{what}: no debugger can be listened for: {error}"))
}

impl Listener {
    /// Starts to listen. `bits_64` chooses the port where none is given.
    pub fn open(address: &Address, bits_64: bool) -> Result<Listener, Failure> {
        let (sender, clients) = bounded(1);
        match address {
            Address::Tcp { host, port } => {
                let (listener, bound) = bind(*host, *port, bits_64)
                    .map_err(|error| cannot(&address.to_string(), &error))?;
                accept(move || Ok(Stream::Tcp(listener.accept()?.0)), sender)
                    .map_err(|error| cannot(&address.to_string(), &error))?;
                let reachable = match bound.ip().is_unspecified() {
                    true => format!(":{}", bound.port()),
                    false => bound.to_string(),
                };
                let name = format!("port {}", bound.port());
                Ok(Listener { clients, name, target: reachable, file: None })
            }
            Address::Unix(path) => {
                let name = path.display().to_string();
                let listener = UnixListener::bind(path).map_err(|error| cannot(&name, &error))?;
                let file = Some(path.clone());
                let listening =
                    Listener { clients, name: name.clone(), target: name.clone(), file };
                accept(move || Ok(Stream::Unix(listener.accept()?.0)), sender)
                    .map_err(|error| cannot(&name, &error))?;
                Ok(listening)
            }
        }
    }

    /// Says so, in the words of the product of 2007.
    pub fn announce(&self) {
        eprintln!("dejavm is listening for debug connection on {}.", self.name);
    }

    /// What follows `target remote` in gdb.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether a client has come.
    pub fn has_client(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Waits for a client; `None`: `stop` was set.
    pub fn wait(&self, stop: &AtomicBool) -> Option<Connection> {
        while !stop.load(Ordering::Relaxed) {
            match self.clients.recv_timeout(LOOK_UP) {
                Ok(client) => return Some(client),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // It may be gone already.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn bind(
    host: std::net::IpAddr,
    port: Option<u16>,
    bits_64: bool,
) -> io::Result<(TcpListener, SocketAddr)> {
    let first = port.unwrap_or(if bits_64 { PORT_64 } else { PORT_32 });
    let last = if port.is_some() { first } else { first + PORTS_TRIED };
    let mut port = first;
    loop {
        match TcpListener::bind(SocketAddr::new(host, port)) {
            Ok(listener) => {
                let bound = listener.local_addr()?;
                return Ok((listener, bound));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && port < last => port += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Waits a little for the client before to be gone: gdb's `disconnect` and `target remote` follow one
/// another faster than an end is seen.
fn becomes_free(busy: &AtomicBool) -> bool {
    let begun = Instant::now();
    while busy.swap(true, Ordering::Acquire) {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        thread::park_timeout(PATIENCE / 50);
    }
    true
}

/// Accepts clients on a thread of its own. One that comes while another is served is turned away at once:
/// it would wait for an answer in vain.
fn accept(
    mut next: impl FnMut() -> io::Result<Stream> + Send + 'static,
    sender: Sender<Connection>,
) -> io::Result<()> {
    let busy = Arc::new(AtomicBool::new(false));
    thread::Builder::new().name("gdb listener".into()).spawn(move || {
        loop {
            let Ok(stream) = next() else {
                // Out of file descriptors, perhaps for a moment.
                thread::park_timeout(LOOK_UP);
                continue;
            };
            if !becomes_free(&busy) {
                eprintln!("dejavm: a second debugger was turned away: there is one already");
                stream.shut_down();
                continue;
            }
            match Connection::new(stream, Arc::clone(&busy)) {
                Ok(connection) => {
                    if sender.send(connection).is_err() {
                        return;
                    }
                }
                Err(_) => busy.store(false, Ordering::Release),
            }
        }
    })?;
    Ok(())
}
