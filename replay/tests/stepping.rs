//! A recorder is a value: who steps it, stops it and looks at it in between leaves no trace.

mod toy;

use dejavm_machine::{Input, Output};
use dejavm_replay::{
    Advance, CutShort, Ending, Guest, IdleAnswer, Polled, Progress, Recorder, World,
};
use dejavm_units::{GuestNs, Position};
use toy::{Mistake, Random, RandomWorld, Toy, options, replay};

/// Brings nothing; waits end when they would.
#[derive(Default)]
struct Quiet {
    console: Vec<u8>,
}

impl World for Quiet {
    fn poll(&mut self) -> Polled {
        Polled::default()
    }
    fn idle(&mut self, now: GuestNs, wake: Option<GuestNs>) -> IdleAnswer {
        IdleAnswer::Until(wake.unwrap_or(GuestNs(now.0 + 50)))
    }
    fn output(&mut self, output: &[Output]) {
        self.console.extend(toy::bytes_of(output));
    }
    fn progress(&mut self, _progress: Progress) {}
}

#[test]
fn stepping_and_looking_leave_no_trace() {
    for seed in 0..60 {
        let mut files = Vec::new();
        for stepped in [false, true] {
            let mut random = Random::new(seed ^ 0x5e);
            let mut options = options(500);
            options.until = Some(Position(2900));
            let mut file = Vec::new();
            let mut world = Quiet::default();
            let mut recorder = Recorder::new(Toy::new(seed), &mut file, &options).unwrap();
            let recorded = loop {
                let limit = stepped.then(|| {
                    let far = if random.below(2) == 0 { 1 } else { random.below(700) };
                    Position(recorder.now().position.0 + far)
                });
                match recorder.advance(&mut world, limit).unwrap() {
                    Advance::Running | Advance::Stopped(_) => {}
                    Advance::Limit => {
                        assert_eq!(Some(recorder.now().position), limit, "seed {seed}");
                        let _ = recorder.guest().save();
                    }
                    Advance::Ended(ending) => break recorder.finish(&mut world, ending).unwrap(),
                }
            };
            replay(&file, Mistake::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            files.push((file, recorded.at, recorded.digest, world.console));
        }
        assert_eq!(files[0], files[1], "seed {seed}");
    }
}

/// Inputs of the caller's, between steps, beside those of the world.
#[test]
fn inputs_between_steps_replay() {
    let mut inputs = 0;
    for seed in 0..60 {
        let mut random = Random::new(seed ^ 0x77);
        let mut file = Vec::new();
        let mut world = RandomWorld::new(seed);
        let mut recorder = Recorder::new(Toy::new(seed), &mut file, &options(500)).unwrap();
        let mut entered = 0;
        let recorded = loop {
            let limit = Position(recorder.now().position.0 + random.below(40));
            match recorder.advance(&mut world, Some(limit)).unwrap() {
                Advance::Running | Advance::Stopped(_) => {}
                Advance::Limit => {
                    let bytes = vec![random.next() as u8; 1 + random.below(3) as usize];
                    recorder.enter(Input::Serial { port: 0, bytes }).unwrap();
                    entered += 1;
                }
                Advance::Ended(ending) => break recorder.finish(&mut world, ending).unwrap(),
            }
        };
        let (replayed, _, console) =
            replay(&file, Mistake::default()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(replayed.at, recorded.at, "seed {seed}");
        assert_eq!(replayed.inputs, world.brought + entered, "seed {seed}");
        assert_eq!(replayed.last_digest, Some(recorded.digest), "seed {seed}");
        assert_eq!(console, world.console, "seed {seed}");
        inputs += entered;
    }
    assert!(inputs > 1000, "{inputs}");
}

#[test]
fn what_was_flushed_before_the_recorder_died_replays() {
    let mut file = Vec::new();
    let mut world = Quiet::default();
    let mut recorder = Recorder::new(Toy::new(4), &mut file, &options(500)).unwrap();
    while recorder.now().position < Position(1234) {
        let ended = recorder.advance(&mut world, Some(Position(1234))).unwrap();
        assert_ne!(ended, Advance::Ended(Ending::Stopped));
    }
    recorder.enter(Input::Serial { port: 0, bytes: vec![1, 2, 3] }).unwrap();
    recorder.flush().unwrap();
    let (at, state) = (recorder.now(), recorder.guest().save());
    drop(recorder);
    let (replayed, toy, _) = replay(&file, Mistake::default()).unwrap();
    assert_eq!((replayed.at, replayed.inputs), (at, 1));
    assert_eq!(replayed.cut_short, Some(CutShort::Ends { offset: file.len() as u64 }));
    // The replay was brought to rest there.
    let mut rested = Toy::from_state(state);
    rested.run(at.position);
    assert_eq!(toy.state, rested.state);
}
