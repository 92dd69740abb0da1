//! Rules on the text of sources.

use dejavm_tidy::{Source, sources};
use std::collections::BTreeSet;

/// Beyond this a file has more than one idea.
const LINES_MAX: usize = 1300;

/// Who looks again and again: the bench at a child process, at a stub that is to listen, while a peer runs; a test at the file that a
/// recorder writes its console to.
const MAY_SLEEP: &[&str] =
    &["tests/bench/src/child.rs", "tests/bench/src/rsp.rs", "tools/dejavm/tests/network.rs"];

/// The keyword is put together here, so that this file does not hold it.
fn is_unsafe_code(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or("");
    let keyword = concat!("uns", "afe");
    ["{", "fn ", "impl ", "extern "].iter().any(|what| code.contains(&format!("{keyword} {what}")))
        || code.contains(concat!("#[", "unsafe("))
}

fn rust() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| source.path.ends_with(".rs"))
}

#[test]
fn unsafe_code_is_explained_and_listed() {
    let all = sources();
    let architecture =
        all.iter().find(|source| source.path == "ARCHITECTURE.md").expect("the map of the project");
    let mut with_unsafe = 0;
    for source in all.iter().filter(|source| source.path.ends_with(".rs")) {
        if !source.lines().any(|(_, line)| is_unsafe_code(line)) {
            continue;
        }
        with_unsafe += 1;
        let path = &source.path;
        let opening: Vec<&str> =
            source.text.lines().take_while(|line| line.starts_with("//!")).collect();
        let explained = opening.iter().any(|line| line.starts_with("//! UNSAFETY: "));
        assert!(explained, "{path} must open with an `UNSAFETY:` paragraph");
        let listed = architecture.text.contains(&format!("`{path}`"));
        assert!(listed, "{path} must be in ARCHITECTURE.md's list of unsafe modules");
    }
    assert!(with_unsafe >= 5, "the memory and the CPU have some");
    for (number, line) in architecture.lines() {
        let listed = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'));
        let Some((path, _)) =
            listed.filter(|(path, _)| path.contains('/') && path.ends_with(".rs"))
        else {
            continue;
        };
        let source = all.iter().find(|source| source.path == path);
        let still = source.is_some_and(|it| it.lines().any(|(_, line)| is_unsafe_code(line)));
        assert!(still, "ARCHITECTURE.md:{number}: {path} has no unsafe code any more");
    }
}

#[test]
fn unsafe_code_is_recognized() {
    for rest in ["{ f() }", "fn f()", "impl Send for X {}", "extern \"C\" {"] {
        let code = format!("    {} {rest}", concat!("uns", "afe"));
        assert!(is_unsafe_code(&code), "{code}");
    }
    for code in ["#![forbid(unsafe_code)]", "// no unsafe { here }", "let unsafety = 1;"] {
        assert!(!is_unsafe_code(code), "{code}");
    }
}

#[test]
fn no_leftovers() {
    let everywhere = [
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("#[", "ignore"),
        concat!("should_", "panic"),
    ];
    for source in rust() {
        for (number, line) in source.lines() {
            for leftover in everywhere {
                assert!(!line.contains(leftover), "{}:{number}: {leftover}", source.path);
            }
        }
    }
}

#[test]
fn nothing_sleeps() {
    let sleep = concat!("thread::", "sleep");
    let sleepers: BTreeSet<String> =
        rust().filter(|source| source.text.contains(sleep)).map(|source| source.path).collect();
    assert_eq!(sleepers, MAY_SLEEP.iter().map(|&path| path.to_owned()).collect());
}

#[test]
fn files_have_one_idea() {
    for source in rust() {
        let lines = source.text.lines().count();
        assert!(lines <= LINES_MAX, "{}: {lines} lines; at most {LINES_MAX}", source.path);
    }
}

#[test]
fn folders_say_what_they_are() {
    let all = sources();
    let paths: BTreeSet<&str> = all.iter().map(|source| source.path.as_str()).collect();
    let tops: BTreeSet<&str> = all.iter().map(Source::top).filter(|top| !top.is_empty()).collect();
    assert!(tops.contains("vmm") && tops.contains("replay"), "{tops:?}");
    for top in tops {
        assert!(paths.contains(format!("{top}/README.md").as_str()), "{top}/README.md is missing");
    }
}

/// Modules open with what they are; a source without a word about itself is unfinished.
#[test]
fn sources_say_what_they_are() {
    for source in rust() {
        assert!(source.text.starts_with("//! "), "{} must open with `//! `", source.path);
    }
}
