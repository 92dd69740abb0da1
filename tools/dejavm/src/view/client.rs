//! One viewer: two threads, one that reads and one that does the rest.

use super::Shared;
use super::stream::Stream;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use dejavm_rfb::{Event, Session};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// Chunks of a client's bytes that wait here at most before the client has to.
const CHUNKS_WAITING: usize = 16;
const CHUNK_BYTES: usize = 4 << 10;
/// For a first picture.
const PATIENCE: Duration = Duration::from_millis(500);

/// Serves a viewer on threads of its own until it leaves, or nobody wants its events. `news` comes with each picture.
pub fn serve(
    stream: Stream,
    shared: Arc<Shared>,
    news: Receiver<()>,
    events: Sender<Event>,
) -> io::Result<()> {
    let reader = stream.reader()?;
    let (sender, arrived) = bounded(CHUNKS_WAITING);
    thread::Builder::new().name("viewer's bytes".into()).spawn(move || read(reader, &sender))?;
    thread::Builder::new().name("viewer".into()).spawn(move || {
        shared.arrived.store(true, Ordering::Relaxed);
        // Where the machine is held, what was shown last has to do.
        let _ = news.recv_timeout(PATIENCE);
        let mut session = Session::new(&shared.name, &shared.frame(), shared.view_only);
        talk(stream, &shared, &mut session, &arrived, &news, &events);
        for event in session.left() {
            if events.send(event).is_err() {
                break;
            }
        }
        if session.is_initialised() {
            shared.viewers.fetch_sub(1, Ordering::Relaxed);
        }
    })?;
    Ok(())
}

fn read(mut reader: Box<dyn Read + Send>, sender: &Sender<Vec<u8>>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = reader.read(&mut buffer) {
        let Some(bytes) = buffer.get(..length) else { return };
        if sender.send(bytes.to_vec()).is_err() {
            return;
        }
    }
}

fn talk(
    mut stream: Stream,
    shared: &Shared,
    session: &mut Session,
    arrived: &Receiver<Vec<u8>>,
    news: &Receiver<()>,
    events: &Sender<Event>,
) {
    loop {
        if session.wants_update() {
            session.update(&shared.frame());
            // Also after it was served: it will ask again.
            shared.wanted.store(true, Ordering::Relaxed);
        }
        let output = session.take_output();
        if !output.is_empty() && stream.send(&output).is_err() {
            return;
        }
        select! {
            recv(arrived) -> bytes => {
                let Ok(bytes) = bytes else { return };
                let was_initialised = session.is_initialised();
                let received = session.receive(&bytes);
                if !was_initialised && session.is_initialised() {
                    shared.viewers.fetch_add(1, Ordering::Relaxed);
                }
                match received {
                    Ok(happened) => for event in happened {
                        if events.send(event).is_err() {
                            return;
                        }
                    },
                    Err(why) => {
                        eprintln!("dejavm: a viewer was sent away: {why}");
                        // It is told why, where the protocol can tell.
                        let _ = stream.send(&session.take_output());
                        return;
                    }
                }
            },
            recv(news) -> news => if news.is_err() {
                return;
            },
        }
    }
}
