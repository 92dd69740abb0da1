//! A thread that packs the pages of a recording's checkpoints while the machine runs on.

use crossbeam_channel::{Receiver, Sender, unbounded};
use dejavm_replay::{Packed, Packer, Packing, PageCopies};
use std::io;
use std::thread::{self, JoinHandle};

/// A packer with a thread of its own, or none if the host has but one processor: then nothing is gained.
pub fn for_host() -> io::Result<Option<PackingThread>> {
    match thread::available_parallelism() {
        Ok(processors) if processors.get() == 1 => Ok(None),
        Ok(_) | Err(_) => {
            let mut packing = Packing::default();
            PackingThread::start(move |copies| packing.pack(copies)).map(Some)
        }
    }
}

/// The thread, and the way there and back. How much is on the way, the recorder bounds.
pub struct PackingThread {
    to_pack: Option<Sender<PageCopies>>,
    packed: Receiver<io::Result<Packed>>,
    thread: Option<JoinHandle<()>>,
}

impl PackingThread {
    fn start(
        mut pack: impl FnMut(PageCopies) -> io::Result<Packed> + Send + 'static,
    ) -> io::Result<PackingThread> {
        let (to_pack, copies) = unbounded();
        let (results, packed) = unbounded();
        let work = move || {
            for copies in copies {
                if results.send(pack(copies)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("checkpoints".into()).spawn(work)?;
        Ok(PackingThread { to_pack: Some(to_pack), packed, thread: Some(thread) })
    }

    /// Why the thread ended before it should.
    fn died(&mut self) -> io::Error {
        let reason = match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => {
                match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                    (Some(reason), _) => (*reason).to_owned(),
                    (None, Some(reason)) => reason.clone(),
                    (None, None) => "it panicked".to_owned(),
                }
            }
            Some(Ok(())) | None => "it is gone".to_owned(),
        };
        io::Error::other(format!("the thread for it has died: {reason}"))
    }
}

impl Packer for PackingThread {
    fn hand_in(&mut self, copies: PageCopies) -> io::Result<()> {
        let sent = self.to_pack.as_ref().is_some_and(|to_pack| to_pack.send(copies).is_ok());
        if sent { Ok(()) } else { Err(self.died()) }
    }

    fn take_back(&mut self) -> io::Result<Packed> {
        match self.packed.recv() {
            Ok(packed) => packed,
            Err(_) => Err(self.died()),
        }
    }

    fn beside(&self) -> bool {
        true
    }
}

impl Drop for PackingThread {
    fn drop(&mut self) {
        self.to_pack = None;
        // A panic was told of when the recorder asked, or nobody waits for what it packed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
