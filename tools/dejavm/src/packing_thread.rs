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

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_machine::{Boot, Machine, MachineConfig, Output};
    use dejavm_memory::RamLayout;
    use dejavm_replay::{
        Advance, CheckpointInterval, CheckpointPolicy, Header, IdleAnswer, Kind, Observer, Polled,
        Progress, RecordError, RecordOptions, Recorder, ReplayOptions, Replayer, SEMANTICS,
        Summary, World,
    };
    use dejavm_units::{GuestNs, Position};
    use std::io::Cursor;

    /// Instructions that are recorded; a checkpoint after a tenth of them each.
    const LENGTH: u64 = 400_000;

    struct Nothing;

    impl World for Nothing {
        fn poll(&mut self) -> Polled {
            Polled::default()
        }
        fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
            IdleAnswer::Until(wake.unwrap_or(now))
        }
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _progress: Progress) {}
    }

    impl Observer for Nothing {}

    fn record(packer: Option<PackingThread>, file: &mut Vec<u8>) -> Result<(), RecordError> {
        let config = MachineConfig::new(RamLayout::new(16 << 20).unwrap());
        let boot = Boot { image: dejavm_images::DEMO, initrd: None, cmdline: "" };
        let header = Header {
            creator: String::new(),
            semantics: SEMANTICS,
            config: config.clone(),
            guest: Vec::new(),
            digest_interval: 50_000,
        };
        let options = RecordOptions {
            header,
            externals: Vec::new(),
            embed_pages: true,
            until: Some(Position(LENGTH)),
            checkpoints: CheckpointPolicy {
                interval: CheckpointInterval::Every(LENGTH / 10),
                file_bytes: Some(1 << 30),
            },
            parent: None,
        };
        let machine = Machine::boot(&config, &boot).unwrap();
        let mut recorder = Recorder::new(machine, file, &options)?;
        if let Some(packer) = packer {
            recorder = recorder.packed_by(Box::new(packer));
        }
        loop {
            if let Advance::Ended(ending) = recorder.advance(&mut Nothing, None)? {
                return recorder.finish(&mut Nothing, ending).map(drop);
            }
        }
    }

    #[test]
    fn the_file_is_the_same_as_without_a_thread_however_slow_it_is() {
        let mut expected = Vec::new();
        record(None, &mut expected).unwrap();
        let summary = Summary::read(Cursor::new(&expected)).unwrap();
        let checkpoints = summary.kinds.get(&Kind::Checkpoint).map(|total| total.chunks);
        assert!(checkpoints >= Some(9), "{checkpoints:?}");
        for waits in [0, 2000] {
            let mut packing = Packing::default();
            let thread = PackingThread::start(move |copies| {
                (0..waits).for_each(|_| thread::yield_now());
                packing.pack(copies)
            });
            let mut file = Vec::new();
            record(Some(thread.unwrap()), &mut file).unwrap();
            assert!(file == expected, "{waits}");
        }
    }

    #[test]
    fn a_thread_that_panics_or_fails_is_told_of_and_what_is_written_replays() {
        for panics in [true, false] {
            let mut packing = Packing::default();
            let mut left = 4;
            let thread = PackingThread::start(move |copies| {
                left -= 1;
                match (left, panics) {
                    (0, true) => panic!("no more of this"),
                    (0, false) => Err(io::Error::other("no more of this")),
                    _ => packing.pack(copies),
                }
            });
            let mut file = Vec::new();
            let error = record(Some(thread.unwrap()), &mut file).unwrap_err();
            assert!(matches!(error, RecordError::Packing(_)));
            assert!(error.to_string().ends_with("no more of this"), "{error}");

            let mut replayer = Replayer::open(Cursor::new(&file)).unwrap();
            let mut machine = replayer.rebuild().unwrap();
            let replayed =
                replayer.run(&mut machine, &ReplayOptions::default(), &mut Nothing).unwrap();
            assert!(replayed.cut_short.is_some());
            assert!((100_000..LENGTH).contains(&replayed.at.position.0), "{}", replayed.at);
        }
    }
}
