//! A recording of each format version, made when that version was new, must be read for ever.

mod toy;

use dejavm_replay::{
    Advance, FORMAT_VERSION, Guest, Mark, Moment, Parent, RecordOptions, Recorded, Recorder,
    Replayer, Summary, Timeline, TimelineOptions, add_mark,
};
use dejavm_units::{GuestNs, Position};
use std::fs::{self, OpenOptions};
use std::io::Cursor;
use toy::{Mistake, RandomWorld, Toy, debugged, options, recording, replay};

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

/// A branch of `PARENT`, with marks that were set while it was recorded and one that was added later.
const BRANCH: &[u8] = include_bytes!("golden/toy-v2-branch.dvr");
const PARENT: &[u8] = include_bytes!("golden/toy-v2-checkpoints.dvr");
const PARENT_NAME: &str = "toy-v2-checkpoints.dvr";
/// Where in its parent the branch begins.
const BRANCHED_AT: u64 = 9000;

/// The parent, standing where the branch begins.
fn parent() -> (Timeline<Cursor<&'static [u8]>, Toy>, Parent) {
    let mut replayer = Replayer::open(Cursor::new(PARENT)).unwrap();
    let mut toy = Toy::from_state(replayer.start_state().unwrap());
    replayer.load_pages(&mut toy).unwrap();
    let mut timeline = Timeline::new(replayer, toy, TimelineOptions::default()).unwrap();
    timeline.seek(Position(BRANCHED_AT)).unwrap();
    let parent = timeline.as_parent(PARENT_NAME).unwrap();
    (timeline, parent)
}

/// The branch as it is recorded now, and its marks, ascending.
fn branch(fresh: &str) -> (Vec<u8>, Recorded, Vec<Mark>) {
    let (timeline, parent) = parent();
    let mut toy = Toy::from_state(timeline.machine().save());
    let mut page = [0; 4096];
    for pfn in timeline.machine().ram().pages() {
        timeline.machine().ram().read(pfn.gpa(), &mut page).unwrap();
        toy.ram_mut().write(pfn.gpa(), &page).unwrap();
    }
    let mut file = Vec::new();
    let options = RecordOptions { parent: Some(parent), ..options(DIGEST_INTERVAL) };
    let mut world = RandomWorld::new(SEED);
    let mut recorder = Recorder::new(&mut toy, &mut file, &options).unwrap();
    let mut marks = Vec::new();
    let mut wanted = vec![("half way", 14_000), ("first", 10_000)];
    let recorded = loop {
        let limit = wanted.last().map(|(_, at)| Position(*at));
        match recorder.advance(&mut world, limit).unwrap() {
            Advance::Limit => {
                let (name, _) = wanted.pop().unwrap();
                recorder.mark(name).unwrap();
                marks.push(Mark { at: recorder.now(), name: name.to_owned() });
            }
            Advance::Running | Advance::Stopped(_) => {}
            Advance::Ended(ending) => break recorder.finish(&mut world, ending).unwrap(),
        }
    };
    fs::write(fresh, &file).unwrap();
    let at = Moment { position: Position(12_000), guest_ns: GuestNs(6000) };
    let later = Mark { at, name: "later \u{fc}ber".to_owned() };
    let open = OpenOptions::new().read(true).write(true).open(fresh).unwrap();
    add_mark(&open, &later).unwrap();
    marks.insert(1, later);
    (fs::read(fresh).unwrap(), recorded, marks)
}

#[test]
fn the_golden_branch_still_names_its_parent_and_its_marks() {
    let fresh = concat!(env!("CARGO_TARGET_TMPDIR"), "/toy-v2-branch.dvr");
    let (_, recorded, marks) = branch(fresh);
    let what_to_do = format!("if the format has changed: copy {fresh} beside the golden files");
    let summary = Summary::read(Cursor::new(BRANCH)).expect(&what_to_do);
    assert_eq!(summary.parent, Some(parent().1), "{what_to_do}");
    assert_eq!(summary.marks, marks, "{what_to_do}");
    assert_eq!((summary.cut_short, summary.last), (None, recorded.at), "{what_to_do}");
    let (replayed, ..) = replay(BRANCH, Mistake::default()).expect(&what_to_do);
    assert_eq!(replayed.at, recorded.at, "{what_to_do}");
    assert_eq!(replayed.ending, Some(recorded.ending), "{what_to_do}");
    assert_eq!(replayed.last_digest, Some(recorded.digest), "{what_to_do}");
}
