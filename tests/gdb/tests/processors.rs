//! The real gdb on a machine of two processors.

use dejavm_gdb_tests::{Gdb, Rerun};

/// What gdb printed for a command, the `nth` of those alike.
fn after(text: &str, command: &str, nth: usize) -> String {
    let prompt = format!("(gdb) {command}\n");
    let part = text.split(&prompt).nth(nth + 1);
    let part = part.unwrap_or_else(|| panic!("no {command:?} number {nth} in\n{text}"));
    part.split("\n(gdb) ").next().unwrap_or(part).trim().to_owned()
}

#[test]
fn processors_are_threads() {
    let mut target = Rerun::replay_on(dejavm_images::RACE, 2);
    let gdb = Gdb::with_symbols("race", dejavm_images::RACE);
    let text = gdb.run(
        &mut target,
        &[
            "info threads",
            "break work",
            "continue",
            "continue",
            "info threads",
            "delete",
            "thread 1",
            "print $pc",
            "stepi",
            "print $pc",
            "stepi",
            "print $pc",
            "thread 2",
            "print $pc",
            "stepi",
            "print $pc",
            "stepi",
            "print $pc",
            "info threads",
            "watch *(int *)&account",
            "continue",
            "info threads",
            "continue",
            "info threads",
            "monitor info",
        ],
    );
    assert!(after(&text, "info threads", 0).contains("\"cpu1\" (halted)"), "{text}");
    // Each comes to the function, in a turn of its own.
    let stops = [after(&text, "continue", 0), after(&text, "continue", 1)];
    assert!(stops.iter().all(|stop| stop.contains("Breakpoint 1, 0x")), "{text}");
    let both = after(&text, "info threads", 1);
    assert!(both.contains("in work ()"), "{both}");
    // A step is of the thread that is selected, whoever else runs meanwhile.
    let at = |nth: usize| {
        let printed = after(&text, "print $pc", nth);
        let offset =
            printed.rsplit_once("<work").map(|(_, rest)| rest.trim_end_matches('>').to_owned());
        offset.unwrap_or_else(|| panic!("{printed}\n{text}"))
    };
    for first in [0, 3] {
        assert_ne!(at(first), at(first + 1), "{text}");
        assert_ne!(at(first + 1), at(first + 2), "{text}");
    }
    let stepped = after(&text, "info threads", 2);
    assert!(stepped.lines().any(|line| line.starts_with("* 2")), "{stepped}");
    // Who stored is told.
    let stored = [3, 4].map(|nth| after(&text, "info threads", nth));
    assert!(stored.iter().all(|said| said.contains("in work ()")), "{text}");
    assert!(after(&text, "monitor info", 0).contains("2 CPU"), "{text}");
}
