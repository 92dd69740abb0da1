//! Recordings of a program that dies of an old store, and how `docs/hunting.md` hunts it.

use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Debian, Desk, Kernel, Random, Typing, rebuild, tape};
use dejavm_stub::Replaying;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys come within this of one another.
const LATEST_NS: u64 = 30_000_000;
const TEXT: &str = include_str!("../../../docs/hunting.md");

/// Records `images/initramfs/hunt.c` with other keys, typed at other moments, for each seed. The replay
/// stands at its beginning.
pub fn hunted(seed: u64) -> Replaying<Cursor<Vec<u8>>> {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let first = Typing::new("hunt: press a key", random.below(LATEST_NS), &random.word(1));
    let others = (0..seed % 4).map(|_| Typing::new("", random.below(LATEST_NS), &random.word(3)));
    let keys = std::iter::once(first).chain(others).collect();
    recorded(&Debian::new(Kernel::Cloud, "hunt"), keys, "DEJAVM-HUNT 139")
}

/// The same where the program is the first process: the kernel panics when it dies.
pub fn hunted_as_init(seed: u64) -> Replaying<Cursor<Vec<u8>>> {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let line = random.word(1) + "\n";
    let key = Typing::new("hunt: press a key", random.below(LATEST_NS), &line);
    let debian = Debian::new(Kernel::Cloud, "");
    let debian = Debian { more: "cryptomgr.notests rdinit=/bin/hunt", ..debian };
    recorded(&debian, vec![key], "Attempted to kill init! exitcode=0x0000000b")
}

fn recorded(debian: &Debian, keys: Vec<Typing>, says: &str) -> Replaying<Cursor<Vec<u8>>> {
    let mut desk = Desk::with_script(keys);
    let tape = tape(debian.boot(), debian.config(), &mut desk, 0, None);
    assert!(desk.console().contains(says), "{}", desk.console());
    let mut replayer = Replayer::open(Cursor::new(tape.file)).expect("a recording of our own");
    let machine = rebuild(&mut replayer).expect("the machine that was recorded");
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default());
    Replaying::new(timeline.expect("a recording of our own")).expect("a machine to inspect")
}

/// That program, with its symbols.
pub fn hunted_program() -> PathBuf {
    dejavm_images::fetched("hunt-amd64.elf").expect("the guests are built: `make images`")
}

/// The commands for gdb in the text, in order.
pub fn printed_commands() -> Vec<&'static str> {
    TEXT.lines().filter_map(|line| line.strip_prefix("    (gdb) ")).collect()
}

/// A folder in which the text's relative paths exist, and its script.
pub fn printed_folder() -> PathBuf {
    let (_, script) = TEXT.split_once("```gdb\n").expect("the text has a script");
    let (script, _) = script.split_once("```").expect("it ends");
    // Tests may be threads of one process.
    static FOLDERS: AtomicUsize = AtomicUsize::new(0);
    let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("dejavm-hunt-{}-{number}", std::process::id()));
    let images = folder.join(".cache/images");
    std::fs::create_dir_all(&images).expect("a folder");
    std::fs::copy(hunted_program(), images.join("hunt-amd64.elf")).expect("a file can be copied");
    std::fs::write(folder.join("panic.gdb"), script).expect("a file can be written");
    folder
}
