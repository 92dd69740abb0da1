//! What recording costs on KVM, and what our machine costs there beside QEMU's: a guest that computes, and one that does nothing but
//! leave the processor for a device (`images/bench/exits.S`).

use crate::child;
use crate::console::{Clocks, Console};
use crate::create;
use crate::report::median;
use crate::subject::Programs;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Between these lines there is nothing but the guest's work.
const FROM_TO: [&str; 2] = ["begin exits", "end exits"];
/// MiB.
const MEMORY: &str = "16";
/// The first run of a guest, which tells how long its rounds take here.
const TRIAL_ROUNDS: u32 = 20_000;
/// How long a run is to take, in seconds: long beside the kicks and digests of a recording.
const RUN_S: f64 = 1.0;

/// A kind of work.
struct Work {
    /// The guest's word for it.
    name: &'static str,
    /// What recording may cost beside running without a log.
    recording: f64,
    /// What running without a log may cost beside QEMU.
    running: f64,
}

const WORKS: [Work; 2] = [
    Work { name: "compute", recording: 1.10, running: 1.10 },
    Work { name: "ports", recording: 1.50, running: 1.10 },
];

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NoLog,
    Recording,
    Qemu,
}

const WAYS: [(Way, &str); 3] =
    [(Way::NoLog, "no log"), (Way::Recording, "recording"), (Way::Qemu, "qemu -accel kvm")];

/// What was found of one kind of work.
struct Found {
    work: &'static Work,
    rounds_of_guest: u32,
    /// Seconds by each way, a round each; empty where a way does not work here.
    seconds: [Vec<f64>; WAYS.len()],
}

/// What was found.
pub struct OnKvm {
    found: Vec<Found>,
    /// Why our machine does not run on KVM here.
    refused: Option<String>,
    /// Why QEMU's does not.
    peer_failure: Option<String>,
}

/// Runs all works by all ways, in turn.
///
/// # Errors
/// A sentence when there is no guest, or a run fails that succeeded before.
pub fn measure(
    programs: &Programs,
    work: &Path,
    limit: Duration,
    rounds: u32,
) -> Result<OnKvm, String> {
    let guest = dejavm_images::fetched("bench/exits.elf")?;
    let mut result = OnKvm { found: Vec::new(), refused: None, peer_failure: None };
    let run = |way, name: &str, rounds: u32| {
        let mut command = command(programs, way, &guest, &format!("{name} {rounds}"), work);
        let log = work.join("kvm.stderr");
        let mut console = Console::new(&FROM_TO);
        // A guest that dies of a triple fault gives each of them a status of its own: what counts is its last line.
        let ended = child::watch(&mut command, create(log.clone())?, limit, &mut |piece| {
            console.read(piece)
        });
        of_run(&console).ok_or_else(|| {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let said = said.trim();
            if said.is_empty() { format!("{ended:?}") } else { said.to_owned() }
        })
    };
    for work in &WORKS {
        let trial = match run(Way::NoLog, work.name, TRIAL_ROUNDS) {
            Ok(trial) => trial,
            Err(sentence) => {
                result.refused = Some(sentence);
                return Ok(result);
            }
        };
        let many = (f64::from(TRIAL_ROUNDS) * RUN_S / trial.max(1e-5)).clamp(1e3, 4e9) as u32;
        let mut found =
            Found { work, rounds_of_guest: many, seconds: [const { Vec::new() }; WAYS.len()] };
        for round in 1..=rounds {
            for ((way, name), seconds) in WAYS.into_iter().zip(&mut found.seconds) {
                if way == Way::Qemu && result.peer_failure.is_some() {
                    continue;
                }
                match run(way, work.name, many) {
                    Ok(took) => {
                        eprintln!("round {round}: {:<8} {name:<16} {took:.2} s", work.name);
                        seconds.push(took);
                    }
                    Err(sentence) if way == Way::Qemu => result.peer_failure = Some(sentence),
                    Err(sentence) => return Err(format!("{}, {name}: {sentence}", work.name)),
                }
            }
        }
        result.found.push(found);
    }
    Ok(result)
}

/// Seconds of the guest's work.
fn of_run(console: &Console) -> Option<f64> {
    let seen: Vec<Clocks> = console.landmarks.iter().filter_map(|landmark| landmark.seen).collect();
    let [first, last] = seen[..] else { return None };
    Some(last.since(first).wall)
}

fn command(programs: &Programs, way: Way, guest: &Path, append: &str, work: &Path) -> Command {
    if way == Way::Qemu {
        // The machine that Debian's smallest QEMU has too.
        let mut command = Command::new(&programs.qemu);
        command
            .args(["-M", "microvm,pit=on,pic=on,isa-serial=on,auto-kernel-cmdline=off"])
            .args(["-accel", "kvm", "-m", MEMORY, "-append", append, "-kernel"])
            .arg(guest)
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-serial", "stdio"])
            .arg("-no-reboot");
        return command;
    }
    let mut command = Command::new(&programs.dejavm);
    command.args(["record", "--engine", "kvm", "--idle", "skip", "-m", MEMORY, "--append", append]);
    command.arg("--kernel").arg(guest).arg("-o").arg(work.join("kvm.dvr")).arg("--force");
    if way == Way::NoLog {
        command.arg("--no-log");
    }
    command
}

impl Found {
    /// One way's median over another's.
    fn ratio(&self, way: Way, over: Way) -> Option<f64> {
        let of = |way| {
            let index = WAYS.iter().position(|(other, _)| *other == way).expect("all are there");
            median(self.seconds[index].iter().copied())
        };
        Some(of(way)? / of(over)?)
    }

    /// What is compared: its name, the ratio, what is wanted.
    fn ratios(&self) -> [(&'static str, Option<f64>, f64); 2] {
        [
            ("recording / no log", self.ratio(Way::Recording, Way::NoLog), self.work.recording),
            ("no log / qemu", self.ratio(Way::NoLog, Way::Qemu), self.work.running),
        ]
    }
}

impl OnKvm {
    /// The table for a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<10} {:>12} {:<20} {:>7} {:>7}\n",
            "on KVM", "rounds", "", "ratio", "wanted"
        );
        for found in &self.found {
            for (what, ratio, wanted) in found.ratios() {
                let (name, many) = (found.work.name, found.rounds_of_guest);
                let shown = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                let above = if ratio.is_some_and(|ratio| ratio > wanted) { " above" } else { "" };
                writeln!(text, "{name:<10} {many:>12} {what:<20} {shown:>7} {wanted:>7.2}{above}")
                    .expect("writing to a string cannot fail");
            }
        }
        for (who, why) in [("dejavm", &self.refused), ("qemu", &self.peer_failure)] {
            if let Some(why) = why {
                writeln!(text, "{who} does not run this on KVM here: {why}")
                    .expect("writing to a string cannot fail");
            }
        }
        text.push_str("medians of the time between the guest's two lines\n");
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let works: Vec<Value> = self
            .found
            .iter()
            .map(|found| {
                let [recording, running] = found
                    .ratios()
                    .map(|(_, ratio, wanted)| json!({ "ratio": ratio, "wanted": wanted }));
                let seconds: Vec<Value> = WAYS
                    .iter()
                    .zip(&found.seconds)
                    .map(|((_, name), seconds)| json!({ "way": name, "s_each": seconds }))
                    .collect();
                json!({
                    "work": found.work.name,
                    "rounds": found.rounds_of_guest,
                    "recording_over_no_log": recording,
                    "no_log_over_qemu": running,
                    "ways": seconds,
                })
            })
            .collect();
        json!({ "works": works, "refused": self.refused, "peer_failure": self.peer_failure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let seconds = [vec![2.0, 9.0, 1.0], vec![3.0, 3.0, 8.0], vec![]];
        let found = Found { work: &WORKS[1], rounds_of_guest: 7, seconds };
        assert_eq!(
            found.ratios(),
            [("recording / no log", Some(1.5), 1.5), ("no log / qemu", None, 1.1)]
        );
        let peer_failure = Some("it is not there".to_owned());
        let table = OnKvm { found: vec![found], refused: None, peer_failure }.table();
        assert!(table.contains("recording / no log      1.50    1.50\n"), "{table}");
        assert!(table.contains("qemu does not run this on KVM here: it is not there"), "{table}");
    }
}
