//! Who wrote this last? A program in a guest dies of a store that it made long before through a stale
//! pointer (`images/initramfs/hunt.c`); from where it dies, a watchpoint and one `reverse-continue` of the
//! real gdb stand on the store. Twenty recordings, each with other keys typed at other moments.

use dejavm_gdb_tests::{Gdb, hunted, hunted_program};
use std::collections::BTreeSet;

/// Records and hunts; the position of the store.
fn hunt(seed: u64) -> String {
    let mut replay = hunted(seed);
    let program = hunted_program();
    // Behind the connection: gdb moves what it has read before to where the kernel's code is.
    let symbols = format!("add-symbol-file {}", program.display());
    let said = Gdb::plain().before("set remotetimeout 100").run(
        &mut replay,
        &[
            &symbols,
            "break farewell",
            "continue",
            "output/x session->greet",
            "watch -l session->greet",
            "reverse-continue",
            "info symbol $pc",
            "x/i $pc",
            "output/x $rsi",
            "monitor position",
            "detach",
        ],
    );
    let after = |command: &str| {
        let (_, rest) = said.split_once(&format!("(gdb) {command}\n")).expect("it was asked");
        rest.split("\n(gdb)").next().unwrap_or_default().trim().to_owned()
    };
    assert_eq!(after("output/x session->greet"), "0x41414140", "{said}");
    // It stands before the store, which has been undone.
    let stop = after("reverse-continue");
    assert!(stop.contains("Old value = (void (*)(struct session *)) 0x41414140"), "{said}");
    assert!(stop.contains("<greet>"), "{said}");
    assert_eq!(after("info symbol $pc"), "account in section .text", "{said}");
    assert!(after("x/i $pc").ends_with("mov    %rsi,(%rdi)"), "{said}");
    assert_eq!(after("output/x $rsi"), "0x41414140", "{said}");
    after("monitor position")
}

fn hunts(seeds: std::ops::Range<u64>) {
    let count = seeds.end - seeds.start;
    let places: BTreeSet<String> = seeds.map(hunt).collect();
    assert_eq!(places.len() as u64, count, "each recording has its own timing: {places:?}");
}

#[test]
fn recordings_1_to_5() {
    hunts(1..6);
}

#[test]
fn recordings_6_to_10() {
    hunts(6..11);
}

#[test]
fn recordings_11_to_15() {
    hunts(11..16);
}

#[test]
fn recordings_16_to_20() {
    hunts(16..21);
}
