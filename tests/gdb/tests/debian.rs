//! A Debian kernel that panics, as the article of 2007 hunts it: with nothing but gdb.

use dejavm_gdb_tests::Gdb;
use dejavm_replay::{Replayer, Timeline, TimelineOptions};
use dejavm_scenarios::{Debian, Desk, Kernel, rebuild, tape};
use dejavm_stub::{Replaying, Target};
use std::io::Cursor;

fn after<'a>(text: &'a str, command: &str, nth: usize) -> &'a str {
    let part = text.split(&format!("(gdb) {command}\n")).nth(nth + 1);
    let part = part.unwrap_or_else(|| panic!("no {command:?} number {nth} in\n{text}"));
    part.split("\n(gdb) ").next().unwrap_or(part).trim()
}

/// Symbols come from the guest's memory, where randomization put them; no file is given to gdb.
fn hunts(kernel: Kernel) {
    let debian = Debian::new(kernel, "panic");
    let tape = tape(debian.boot(), debian.config(), &mut Desk::new(), 0, None);
    let mut replayer = Replayer::open(Cursor::new(tape.file)).unwrap();
    let machine = rebuild(&mut replayer).unwrap();
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default()).unwrap();
    let mut replay = Replaying::new(timeline).unwrap();
    let end = replay.extent().1;
    replay.seek(end, &mut || false).unwrap();
    let text = Gdb::plain().run(
        &mut replay,
        &[
            "info files",
            "break panic",
            "reverse-continue",
            "backtrace 3",
            "monitor position",
            "delete",
            "monitor stopat -3000",
            "reverse-continue",
            "monitor when",
            "stepi",
            "reverse-stepi",
            "break panic if $cs != 0x1234",
            "continue",
            "monitor position",
            "watch -l *(long *)$sp",
            "reverse-continue",
            "x/i $pc",
            "stepi",
            "monitor r idtr",
            "info registers cr3",
            "monitor phys",
            "x/2xb 0x1000",
            "monitor virt",
        ],
    );
    assert!(after(&text, "info files", 0).contains("Symbols from \"target:/kernel\""), "{text}");
    let stop = after(&text, "reverse-continue", 0);
    assert!(stop.contains("Breakpoint 1, ") && stop.contains(" in panic ()"), "{text}");
    assert!(after(&text, "backtrace 3", 0).contains("#0 "), "{text}");
    let number = |nth: usize| -> u64 {
        let said = after(&text, "monitor position", nth);
        said.parse().unwrap_or_else(|_| panic!("{said:?} in {text}"))
    };
    let before = number(0) - 3000;
    let stop = after(&text, "reverse-continue", 1);
    assert!(stop.contains(&format!("dejavm: position {before}")), "{text}");
    assert!(after(&text, "monitor when", 0).starts_with(&format!("position {before} of 0 to ")));
    assert!(after(&text, "continue", 0).contains(" in panic ()"), "{text}");
    assert_eq!(number(1), number(0), "the same panic");
    // Who put the return address there: the call.
    assert!(after(&text, "reverse-continue", 2).contains("watchpoint 3"), "{text}");
    assert!(after(&text, "x/i $pc", 0).contains("call"), "{text}");
    assert!(after(&text, "stepi", 1).contains(" in panic ()"), "{text}");
    assert!(after(&text, "monitor r idtr", 0).starts_with("idtr base=0x"), "{text}");
    assert!(after(&text, "x/2xb 0x1000", 0).starts_with("0x1000"), "{text}");
}

#[test]
fn the_cloud_kernels_panic() {
    hunts(Kernel::Cloud);
}
