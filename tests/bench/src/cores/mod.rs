//! What making core files costs: each conversion of a checkpoint of 4 GiB beside `cp --sparse=always` of its memory, and
//! kdump's compressed format beside makedumpfile's. One after another in each round, so that a busy machine troubles all alike.

mod guest;

use crate::child::{self, Cost};
use crate::report::median;
use crate::subject::{Guest, Programs};
use crate::{create, last_line};
use guest::Checkpoint;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Of the time that `cp` needs, at most.
const WANTED_OF_CP: f64 = 1.3;
/// Of the time that makedumpfile needs, at most.
const WANTED_OF_MAKEDUMPFILE: f64 = 0.5;
const WANTED_PEAK_MIB: f64 = 200.0;
/// Of a list of processes.
const WANTED_LIST_SECONDS: f64 = 0.1;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// `cp --sparse=always` of the `.vmem`: what the others are measured by.
    Copy,
    /// `vmss2core` with these words.
    Core(&'static [&'static str]),
    /// `vmss2core -P`.
    List,
    /// `makedumpfile -c -d 1` of the core that `-N` made before.
    Makedumpfile,
    /// `dejavm snapshot`: of it, the time that it says writing took.
    Snapshot,
}

/// In the order of a round.
const STEPS: [(&str, Step); 10] = [
    ("cp --sparse=always", Step::Copy),
    ("vmss2core", Step::Core(&[])),
    ("vmss2core -M", Step::Core(&["-M"])),
    ("vmss2core -N", Step::Core(&["-N"])),
    ("makedumpfile -c -d 1", Step::Makedumpfile),
    ("vmss2core --compress zstd", Step::Core(&["--compress", "zstd"])),
    ("vmss2core --compress zlib", Step::Core(&["--compress", "zlib"])),
    ("  without free pages", Step::Core(&["--compress", "zstd", "--without-free"])),
    ("vmss2core -P", Step::List),
    ("dejavm snapshot, writing", Step::Snapshot),
];
const COPY: usize = 0;
const MAKEDUMPFILE: usize = 4;
const ZSTD: usize = 5;

/// What a step cost in all rounds.
#[derive(Clone, Debug, Default)]
struct Row {
    costs: Vec<Cost>,
    /// Of its file, as it is on disk.
    bytes: u64,
}

impl Row {
    fn seconds(&self) -> f64 {
        median(self.costs.iter().map(|cost| cost.seconds)).unwrap_or(f64::NAN)
    }

    fn cpu_seconds(&self) -> f64 {
        median(self.costs.iter().map(|cost| cost.cpu_seconds)).unwrap_or(f64::NAN)
    }

    fn peak_mib(&self) -> f64 {
        let peaks = self.costs.iter().map(|cost| cost.memory_peak as f64 / f64::from(1 << 20));
        peaks.fold(f64::NAN, f64::max)
    }
}

/// What was found out.
pub struct Cores {
    rows: Vec<Row>,
}

/// Makes the checkpoint and all files of it, a few times.
///
/// # Errors
/// A sentence when a step fails.
pub fn measure(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
    rounds: u32,
) -> Result<Cores, String> {
    let work = work.join("cores");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let checkpoint = Checkpoint::make(programs, guest, &work, limit)?;
    let bench = Bench { programs, checkpoint: &checkpoint, work: &work, limit };
    let cores = bench.rounds(rounds);
    checkpoint.remove();
    let _ = fs::remove_dir_all(&work);
    cores
}

struct Bench<'a> {
    programs: &'a Programs,
    checkpoint: &'a Checkpoint,
    work: &'a Path,
    limit: Duration,
}

impl Bench<'_> {
    fn rounds(&self, rounds: u32) -> Result<Cores, String> {
        let mut rows = vec![Row::default(); STEPS.len()];
        // What comes first would pay for reading the file.
        self.step(Step::Copy)?;
        for round in 1..=rounds {
            for ((name, step), row) in STEPS.iter().zip(&mut rows) {
                let (cost, bytes) = self.step(*step)?;
                eprintln!("round {round}: {name:<26} {:.2} s", cost.seconds);
                row.costs.push(cost);
                row.bytes = bytes;
            }
        }
        Ok(Cores { rows })
    }

    /// One step: its cost, and the bytes of its file on disk.
    fn step(&self, step: Step) -> Result<(Cost, u64), String> {
        let (core, made) = (self.work.join("linux.core"), self.work.join("made"));
        let vmss2core = || Command::new(self.programs.dejavm.with_file_name("vmss2core"));
        let (mut command, path) = match step {
            Step::Copy => {
                let mut command = Command::new("cp");
                command.arg("--sparse=always").arg(&self.checkpoint.memory).arg(&made);
                (command, made)
            }
            Step::Core(words) => {
                let path = if words == ["-N"] { core } else { made };
                let mut command = vmss2core();
                command.args(words).arg("-q").arg("-o").arg(&path).arg(&self.checkpoint.state);
                // It numbers the cores of processors.
                let path = if words.is_empty() { path.with_file_name("made0") } else { path };
                (command, path)
            }
            Step::List => {
                let mut command = vmss2core();
                command.arg("-P").arg(&self.checkpoint.state);
                (command, made)
            }
            Step::Makedumpfile => {
                let mut command = Command::new("makedumpfile");
                command.args(["--message-level", "4", "-c", "-d", "1"]).arg(&core).arg(&made);
                (command, made)
            }
            Step::Snapshot => {
                let state = self.work.join("made.vmss");
                let mut command = Command::new(&self.programs.dejavm);
                command.arg("snapshot").arg(&self.checkpoint.recording);
                command
                    .args(["--at", &self.checkpoint.position, "--force", "--json", "-o"])
                    .arg(&state);
                (command, state.with_extension("vmem"))
            }
        };
        let log = self.work.join("stderr");
        let said = self.work.join("stdout");
        let cost =
            child::run(&mut command, create(said.clone())?, create(log.clone())?, self.limit);
        let mut cost = cost.map_err(|sentence| format!("{sentence}{}", last_line(&log)))?;
        if step == Step::Snapshot {
            cost.seconds = seconds_writing(&said)?;
        }
        let bytes = fs::metadata(&path).map_or(0, |file| file.blocks() * 512);
        self.remove(step, path);
        Ok((cost, bytes))
    }

    /// Takes a file away that nobody needs any more: makedumpfile reads a core.
    fn remove(&self, step: Step, path: PathBuf) {
        if step != Step::Core(&["-N"]) {
            let _ = fs::remove_file(path);
        }
        if step == Step::Makedumpfile {
            let _ = fs::remove_file(self.work.join("linux.core"));
        }
    }
}

/// What `dejavm snapshot --json` says of the time in which it wrote, without that of finding the position.
fn seconds_writing(said: &Path) -> Result<f64, String> {
    let said: Value = fs::read(said)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .ok_or("dejavm snapshot printed no JSON")?;
    said["seconds_writing"].as_f64().ok_or_else(|| "dejavm snapshot told no time".to_owned())
}

impl Cores {
    /// What a step's time is compared with: whose it is, and how much of it is wanted.
    fn peer(step: Step) -> Option<(usize, f64)> {
        match step {
            Step::Copy | Step::Makedumpfile | Step::List => None,
            Step::Core(words) if words.contains(&"--compress") => {
                Some((MAKEDUMPFILE, WANTED_OF_MAKEDUMPFILE))
            }
            Step::Core(_) | Step::Snapshot => Some((COPY, WANTED_OF_CP)),
        }
    }

    /// The ratio of a step's time to its peer's: in each round, for neighbours in time are alike; the median.
    fn ratio(&self, index: usize) -> Option<(f64, f64)> {
        let (peer, wanted) = Cores::peer(STEPS[index].1)?;
        let pairs = self.rows[index].costs.iter().zip(&self.rows[peer].costs);
        Some((median(pairs.map(|(own, peer)| own.seconds / peer.seconds))?, wanted))
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<26} {:>8} {:>8} {:>8} {:>8} {:>9} {:>10}\n",
            "cores of 4 GiB", "s", "ratio", "wanted", "cpu s", "peak MiB", "file MiB"
        );
        for (index, ((name, step), row)) in STEPS.iter().zip(&self.rows).enumerate() {
            let ratio = self.ratio(index);
            let (shown, wanted) = match (ratio, step) {
                (Some((ratio, wanted)), _) => (format!("{ratio:.2}"), format!("{wanted:.1}")),
                (None, Step::List) => ("-".into(), format!("{WANTED_LIST_SECONDS} s")),
                (None, _) => ("-".into(), "-".into()),
            };
            let mut remarks = Vec::new();
            let is_ours = !matches!(step, Step::Copy | Step::Makedumpfile);
            if ratio.is_some_and(|(ratio, wanted)| ratio > wanted)
                || *step == Step::List && row.seconds() > WANTED_LIST_SECONDS
            {
                remarks.push("slow");
            }
            if is_ours && *step != Step::Snapshot && row.peak_mib() > WANTED_PEAK_MIB {
                remarks.push("large in memory");
            }
            if index == ZSTD && row.bytes > self.rows[MAKEDUMPFILE].bytes {
                remarks.push("large");
            }
            writeln!(
                text,
                "{name:<26} {:>8.2} {shown:>8} {wanted:>8} {:>8.2} {:>9.0} {:>10} {}",
                row.seconds(),
                row.cpu_seconds(),
                row.peak_mib(),
                row.bytes >> 20,
                remarks.join(", ")
            )
            .expect("writing to a string cannot fail");
        }
        text.push_str(
            "medians; ratios to cp's time, of compressed ones to makedumpfile's, round by round; cpu s of all threads; cpu and \
             memory of dejavm snapshot are those of the whole replay\n",
        );
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let steps = STEPS.iter().zip(&self.rows).enumerate().map(|(index, ((name, _), row))| {
            let seconds: Vec<f64> = row.costs.iter().map(|cost| cost.seconds).collect();
            json!({
                "name": name.trim(),
                "s": row.seconds(),
                "s_each": seconds,
                "cpu_s": row.cpu_seconds(),
                "ratio": self.ratio(index).map(|(ratio, _)| ratio),
                "wanted": self.ratio(index).map(|(_, wanted)| wanted),
                "memory_peak_mib": row.peak_mib(),
                "file_bytes": row.bytes,
            })
        });
        Value::Array(steps.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_compared_with_their_peers() {
        let cost = |seconds| Cost { seconds, cpu_seconds: 0.0, memory_peak: 100 << 20 };
        let row = |a, b| Row { costs: vec![cost(a), cost(b)], bytes: 5 << 20 };
        let mut rows = vec![row(2.0, 4.0); STEPS.len()];
        rows[1] = row(3.0, 4.0);
        rows[MAKEDUMPFILE] = row(20.0, 20.0);
        rows[ZSTD] = Row { bytes: 6 << 20, ..row(12.0, 12.0) };
        let cores = Cores { rows };
        assert_eq!(cores.ratio(COPY), None);
        assert_eq!(cores.ratio(1), Some((1.25, WANTED_OF_CP)));
        assert_eq!(cores.ratio(ZSTD), Some((0.6, WANTED_OF_MAKEDUMPFILE)));
        let table = cores.table();
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("vmss2core  ").trim_end().ends_with(" 100          5"), "{table}");
        assert!(line("vmss2core --compress zstd").ends_with("6 slow, large"), "{table}");
        assert!(line("vmss2core -P").ends_with("slow"), "{table}");
        assert_eq!(cores.json()[ZSTD]["ratio"], 0.6);
    }
}
