//! Marks are added to recordings, whole or cut short, and a torn one harms nothing.

mod toy;

use dejavm_replay::{Mark, MarkError, Moment, Summary, add_mark};
use dejavm_units::{GuestNs, Position};
use std::fs::{self, File, OpenOptions};
use std::io::Cursor;
use std::path::PathBuf;
use toy::{Mistake, recording, replay};

fn mark(name: &str, position: u64) -> Mark {
    let at = Moment { position: Position(position), guest_ns: GuestNs(position / 2) };
    Mark { at, name: name.into() }
}

fn with_file<T>(name: &str, contents: &[u8], work: impl FnOnce(&File) -> T) -> (T, Vec<u8>) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, contents).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let result = work(&file);
    (result, fs::read(&path).unwrap())
}

fn names(file: &[u8]) -> Vec<String> {
    let summary = Summary::read(Cursor::new(file)).unwrap();
    summary.marks.into_iter().map(|mark| format!("{}@{}", mark.name, mark.at.position)).collect()
}

#[test]
fn marks_are_appended_and_the_last_of_a_name_counts() {
    let (file, recorded, _) = recording(41, 3000);
    let (_, marked) = with_file("marks.dvr", &file, |file| {
        add_mark(file, &mark("oops", 900)).unwrap();
        add_mark(file, &mark("start", 10)).unwrap();
        add_mark(file, &mark("oops", 700)).unwrap();
    });
    assert_eq!(marked[..file.len()], file[..], "only added");
    assert_eq!(names(&marked), ["start@10", "oops@700"]);
    let (replayed, ..) = replay(&marked, Mistake::default()).unwrap();
    assert_eq!((replayed.at, replayed.ending), (recorded.at, Some(recorded.ending)));

    // Torn anywhere: not there, and the next one takes its place.
    for cut in file.len()..marked.len() {
        let (added, again) =
            with_file("torn.dvr", &marked[..cut], |file| add_mark(file, &mark("again", 50)));
        added.unwrap();
        assert!(names(&marked[..cut]).len() <= 2, "cut at {cut}");
        assert!(names(&again).contains(&"again@50".to_owned()), "cut at {cut}");
        let (replayed, ..) = replay(&again, Mistake::default()).unwrap();
        assert_eq!(replayed.ending, Some(recorded.ending), "cut at {cut}");
    }
}

#[test]
fn a_recording_that_was_cut_short_takes_marks_and_a_damaged_one_does_not() {
    let (file, ..) = recording(42, 3000);
    let cut = &file[..file.len() * 2 / 3];
    let before = Summary::read(Cursor::new(cut)).unwrap();
    let (added, marked) = with_file("cut.dvr", cut, |file| add_mark(file, &mark("here", 5)));
    added.unwrap();
    assert_eq!(names(&marked), ["here@5"]);
    let after = Summary::read(Cursor::new(&marked)).unwrap();
    assert_eq!((after.last, after.ending), (before.last, None));

    let mut damaged = file.clone();
    damaged[file.len() / 2..file.len() / 2 + 40].fill(0);
    let broken = Summary::read(Cursor::new(&damaged)).unwrap();
    let (added, after) = with_file("damaged.dvr", &damaged, |file| add_mark(file, &mark("no", 5)));
    // Zeros in a payload are found only by those who read it.
    match added {
        Err(MarkError::Damaged(_)) => assert_eq!(after, damaged),
        added => added.unwrap(),
    }
    assert!(broken.cut_short.is_some());
}

#[test]
fn names_that_would_not_print_are_refused() {
    let (file, ..) = recording(43, 3000);
    for name in ["", "a\nb", "\u{7}", &"x".repeat(201)] {
        let (added, after) = with_file("names.dvr", &file, |file| add_mark(file, &mark(name, 5)));
        assert!(matches!(added, Err(MarkError::Name)), "{name:?}");
        assert_eq!(after, file);
    }
}
