//! Round after round of mutated guests.

use crate::{Change, Random, Seed, checkpoint_file};
use std::ops::Range;
use std::time::{Duration, Instant};

/// Conversions of one guest are over long before.
const ROUND_MAX: Duration = Duration::from_secs(60);

/// What became of the rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// In so many the file was still a guest's.
    pub opened: u64,
    /// In so many something could be made of it.
    pub made: u64,
    /// The one that took longest.
    pub slowest: (u64, Duration),
}

/// Mutates and converts a guest of one's own, where it is.
///
/// # Panics
/// As `checkpoint_rounds`.
pub fn rounds_of(seed: &Seed, rounds: Range<u64>) -> Tally {
    let mut tally = Tally::default();
    rounds.for_each(|round| tally.round(round, seed));
    tally
}

/// Mutates and converts, a round for each number: the number says everything.
///
/// # Panics
/// If something that must not happen does; the last line on standard error says in which round.
pub fn checkpoint_rounds(rounds: Range<u64>) -> Tally {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let seeds = Seed::all(folder.path());
    for file in &seeds {
        let converted = checkpoint_file(&file.folder, file.name, &mut Random::new(rounds.start));
        assert!(converted.opened, "{} is intact", file.name);
    }
    let mut tally = Tally::default();
    for round in rounds {
        tally.round(round, &seeds[Random::new(!round).below(seeds.len())]);
    }
    tally
}

impl Tally {
    fn round(&mut self, round: u64, file: &Seed) {
        eprintln!("round {round:#x}");
        let mut random = Random::new(round);
        let count = 1 + random.below(6);
        let changes: Vec<_> = (0..count).filter_map(|_| file.change(&mut random)).collect();
        let begin = Instant::now();
        let converted = checkpoint_file(&file.folder, file.name, &mut random);
        let took = begin.elapsed();
        if took > self.slowest.1 {
            self.slowest = (round, took);
        }
        assert!(took < ROUND_MAX, "it took {took:?}");
        self.opened += u64::from(converted.opened);
        self.made += u64::from(converted.made > 0);
        // From behind: the same word may have been changed twice.
        changes.into_iter().rev().for_each(Change::undo);
    }
}
