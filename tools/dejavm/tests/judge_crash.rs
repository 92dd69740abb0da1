//! The real crash, and drgn with types and lines, with the vmlinux of Debian's `-dbg` package: on checkpoints themselves and on the
//! cores that `vmss2core` makes of them, with and without address-space randomization. Slow judges: that vmlinux is 631 MB
//! (`make judges`).

mod program;

use dejavm_judges::{ask, python, script};
use program::Folder;
use program::debian::fetched;
use program::facts::{self, Guest, Task};
use program::panicked::panicked;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use vmss2core::{Compression, Kind, LinuxOptions, Series};

/// What crash says to each of some commands.
fn crash(vmlinux: &str, dump: &str, commands: &[&str]) -> Vec<String> {
    const MARK: &str = "judge-crash-next";
    let mut crash = Command::new("crash")
        .args(["-s", "--no_scroll", vmlinux, dump])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("crash is installed: `tools/install-deps.sh test`");
    let mut input = String::new();
    for command in commands {
        input += &format!("{command}\necho {MARK}\n");
    }
    crash.stdin.take().expect("it is piped").write_all(input.as_bytes()).unwrap();
    let ran = crash.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let answers: Vec<String> = said.split(MARK).map(str::to_owned).collect();
    let complaint = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(answers.len(), commands.len() + 1, "{dump}: {said}{complaint}");
    answers
}

/// Everything that crash opens.
fn dumps(guest: &Guest, state: &str) -> Vec<String> {
    let linux = |options| Kind::Linux(options);
    let two6 = LinuxOptions { series: Some(Series::Two6), ..LinuxOptions::default() };
    let kdump = LinuxOptions { kdump: Some(Compression::Zlib), ..LinuxOptions::default() };
    let small = LinuxOptions { without_free: true, ..kdump.clone() };
    vec![
        state.to_owned(),
        guest.convert(state, &linux(LinuxOptions::default()), "n.core"),
        guest.convert(state, &linux(two6), "n6.core"),
        guest.convert(state, &linux(kdump), "kdump.core"),
        guest.convert(state, &linux(small), "kdump-small.core"),
    ]
}

/// `ps`, without the idle task. crash shows a thread's own number and its process's parent, so a thread is known by its
/// parent's being that of the guest's list.
fn tasks(ps: &str, known: &BTreeSet<Task>) -> BTreeSet<Task> {
    let lines = ps.lines().map(|line| line.trim_start_matches('>').split_whitespace());
    let tasks = lines.filter_map(|mut words| {
        let thread: u64 = words.next()?.parse().ok()?;
        let name = words.nth(7)?.trim_matches(['[', ']']).to_owned();
        // PID, PPID, CPU, TASK, ST, %MEM, VSZ, RSS, COMM.
        let of = known.iter().find(|(_, tid, _)| *tid == thread).map_or(thread, |(pid, _, _)| *pid);
        (thread != 0).then_some((of, thread, name))
    });
    tasks.collect()
}

/// A line's word, by what precedes it.
fn word<'a>(said: &'a str, before: &str, n: usize) -> &'a str {
    let line = said.lines().find(|line| line.trim_start().starts_with(before));
    let line = line.unwrap_or_else(|| panic!("no {before:?}: {said}"));
    line.split_once(before).unwrap().1.split_whitespace().nth(n).unwrap()
}

/// What crash says of a guest is what it said of itself.
fn assert_crash(guest: &Guest, vmlinux: &str, dump: &str) {
    let facts = &guest.facts;
    let (holder, pattern) = (facts.holder, facts::pattern(facts::SEED));
    let commands = [
        "sys".to_owned(),
        "ps".to_owned(),
        "bt -a".to_owned(),
        format!("bt {holder}"),
        "log".to_owned(),
        "kmem -i".to_owned(),
        "mod".to_owned(),
        format!("files {holder}"),
        format!("set {holder}"),
        format!("rd -8 -u {:#x} 64", facts::PATTERN_AT),
        format!("set {}", facts.child),
        format!("rd -8 -u {:#x} 64", facts::PATTERN_AT),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let said = crash(vmlinux, dump, &commands);
    let [sys, ps, all, one, log, kmem, modules, files, _, ours, _, theirs, ..] = &*said else {
        panic!("an answer for each command");
    };
    assert!(!said[0].contains("WARNING"), "{dump}: {}", said[0]);
    assert_eq!(word(sys, "RELEASE:", 0), facts.release, "{dump}");
    let seen = tasks(ps, &facts.tasks);
    facts.assert_tasks(&seen, dump);
    assert_eq!(word(sys, "TASKS:", 0), (seen.len() + 1).to_string(), "{dump}");

    let running = format!("PID: {} ", facts.spinner);
    assert!(all.contains(&running) && all.contains("COMMAND: \"facts\""), "{dump}: {all}");
    assert!(all.contains(" at ") && all.contains("entry_SYSCALL_64_after_hwframe at "), "{all}");
    for function in
        [" __schedule at ", " __x64_sys_pause at ", " entry_SYSCALL_64_after_hwframe at "]
    {
        assert!(one.contains(function), "{dump}: {function}: {one}");
    }
    assert!(log.contains("dejavm: a line for the kernel's log"), "{dump}");
    assert!(log.contains("Linux version ") && log.contains(&facts.release), "{dump}");

    let pages = |name| word(kmem, name, 0).parse::<u64>().unwrap() * 4;
    assert_eq!(pages("TOTAL MEM"), facts.memory_total, "{dump}");
    // Programs ran after it was said: some megabytes, either way.
    assert!(pages("FREE").abs_diff(facts.memory_free) < 16 << 10, "{dump}: {kmem}");
    assert!(!facts.modules.is_empty(), "the guest loaded one");
    for name in &facts.modules {
        assert!(modules.split_whitespace().any(|word| word == name), "{dump}: {modules}");
    }

    for (descriptor, name) in &facts.files[&holder] {
        let line = files.lines().find(|line| {
            line.split_whitespace().next() == Some(&descriptor.to_string()) && line.len() > 40
        });
        let last = line.and_then(|line| line.split_whitespace().last());
        // A pipe has no path.
        let expected = if name.starts_with("pipe:") { "FIFO" } else { name };
        assert_eq!(last, Some(expected), "{dump}: {files}");
    }
    for (said, pattern) in [(ours, pattern), (theirs, facts::pattern(facts::CHILD_SEED))] {
        let bytes: Vec<&str> = said
            .lines()
            .filter_map(|line| line.trim_start().split_once(":  "))
            .flat_map(|(_, bytes)| bytes.split_whitespace().take(16))
            .collect();
        assert_eq!(bytes.concat(), facts::hex(&pattern[..64]), "{dump}: {said}");
    }
}

/// Of a vmlinux, one that this crash understands; gone with the test's end.
struct Vmlinux(String);

impl Vmlinux {
    fn new(folder: &Folder) -> Vmlinux {
        let made = Vmlinux(folder.path("vmlinux"));
        let ran = Command::new(python())
            .arg(script("crash_vmlinux.py"))
            .args([&fetched("vmlinux-amd64-dbg"), &made.0])
            .status();
        assert!(ran.unwrap().success());
        made
    }
}

impl Drop for Vmlinux {
    fn drop(&mut self) {
        // It is as big as the original.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A guest in the middle of a system call: crash 8.0.2 cannot open checkpoints of Linux 6.1 in user mode, for it looks for
/// the program's memory where Linux kept that before.
fn judge(name: &str, more: &str) {
    let guest = Guest::record(name, "amd64", "512", &format!("facts.busy {more}"));
    let state = guest.checkpoint("guest.vmss", "");
    let vmlinux = Vmlinux::new(&guest.folder);
    for dump in dumps(&guest, &state) {
        assert_crash(&guest, &vmlinux.0, &dump);
    }
}

#[test]
fn crash_sees_what_the_guest_said() {
    judge("judge_crash_kaslr", "");
}

#[test]
fn crash_sees_what_the_guest_said_where_it_was_linked() {
    judge("judge_crash_nokaslr", "nokaslr");
}

/// drgn with the kernel's DWARF instead of its BTF.
#[test]
fn drgn_sees_what_the_guest_said() {
    let guest = Guest::record("judge_drgn", "amd64", "512", "");
    let state = guest.checkpoint("guest.vmss", "");
    let (vcpus, _) = facts::opened(&state);
    for dump in dumps(&guest, &state).into_iter().skip(1) {
        let seen = ask(&script("kernel.py"), &[dump.clone(), fetched("vmlinux-amd64-dbg")]);
        guest.facts.assert_kernel(&vcpus[0], &seen, &dump);
    }
}

#[test]
fn a_panicked_guest_shows_its_panicking_stack() {
    let folder = Folder::new("judge_crash");
    let (state, said) = panicked(&folder, "amd64", "512");
    let version = said.lines().find_map(|line| line.split("Linux version ").nth(1)).unwrap();
    let release = version.split(' ').next().unwrap();

    let core = folder.path("vmss.core");
    vmss2core::convert(
        &Kind::Linux(LinuxOptions::default()),
        Path::new(&state),
        None,
        Path::new(&core),
    )
    .unwrap();
    let vmlinux = fetched("vmlinux-amd64-dbg");
    for dump in [&state, &core] {
        let said = crash(&vmlinux, dump, &["sys", "ps", "bt", "log"]).concat();
        for wanted in [
            release,
            "PANIC: \"Kernel panic - not syncing: sysrq triggered crash\"",
            "COMMAND: \"demo\"",
            "sysrq_handle_crash at ",
            "entry_SYSCALL_64_after_hwframe at ",
        ] {
            assert!(said.contains(wanted), "{dump}: {wanted}\n{said}");
        }
    }
}
