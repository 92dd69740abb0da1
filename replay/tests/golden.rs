//! A recording of format version 1, made when that version was new, must be read for ever.

mod toy;

use dejavm_replay::Summary;
use std::io::Cursor;
use toy::{Mistake, recording, replay};

const GOLDEN: &[u8] = include_bytes!("golden/toy-v1.dvr");
/// What the file holds, as it was when it was made.
const SEED: u64 = 21;
const DIGEST_INTERVAL: u64 = 4000;

#[test]
fn the_golden_recording_still_reads_and_replays() {
    let fresh = concat!(env!("CARGO_TARGET_TMPDIR"), "/toy-v1.dvr");
    let (file, recorded, world) = recording(SEED, DIGEST_INTERVAL);
    std::fs::write(fresh, &file).unwrap();
    let what_to_do =
        format!("if the format's version has grown: copy {fresh} beside the golden file");

    let (replayed, _, console) = replay(GOLDEN, Mistake::default()).expect(&what_to_do);
    assert_eq!(replayed.ending, Some(recorded.ending), "{what_to_do}");
    assert_eq!(replayed.at, recorded.at, "{what_to_do}");
    assert_eq!(replayed.last_digest, Some(recorded.digest), "{what_to_do}");
    assert_eq!(console, world.console, "{what_to_do}");
    let summary = Summary::read(Cursor::new(GOLDEN)).expect(&what_to_do);
    assert_eq!(summary.header.creator, "toy");
    assert_eq!(summary.inputs, world.brought);
}
