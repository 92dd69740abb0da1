//! Who wrote this last? A program in a guest dies of a store that it made long before through a stale
//! pointer (`images/initramfs/hunt.c`); from where it dies, a watchpoint and one `reverse-continue` of the
//! real gdb stand on the store. Twenty recordings, each with other keys typed at other moments. The commands
//! are those that `docs/hunting.md` prints.

use dejavm_gdb_tests::{Gdb, hunted, hunted_as_init, printed_commands, printed_folder};
use std::collections::BTreeSet;

/// Records and hunts; the position of the store.
fn hunt(seed: u64) -> String {
    let mut replay = hunted(seed);
    let folder = printed_folder();
    let printed = printed_commands();
    // Behind the connection: gdb moves what it has read before to where the kernel's code is.
    let first = "add-symbol-file .cache/images/hunt-amd64.elf";
    let last = ["info symbol $pc", "output/x $rsi", "monitor position", "detach"];
    let commands: Vec<&str> = std::iter::once(first).chain(printed).chain(last).collect();
    let gdb = Gdb::plain().before("set remotetimeout 100");
    let said = gdb.before(&format!("cd {}", folder.display())).run(&mut replay, &commands);
    std::fs::remove_dir_all(&folder).unwrap();
    let after = |command: &str| {
        let (_, rest) = said.split_once(&format!("(gdb) {command}\n")).expect("it was asked");
        rest.split("\n(gdb)").next().unwrap_or_default().trim().to_owned()
    };
    assert!(after("print *session").contains("{greet = 0x41414140, "), "{said}");
    // It stands before the store, which has been undone.
    let stop = after("reverse-continue");
    assert!(stop.contains("Old value = (void (*)(struct session *)) 0x41414140"), "{said}");
    assert!(stop.contains("<greet>"), "{said}");
    assert_eq!(after("info symbol $pc"), "account in section .text", "{said}");
    assert!(after("x/i $pc").ends_with("mov    %rsi,(%rdi)"), "{said}");
    assert_eq!(after("output/x $rsi"), "0x41414140", "{said}");
    after("monitor position")
}

#[test]
fn from_a_panic() {
    let mut places = BTreeSet::new();
    for seed in 30..33 {
        let mut replay = hunted_as_init(seed);
        let folder = printed_folder();
        let gdb = Gdb::plain().before("set remotetimeout 100");
        let gdb = gdb.before(&format!("cd {}", folder.display()));
        let said = gdb.run(&mut replay, &["source panic.gdb", "detach"]);
        std::fs::remove_dir_all(&folder).unwrap();
        // In this order.
        let mut rest = said.as_str();
        for text in [
            " in panic ()",
            "\"Attempted to kill init! exitcode=0x%08x\\n\"",
            " in asm_exc_page_fault ()",
            "<farewell>:\tjmp    *(%rdi)",
            "{greet = 0x41414140, ",
            "Old value = (void (*)(struct session *)) 0x41414140",
            "<account>:\tmov    %rsi,(%rdi)",
            "#0  account (connection=",
        ] {
            let (_, behind) = rest.split_once(text).unwrap_or_else(|| panic!("{text:?} in {said}"));
            rest = behind;
        }
        let position = rest.split("\n(gdb)").next().unwrap_or_default().lines().last();
        let position = position.and_then(|line| line.parse::<u64>().ok());
        assert!(places.insert(position.expect(&said)), "each recording has its own timing");
    }
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
