//! Measures dejavm side by side with QEMU's record/replay; see the README of this folder.

mod child;
mod conditions;
mod console;
mod debug;
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
use tiers::Tiers;

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

/// Runs everything and prints the result; whether every step succeeded.
fn bench(options: &Options) -> Result<bool, String> {
    fs::create_dir_all(&options.work)
        .map_err(|error| format!("cannot create {}: {error}", options.work.display()))?;
    let mut rows = report::rows();
    for round in 1..=if options.chosen.has(Part::Run) { options.rounds } else { 0 } {
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
    let debugging = if options.chosen.has(Part::Debug) {
        Some(debug::measure(&options.programs, &options.guest, &options.work, options.limit)?)
    } else {
        None
    };
    let conditions = match options.chosen.has(Part::Conditions) {
        true => Some(Conditions::measure(&options.programs, &options.work, options.limit)?),
        false => None,
    };
    let speeds = match options.chosen.programs.is_empty() {
        true => None,
        false => Some(suite(options)?.measure(options.rounds, options.clock)),
    };
    let tiers = match options.chosen.has(Part::Tiers) {
        true => Some(tiers(options)?),
        false => None,
    };
    let mut table = String::new();
    let instructions = instructions(options);
    if options.chosen.has(Part::Run) {
        table.push_str(&report::table(&rows, instructions));
    }
    if let Some(speeds) = &speeds {
        table.push_str(&speeds.table());
    }
    if let Some(tiers) = &tiers {
        table.push_str(&tiers.table());
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
        result["programs"] = speeds.as_ref().map_or(Value::Null, suite::Speeds::json);
        result["tiers"] = tiers.as_ref().map_or(Value::Null, Tiers::json);
        println!("{result:#}");
    } else {
        print!("{table}");
    }
    let programs_ran = speeds.is_none_or(|speeds| speeds.failures.is_empty());
    Ok(rows.iter().all(|row| row.failure.is_none()) && programs_ran)
}

fn tiers(options: &Options) -> Result<Tiers, String> {
    let (work, limit) = (&options.work, options.limit);
    tiers::measure(&options.programs, &options.guest, work, limit, options.rounds, options.clock)
}

/// The programs that the command line chose, on the machine that it described.
fn suite(options: &Options) -> Result<Suite<'_>, String> {
    let initrd = dejavm_images::fetched("initramfs-bench.gz")?;
    let native = fs::canonicalize(initrd.with_file_name("bench"))
        .map_err(|error| format!("the programs are not beside {}: {error}", initrd.display()))?;
    // Its own folder: what is told of the boot's recording is asked when all is done.
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
