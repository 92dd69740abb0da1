//! The guest's screen for VNC viewers, while a machine runs live or is replayed.
//!
//! The machine's thread leaves a picture here now and then, when somebody wants one and there is a new one; viewers' threads send it. What
//! viewers do, or do not, touches nothing else: their sockets are no business of the machine's thread.

mod address;
mod client;
mod desk;
mod stream;

pub use address::Address;
pub use desk::Desk;

use crate::exit::{Exit, Failure};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use dejavm_machine::{Machine, Picture};
use dejavm_rfb::{Event, Frame};
use dejavm_units::{GuestNs, Position};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use stream::Stream;

/// Between two pictures at least.
const PERIOD_MIN: Duration = Duration::from_millis(30);
/// And so many times what the last one took, so that viewers slow the machine down a little at most.
const PERIOD_FACTOR: u32 = 10;
/// Viewers at a time at most.
const VIEWERS_MAX: usize = 16;
/// What viewers did that waits here before they have to.
const EVENTS_WAITING: usize = 256;
/// Signals are seen at least this often.
const LOOK_UP: Duration = Duration::from_millis(50);

/// What the viewers' threads see.
struct Shared {
    /// The desktop's.
    name: String,
    view_only: bool,
    frame: Mutex<Arc<Frame>>,
    /// Some viewer waits for a picture, or will soon.
    wanted: AtomicBool,
    /// A viewer has just come, and wants to begin with what is shown now.
    arrived: AtomicBool,
    /// Those that have begun to look.
    viewers: AtomicUsize,
    /// How each viewer is told of a new picture.
    news: Mutex<Vec<Sender<()>>>,
}

impl Shared {
    fn frame(&self) -> Arc<Frame> {
        Arc::clone(&self.frame.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, frame: Frame) {
        *self.frame.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(frame);
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was told already and has not looked yet need not be told again.
        news.retain(|viewer| !matches!(viewer.try_send(()), Err(TrySendError::Disconnected(()))));
    }

    /// Makes room for another viewer; `None`: there are too many.
    fn admit(&self) -> Option<Receiver<()>> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.retain(|viewer| !matches!(viewer.try_send(()), Err(TrySendError::Disconnected(()))));
        if news.len() >= VIEWERS_MAX {
            return None;
        }
        let (sender, receiver) = bounded(1);
        news.push(sender);
        Some(receiver)
    }
}

/// The screen of one machine after the other, and who looks at it.
pub struct View {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// The display's count of changes at the last picture, and when the next may be taken.
    seen: Option<u64>,
    /// Where the machine was at the last picture, if it travels.
    place: Option<(Position, GuestNs)>,
    next: Instant,
    /// The unix socket's file, removed at the end.
    file: Option<PathBuf>,
}

/// Viewers that only look. Their keys and mice are not heard.
pub const VIEW_ONLY: bool = true;

/// No mode is so small: the display is not set up yet, or is just being. Nothing is shown then, in the dimensions of text.
const SMALLEST: (u32, u32) = (160, 100);
const TEXT: (u16, u16) = (720, 400);

fn frame_of(picture: Picture) -> Option<Frame> {
    if picture.width < SMALLEST.0 || picture.height < SMALLEST.1 {
        return Some(Frame::black(TEXT.0, TEXT.1));
    }
    let [width, height] =
        [picture.width, picture.height].map(|side| u16::try_from(side).unwrap_or(0));
    Frame::new(width, height, picture.rgb)
}

impl View {
    /// Starts to listen for viewers of this machine. `name`: what they call it.
    pub fn open(
        address: &Address,
        machine: &Machine,
        name: &str,
        view_only: bool,
    ) -> Result<View, Failure> {
        let Some(frame) = machine.picture().and_then(frame_of) else {
            let sentence =
                "--vnc: the machine has no display: record with --bios, --display or --vnc";
            return Err(Failure::new(Exit::Usage, sentence));
        };
        let shared = Arc::new(Shared {
            name: format!("{name} - dejavm"),
            view_only,
            frame: Mutex::new(Arc::new(frame)),
            wanted: AtomicBool::new(false),
            arrived: AtomicBool::new(false),
            viewers: AtomicUsize::new(0),
            news: Mutex::new(Vec::new()),
        });
        let (sender, events) = bounded(EVENTS_WAITING);
        let file = listen(address, Arc::clone(&shared), sender).map_err(|error| {
            let sentence = format!("--vnc {address}: no viewer can be listened for: {error}");
            Failure::new(Exit::Failed, sentence)
        })?;
        eprintln!("dejavm: VNC viewers find the guest's screen at {address}");
        if address.is_public() {
            let typed = if view_only { "" } else { " and types on its keyboard" };
            eprintln!(
                "dejavm: --vnc {address}: there is no password: whoever reaches this address sees the guest's screen{typed}"
            );
        }
        Ok(View { shared, events, seen: None, place: None, next: Instant::now(), file })
    }

    /// What viewers' users do.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Takes a picture if somebody wants one, the display may have changed, and the last one was not just now.
    pub fn show(&mut self, machine: &Machine) {
        if self.shared.arrived.swap(false, Ordering::Relaxed) {
            return self.show_now(machine);
        }
        if !self.shared.wanted.load(Ordering::Relaxed) {
            return;
        }
        let changes = machine.display_changes();
        let now = Instant::now();
        if self.seen != Some(changes) && now >= self.next {
            self.show_now(machine);
            self.seen = Some(changes);
            self.next = now + PERIOD_MIN.max(now.elapsed() * PERIOD_FACTOR);
        }
    }

    /// Takes a picture of a machine that was travelled with, unless it is where it was, or nobody looks.
    pub fn show_at(&mut self, machine: &Machine) {
        let place = Some((machine.position(), machine.guest_ns()));
        if self.shared.arrived.swap(false, Ordering::Relaxed) || self.place != place {
            self.show_now(machine);
            self.place = place;
        }
    }

    /// Takes a picture, of another machine than before, perhaps.
    pub fn show_now(&mut self, machine: &Machine) {
        self.shared.wanted.store(false, Ordering::Relaxed);
        self.seen = None;
        if let Some(frame) = machine.picture().and_then(frame_of) {
            self.shared.publish(frame);
        }
    }

    /// Waits until a viewer is there (`true`) or none is left, or `stop` is set.
    pub fn wait(&self, there: bool, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed)
            && (self.shared.viewers.load(Ordering::Relaxed) > 0) != there
        {
            thread::park_timeout(LOOK_UP);
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // It may be gone already.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Listens; the file that is to be removed at the end.
fn listen(
    address: &Address,
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<Option<PathBuf>> {
    match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            accept(move || Ok(Stream::Tcp(listener.accept()?.0)), shared, events)?;
            Ok(None)
        }
        Address::Unix(path) => {
            let listener = UnixListener::bind(path)?;
            accept(move || Ok(Stream::Unix(listener.accept()?.0)), shared, events)?;
            Ok(Some(path.clone()))
        }
    }
}

/// Accepts viewers on a thread of its own.
fn accept(
    mut next: impl FnMut() -> io::Result<Stream> + Send + 'static,
    shared: Arc<Shared>,
    events: Sender<Event>,
) -> io::Result<()> {
    thread::Builder::new().name("viewers".into()).spawn(move || {
        loop {
            let Ok(stream) = next() else {
                // Out of file descriptors, perhaps for a moment.
                thread::park_timeout(LOOK_UP);
                continue;
            };
            let Some(news) = shared.admit() else {
                eprintln!("dejavm: a viewer was turned away: there are {VIEWERS_MAX} already");
                continue;
            };
            // One that breaks at once has left.
            let _ = client::serve(stream, Arc::clone(&shared), news, events.clone());
        }
    })?;
    Ok(())
}
