//! Recordings of a program that dies of an old store.

use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Debian, Desk, Kernel, Random, Typing, rebuild, tape};
use dejavm_stub::Replaying;
use std::io::Cursor;
use std::path::PathBuf;

/// Keys come within this of one another.
const LATEST_NS: u64 = 30_000_000;

/// Records `images/initramfs/hunt.c` with other keys, typed at other moments, for each seed. The replay
/// stands at its beginning.
pub fn hunted(seed: u64) -> Replaying<Cursor<Vec<u8>>> {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let debian = Debian::new(Kernel::Cloud, "hunt");
    let first = Typing::new("hunt: press a key", random.below(LATEST_NS), &random.word(1));
    let others = (0..seed % 4).map(|_| Typing::new("", random.below(LATEST_NS), &random.word(3)));
    let keys: Vec<Typing> = std::iter::once(first).chain(others).collect();
    let mut desk = Desk::with_script(keys);
    let tape = tape(debian.boot(), debian.config(), &mut desk, 0, None);
    assert!(desk.console().contains("DEJAVM-HUNT 139"), "{}", desk.console());

    let mut replayer = Replayer::open(Cursor::new(tape.file)).expect("a recording of our own");
    let machine = rebuild(&mut replayer).expect("the machine that was recorded");
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default());
    Replaying::new(timeline.expect("a recording of our own")).expect("a machine to inspect")
}

/// That program, with its symbols.
pub fn hunted_program() -> PathBuf {
    dejavm_images::fetched("hunt-amd64.elf").expect("the guests are built: `make images`")
}
