//! A recording of each format version, made when that version was new, must be read for ever.

mod toy;

use dejavm_replay::{FORMAT_VERSION, Recorded, Summary};
use std::io::Cursor;
use toy::{Mistake, RandomWorld, debugged, recording, replay};

/// What the files hold, as it was when they were made.
const SEED: u64 = 21;
const DIGEST_INTERVAL: u64 = 4000;

type Made = (Vec<u8>, Recorded, RandomWorld);

/// A version's file, and how it was made.
struct Golden {
    version: u16,
    file: &'static [u8],
    make: fn(u64, u64) -> Made,
}

/// Version 2 has a debugger's writes.
const GOLDEN: [Golden; 2] = [
    Golden { version: 1, file: include_bytes!("golden/toy-v1.dvr"), make: recording },
    Golden { version: 2, file: include_bytes!("golden/toy-v2.dvr"), make: debugged },
];

#[test]
fn the_golden_recordings_still_read_and_replay() {
    assert_eq!(GOLDEN.last().unwrap().version, FORMAT_VERSION, "each version has its file");
    for Golden { version, file: golden, make } in GOLDEN {
        let fresh = format!("{}/toy-v{version}.dvr", env!("CARGO_TARGET_TMPDIR"));
        let (file, recorded, world) = make(SEED, DIGEST_INTERVAL);
        std::fs::write(&fresh, &file).unwrap();
        let what_to_do =
            format!("if the format's version has grown: copy {fresh} beside the golden files");

        let (replayed, _, console) = replay(golden, Mistake::default()).expect(&what_to_do);
        assert_eq!(u16::from_le_bytes([golden[8], golden[9]]), version);
        assert_eq!(replayed.ending, Some(recorded.ending), "{what_to_do}");
        assert_eq!(replayed.at, recorded.at, "{what_to_do}");
        assert_eq!(replayed.last_digest, Some(recorded.digest), "{what_to_do}");
        assert_eq!(console, world.console, "{what_to_do}");
        let summary = Summary::read(Cursor::new(golden)).expect(&what_to_do);
        assert_eq!(summary.header.creator, "toy");
        assert_eq!(summary.inputs, world.brought);
    }
}
