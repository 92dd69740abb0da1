//! The network that a guest is on while it is recorded. See the folder's README.

mod choice;
mod framing;
mod options;
mod padding;
mod passt;
mod plug;
mod tap;
mod window;

pub use choice::{Forward, MacAddress, Net, Nic};
pub use options::NetworkOptions;
pub use plug::Plug;

use crate::exit::{Exit, Failure};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread;

/// Frames that may wait on their way to the guest; then the sender has to.
const ARRIVALS_MAX: usize = 4096;
/// Frames that may wait on their way from the guest; more are lost, as on a wire.
const DEPARTURES_MAX: usize = 4096;

/// A MAC address.
pub type Mac = [u8; 6];

/// What comes from the network.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A frame.
    Frame(Vec<u8>),
    /// Nothing will come any more: why.
    Gone(String),
}

/// The guest's network. Dropped, it is gone.
pub struct Network {
    arrivals: Receiver<Arrival>,
    departures: Sender<Vec<u8>>,
    peer: Peer,
}

/// Who is at the other end.
enum Peer {
    /// A program of ours, behind a stream.
    Program(Child, UnixStream),
    /// Somebody behind a stream.
    Stream(UnixStream),
    /// The kernel.
    Tap,
}

impl Network {
    /// Plugs the cable in; `None`: there is no network. `mac` is the guest's address.
    pub fn open(net: &Net, forwards: &[Forward], mac: Mac) -> Result<Option<Network>, Failure> {
        let network = match net {
            Net::None => return Ok(None),
            Net::Passt => {
                let (child, stream) = passt::start(forwards, mac)?;
                let kept = stream.try_clone().map_err(no_stream)?;
                let peer = Peer::Program(child, kept);
                over_stream(stream, "passt has ended", peer)?
            }
            Net::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(|error| {
                    let sentence = format!("{}: no network there: {error}", path.display());
                    Failure::new(Exit::Environment, sentence)
                })?;
                let kept = stream.try_clone().map_err(no_stream)?;
                over_stream(stream, "the other end has hung up", Peer::Stream(kept))?
            }
            Net::Tap(name) => {
                let tap = tap::open(name)?;
                let writer = tap.try_clone().map_err(no_stream)?;
                let read = move |arrivals: Sender<Arrival>| from_tap(tap, &arrivals);
                let write = move |departures: Receiver<Vec<u8>>| to_tap(writer, &departures);
                started(read, write, Peer::Tap)?
            }
        };
        Ok(Some(network))
    }

    /// What arrives.
    pub fn arrivals(&self) -> &Receiver<Arrival> {
        &self.arrivals
    }

    /// Sends a frame; it is lost where nobody takes it.
    pub fn send(&self, frame: Vec<u8>) {
        match self.departures.try_send(frame) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        match &mut self.peer {
            Peer::Program(child, stream) => {
                // It ends by itself then; if not, it is made to.
                let _ = stream.shutdown(Shutdown::Both);
                let _ = child.kill();
                let _ = child.wait();
            }
            Peer::Stream(stream) => {
                let _ = stream.shutdown(Shutdown::Both);
            }
            Peer::Tap => {}
        }
    }
}

fn no_stream(error: io::Error) -> Failure {
    Failure::new(Exit::Environment, format!("the network cannot be used: {error}"))
}

fn started(
    read: impl FnOnce(Sender<Arrival>) + Send + 'static,
    write: impl FnOnce(Receiver<Vec<u8>>) + Send + 'static,
    peer: Peer,
) -> Result<Network, Failure> {
    let (arrived, arrivals) = bounded(ARRIVALS_MAX);
    let (departures, departing) = bounded(DEPARTURES_MAX);
    let spawn = |name: &str| thread::Builder::new().name(name.into());
    spawn("network in").spawn(move || read(arrived)).map_err(no_stream)?;
    spawn("network out").spawn(move || write(departing)).map_err(no_stream)?;
    Ok(Network { arrivals, departures, peer })
}

fn over_stream(stream: UnixStream, gone: &'static str, peer: Peer) -> Result<Network, Failure> {
    let writer = stream.try_clone().map_err(no_stream)?;
    let read = move |arrivals: Sender<Arrival>| from_stream(stream, gone, &arrivals);
    let write = move |departures: Receiver<Vec<u8>>| to_stream(writer, &departures);
    started(read, write, peer)
}

fn from_stream(stream: UnixStream, gone: &str, arrivals: &Sender<Arrival>) {
    let mut frames = framing::Frames::new(stream);
    loop {
        let arrival = match frames.next() {
            Ok(Some(mut frame)) => {
                window::unscale(&mut frame);
                Arrival::Frame(frame)
            }
            Ok(None) => Arrival::Gone(gone.to_owned()),
            Err(error) => Arrival::Gone(format!("{gone}: {error}")),
        };
        let last = matches!(arrival, Arrival::Gone(_));
        if arrivals.send(arrival).is_err() || last {
            return;
        }
    }
}

fn to_stream(mut stream: UnixStream, departures: &Receiver<Vec<u8>>) {
    let mut bytes = Vec::new();
    while let Ok(first) = departures.recv() {
        bytes.clear();
        // What has come together goes together.
        for mut frame in std::iter::once(first).chain(departures.try_iter().take(64)) {
            padding::trim(&mut frame);
            window::unscale(&mut frame);
            framing::put(&frame, &mut bytes);
        }
        if stream.write_all(&bytes).is_err() {
            // The thread that reads says that nobody is there. What the guest goes on to send is lost.
            return;
        }
    }
}

fn from_tap(mut tap: File, arrivals: &Sender<Arrival>) {
    let mut buffer = vec![0; framing::FRAME_BYTES_MAX];
    loop {
        let arrival = match tap.read(&mut buffer) {
            Ok(0) => Arrival::Gone("the TAP interface is gone".into()),
            Ok(bytes) => Arrival::Frame(buffer[..bytes].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Arrival::Gone(format!("the TAP interface is gone: {error}")),
        };
        let last = matches!(arrival, Arrival::Gone(_));
        if arrivals.send(arrival).is_err() || last {
            return;
        }
    }
}

fn to_tap(mut tap: File, departures: &Receiver<Vec<u8>>) {
    while let Ok(frame) = departures.recv() {
        // An interface that is down takes none: the frame is lost.
        let _ = tap.write(&frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn frames_go_both_ways_and_the_end_is_told_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let kept = ours.try_clone().unwrap();
        let network = over_stream(ours, "it is gone", Peer::Stream(kept)).unwrap();
        network.send(vec![1; 60]);
        network.send(vec![2; 1514]);
        let mut frames = framing::Frames::new(theirs.try_clone().unwrap());
        assert_eq!(frames.next().unwrap(), Some(vec![1; 60]));
        assert_eq!(frames.next().unwrap(), Some(vec![2; 1514]));
        let mut bytes = Vec::new();
        framing::put(&[3; 70], &mut bytes);
        (&theirs).write_all(&bytes).unwrap();
        let arrival = || network.arrivals().recv_timeout(Duration::from_secs(20));
        assert_eq!(arrival(), Ok(Arrival::Frame(vec![3; 70])));
        drop((theirs, frames));
        assert_eq!(arrival(), Ok(Arrival::Gone("it is gone".into())));
        assert!(arrival().is_err(), "the thread has ended");
        network.send(vec![4; 60]);
    }
}
