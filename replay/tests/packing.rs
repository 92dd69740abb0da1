//! Whoever packs the pages of checkpoints, and whenever: the file is the same; and if nobody does, the
//! recorder says so.

mod toy;

use dejavm_replay::{
    Advance, CheckpointInterval, CheckpointPolicy, CutShort, Packed, Packer, Packing, PageCopies,
    RecordError, Recorded, Recorder,
};
use std::collections::VecDeque;
use std::io;
use toy::{Mistake, RandomWorld, Toy, options, recording_with_checkpoints, replay};

/// Packs when the recorder asks for it, the slowest that can be; breaks at a batch.
#[derive(Default)]
struct Late {
    packing: Packing,
    waiting: VecDeque<PageCopies>,
    until_broken: Option<u32>,
}

impl Packer for Late {
    fn hand_in(&mut self, copies: PageCopies) -> io::Result<()> {
        self.waiting.push_back(copies);
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<Packed> {
        if let Some(left) = &mut self.until_broken {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the packer is ill"))?;
        }
        self.packing.pack(self.waiting.pop_front().expect("asked for what was handed in"))
    }

    fn beside(&self) -> bool {
        true
    }
}

fn recording_by(
    packer: Late,
    seed: u64,
    interval: u64,
    file: &mut Vec<u8>,
) -> Result<Recorded, RecordError> {
    let mut options = options(700);
    options.checkpoints = CheckpointPolicy {
        interval: CheckpointInterval::Every(interval),
        file_bytes: Some(64 << 20),
    };
    let mut world = RandomWorld::new(seed);
    let mut recorder = Recorder::new(Toy::new(seed), file, &options)?.packed_by(Box::new(packer));
    loop {
        if let Advance::Ended(ending) = recorder.advance(&mut world, None)? {
            return recorder.finish(&mut world, ending);
        }
    }
}

#[test]
fn the_file_is_the_same_whoever_packs() {
    for seed in [31, 32, 33] {
        for interval in [150, 1000] {
            let (expected, _) = recording_with_checkpoints(seed, interval);
            let mut file = Vec::new();
            recording_by(Late::default(), seed, interval, &mut file).unwrap();
            assert!(file == expected, "seed {seed}, every {interval}");
        }
    }
}

#[test]
fn a_packer_that_breaks_ends_the_recording_and_what_is_written_replays() {
    let (mut whole, mut positions) = (Vec::new(), Vec::new());
    recording_by(Late::default(), 34, 1000, &mut whole).unwrap();
    for batches in [0, 1, 5, 9] {
        let mut file = Vec::new();
        let packer = Late { until_broken: Some(batches), ..Late::default() };
        let error = recording_by(packer, 34, 1000, &mut file).unwrap_err();
        assert!(matches!(error, RecordError::Packing(_)), "{error}");
        assert!(error.to_string().ends_with("for the recording: the packer is ill"), "{error}");
        assert!(whole.starts_with(&file), "nothing is written but what would have been");
        let (replayed, ..) = replay(&file, Mistake::default()).unwrap();
        assert!(matches!(replayed.cut_short, Some(CutShort::Ends { .. })));
        positions.push(replayed.at.position);
    }
    assert!(positions.is_sorted_by(|a, b| a < b), "{positions:?}");
}
