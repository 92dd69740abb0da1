//! Measures dejavm side by side with QEMU's record/replay; see the README of this folder.

mod child;
mod conditions;
mod debug;
mod report;
mod rsp;
mod subject;

use conditions::Conditions;
use report::Row;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use subject::{Guest, Programs, Step, Subject, Verb};

const USAGE: &str = "\
usage: dejavm-bench [OPTION]...
  --rounds N        how often each step runs (default 3)
  --workload NAME   what the guest does: bench busy (default bench)
  --kernel NAME     flavour of the fetched kernel: cloud-amd64 amd64 686-pae (default cloud-amd64)
  --memory MIB      guest memory (default 256)
  --append TEXT     more words for the kernel command line
  --work DIR        where logs and consoles go (default .cache/bench)
  --dejavm PATH     default target/release/dejavm
  --qemu PATH       default qemu-system-x86_64
  --limit SECONDS   a step that takes longer has failed (default 600)
  --only PART       run (recording and replaying), debug (reverse steps, seeks, conditions), or
                    conditions (of breakpoints)
  --json            the result as JSON on standard output; the table goes to standard error
Kernel and initramfs come from $DEJAVM_IMAGES, $DEJAVM_CACHE/images or .cache/images.
Status 0 when every step of every round succeeded, 1 when one failed, 2 for wrong usage.";

/// What the command line asked for.
struct Options {
    rounds: u32,
    guest: Guest,
    programs: Programs,
    work: PathBuf,
    limit: Duration,
    json: bool,
    /// Measure recording and replaying.
    run: bool,
    /// Measure debugging.
    debug: bool,
    /// Measure conditions of breakpoints.
    conditions: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(sentence) => {
            eprintln!("{sentence}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match bench(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(sentence) => {
            eprintln!("dejavm-bench: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut rounds, mut memory_mib, mut limit) = (3, 256, 600);
    let (mut workload, mut kernel, mut append) =
        ("bench".to_owned(), "cloud-amd64".to_owned(), String::new());
    let mut work = PathBuf::from(".cache/bench");
    let mut programs = Programs {
        qemu: PathBuf::from("qemu-system-x86_64"),
        dejavm: PathBuf::from("target/release/dejavm"),
    };
    let (mut json, mut run, mut debug, mut conditions) = (false, true, true, true);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => rounds = number(&value()?)?.max(1),
            "--memory" => memory_mib = number(&value()?)?,
            "--limit" => limit = number(&value()?)?,
            "--workload" => workload = value()?,
            "--kernel" => kernel = value()?,
            "--append" => append = format!(" {}", value()?),
            "--work" => work = PathBuf::from(value()?),
            "--dejavm" => programs.dejavm = PathBuf::from(value()?),
            "--qemu" => programs.qemu = PathBuf::from(value()?),
            "--only" => {
                (run, debug, conditions) = match value()?.as_str() {
                    "run" => (true, false, false),
                    "debug" => (false, true, true),
                    "conditions" => (false, false, true),
                    other => {
                        return Err(format!("--only {other}: known are run, debug, conditions"));
                    }
                }
            }
            "--json" => json = true,
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let arch = if kernel.ends_with("amd64") { "amd64" } else { "i386" };
    let guest = Guest {
        kernel: dejavm_images::fetched(&format!("vmlinuz-{kernel}"))?,
        initrd: dejavm_images::fetched(&format!("initramfs-{arch}.gz"))?,
        append: format!("console=ttyS0 panic=-1 dejavm.workload={workload}{append}"),
        memory_mib,
    };
    let limit = Duration::from_secs(limit.into());
    Ok(Options { rounds, guest, programs, work, limit, json, run, debug, conditions })
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

/// Runs everything and prints the result; whether every step succeeded.
fn bench(options: &Options) -> Result<bool, String> {
    fs::create_dir_all(&options.work)
        .map_err(|error| format!("cannot create {}: {error}", options.work.display()))?;
    let mut rows = report::rows();
    for round in 1..=if options.run { options.rounds } else { 0 } {
        for row in &mut rows {
            match measure(options, row.step) {
                Ok(cost) => {
                    eprintln!("round {round}: {:<14} {:7.2} s", row.step.name(), cost.seconds);
                    row.costs.push(cost);
                }
                Err(sentence) => {
                    eprintln!("round {round}: {:<14} failed: {sentence}", row.step.name());
                    row.failure = Some(sentence);
                }
            }
            note_log(row, options);
        }
    }
    let debugging = if options.debug {
        Some(debug::measure(&options.programs, &options.guest, &options.work, options.limit)?)
    } else {
        None
    };
    let conditions = if options.conditions {
        Some(Conditions::measure(&options.programs, &options.work, options.limit)?)
    } else {
        None
    };
    let mut table = String::new();
    let instructions = instructions(options);
    if options.run {
        table.push_str(&report::table(&rows, instructions));
    }
    if let Some(debugging) = &debugging {
        table.push_str(&debugging.table());
    }
    if let Some(conditions) = &conditions {
        table.push_str(&conditions.line());
    }
    if options.json {
        eprint!("{table}");
        let guest = json!({
            "kernel": options.guest.kernel.display().to_string(),
            "append": options.guest.append,
            "memory_mib": options.guest.memory_mib,
        });
        let mut result = report::json(&rows, instructions, guest);
        result["debugging"] = debugging.as_ref().map_or(Value::Null, debug::Debugging::json);
        result["conditions"] = conditions.as_ref().map_or(Value::Null, Conditions::json);
        println!("{result:#}");
    } else {
        print!("{table}");
    }
    Ok(rows.iter().all(|row| row.failure.is_none()))
}

/// QEMU's log holds no guest; our file holds the start state too, which is left out here.
fn note_log(row: &mut Row, options: &Options) {
    if row.step.verb != Verb::Record {
        return;
    }
    row.log_bytes = match row.step.subject {
        Subject::Qemu => fs::metadata(Subject::Qemu.log(&options.work)).ok().map(|file| file.len()),
        Subject::Dejavm => recording_number(options, "log_bytes"),
    };
}

fn create(path: PathBuf) -> Result<File, String> {
    File::create(&path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// One step once: its cost, if the guest did its work and a replay printed what was recorded.
fn measure(options: &Options, step: Step) -> Result<child::Cost, String> {
    let file_of = |step: Step, kind: &str| {
        options.work.join(format!("{}.{kind}", step.name().replace(' ', "-")))
    };
    if step.verb == Verb::Record {
        // A leftover of the last round must not pass for this round's log.
        let _ = fs::remove_file(step.subject.log(&options.work));
    }
    let log = file_of(step, "stderr");
    let cost = child::run(
        &mut options.programs.command(step, &options.guest, &options.work),
        create(file_of(step, "console"))?,
        create(log.clone())?,
        options.limit,
    )
    .map_err(|sentence| format!("{sentence}{}", last_line(&log)))?;
    if step.prints_console() {
        let console = fs::read(file_of(step, "console")).unwrap_or_default();
        if !contains(&console, b"DEJAVM-WORKLOAD-OK") {
            return Err("the guest did not finish its work".to_owned());
        }
        let recorded = file_of(Step { verb: Verb::Record, ..step }, "console");
        if fs::read(recorded).ok().as_deref() != Some(&console[..]) {
            return Err("the replay printed something else than the recording".to_owned());
        }
    }
    Ok(cost)
}

/// ": " and the last line of a program's standard error, if it said anything.
fn last_line(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .map_or_else(String::new, |line| format!(": {line}"))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

/// Completed guest instructions of our last recording.
fn instructions(options: &Options) -> Option<u64> {
    recording_number(options, "instructions")
}

/// A number that `dejavm info --json` tells of our last recording.
fn recording_number(options: &Options, key: &str) -> Option<u64> {
    let recording = Subject::Dejavm.log(&options.work);
    let output =
        Command::new(&options.programs.dejavm).arg("info").arg(recording).arg("--json").output();
    let info: Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
    info.get(key)?.as_u64()
}
