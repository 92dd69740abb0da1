//! Measures dejavm side by side with QEMU's record/replay; see the README of this folder.

mod breakpoints;
mod child;
mod conditions;
mod console;
mod cores;
mod cost;
mod debug;
mod kvm;
mod options;
mod programs;
mod report;
mod rsp;
mod subject;
mod suite;
mod tiers;

use conditions::Conditions;
use options::{Options, Part, USAGE};
use report::Row;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use subject::{Guest, Step, Subject, Verb};
use suite::Suite;

fn main() -> ExitCode {
    let options = match options::options(std::env::args().skip(1)) {
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

/// What a part found out: the text for a person and the value for a program.
struct Found {
    text: String,
    value: Value,
    /// Every step of it succeeded.
    whole: bool,
}

/// Runs everything and prints the result; whether every step succeeded.
fn bench(options: &Options) -> Result<bool, String> {
    fs::create_dir_all(&options.work)
        .map_err(|error| format!("cannot create {}: {error}", options.work.display()))?;
    let mut result = json!({
        "guest": {
            "kernel": options.guest.kernel.display().to_string(),
            "append": options.guest.append,
            "memory_mib": options.guest.memory_mib,
        },
    });
    let mut whole = true;
    for &part in &options.chosen.parts {
        // A part that fails does not take the others along.
        let found = measure(part, options).unwrap_or_else(|sentence| Found {
            text: format!("{}: failed: {sentence}\n", part.name()),
            value: json!({ "failure": sentence }),
            whole: false,
        });
        whole &= found.whole;
        if options.json {
            eprint!("{}", found.text);
        } else {
            print!("{}", found.text);
        }
        result[part.name()] = found.value;
    }
    if options.json {
        println!("{result:#}");
    }
    Ok(whole)
}

fn measure(part: Part, options: &Options) -> Result<Found, String> {
    let Options { rounds, guest, programs, work, limit, clock, .. } = options;
    let (rounds, limit, clock) = (*rounds, *limit, *clock);
    let found = |text, value| Found { text, value, whole: true };
    Ok(match part {
        Part::Run => boots(options),
        Part::Programs => {
            let speeds = suite(options)?.measure(rounds, clock);
            let whole = speeds.failures.is_empty();
            Found { text: speeds.table(), value: speeds.json(), whole }
        }
        Part::Tiers => {
            let tiers = tiers::measure(programs, guest, work, limit, rounds, clock)?;
            found(tiers.table(), tiers.json())
        }
        Part::Cost => {
            let costs = cost::measure(programs, guest, work, limit, rounds)?;
            found(costs.table(), costs.json())
        }
        Part::Debugging => {
            let debugging = debug::measure(programs, guest, work, limit)?;
            let whole = debugging.peer_failure.is_none();
            Found { text: debugging.table(), value: debugging.json(), whole }
        }
        Part::Conditions => {
            let conditions = Conditions::measure(programs, work, limit)?;
            found(conditions.line(), conditions.json())
        }
        Part::Breakpoints => {
            let breakpoints = breakpoints::measure(programs, guest, work, limit, rounds)?;
            found(breakpoints.line(), breakpoints.json())
        }
        Part::Kvm => {
            let on_kvm = kvm::measure(programs, work, limit, rounds)?;
            found(on_kvm.table(), on_kvm.json())
        }
        Part::Cores => {
            let cores = cores::measure(programs, guest, work, limit, rounds)?;
            found(cores.table(), cores.json())
        }
    })
}

/// Boots, side by side.
fn boots(options: &Options) -> Found {
    let mut rows = report::rows();
    for round in 1..=options.rounds {
        for row in &mut rows {
            match boot(options, row.step) {
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
    let instructions = instructions(options);
    Found {
        text: report::table(&rows, instructions),
        value: report::json(&rows, instructions),
        whole: rows.iter().all(|row| row.failure.is_none()),
    }
}

/// The programs that the command line chose, on the machine that it described.
fn suite(options: &Options) -> Result<Suite<'_>, String> {
    let initrd = dejavm_images::fetched("initramfs-bench.gz")?;
    let native = fs::canonicalize(initrd.with_file_name("bench"))
        .map_err(|error| format!("the programs are not beside {}: {error}", initrd.display()))?;
    // Its own folder: the boot's recording stays.
    let work = options.work.join("programs");
    fs::create_dir_all(&work)
        .map_err(|error| format!("cannot create {}: {error}", work.display()))?;
    Ok(Suite {
        programs: &options.programs,
        guest: Guest {
            initrd,
            append: "console=ttyS0 panic=-1".to_owned(),
            ..options.guest.clone()
        },
        native,
        work,
        limit: options.limit,
        chosen: options.chosen.programs.clone(),
    })
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
fn boot(options: &Options, step: Step) -> Result<child::Cost, String> {
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
