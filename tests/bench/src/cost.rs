//! What recording costs: the same boot and work, recorded as usual and not recorded at all.

use crate::child::{self, Cost};
use crate::console::{Clocks, Console};
use crate::create;
use crate::subject::{Guest, Programs};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// From the first of these lines to the last there is nothing but the guest's run: no start state to
/// write, no last digest.
const FROM_TO: [&str; 2] = ["Linux version", "DEJAVM-WORKLOAD-OK"];
/// What is wanted, as a share.
const WANTED: f64 = 0.05;

/// Seconds of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// From the first line to the last, by the clock on the wall.
    wall: f64,
    /// The same, of processors: checkpoints are packed on a second one.
    guest: f64,
    /// Of processors, of the whole process.
    whole: f64,
}

/// What of a run is compared: a name, and where it is.
type Measure = (&'static str, fn(&Run) -> f64);
const MEASURES: [Measure; 3] =
    [("wall", |run| run.wall), ("cpu", |run| run.guest), ("process cpu", |run| run.whole)];

/// How a machine is run, and what `record` is told for it. The first is what the others stand against.
const WAYS: [(&str, &[&str]); 4] = [
    ("no log", &["--no-log"]),
    ("log", &["--digest-interval", "0", "--checkpoint-interval", "0"]),
    ("log, digests", &["--checkpoint-interval", "0"]),
    ("log, digests, checkpoints", &[]),
];

/// What was found out: one run each way a round, neighbours in time.
pub struct Costs {
    rounds: Vec<[Run; WAYS.len()]>,
}

/// Runs both, in turn.
///
/// # Errors
/// A sentence when a run fails.
pub fn measure(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
    rounds: u32,
) -> Result<Costs, String> {
    let run = |words: &[&str]| {
        let mut console = Console::new(&FROM_TO);
        let mut command = programs.dejavm_record(guest, &work.join("cost.dvr"));
        command.args(words);
        let log = create(work.join("cost.stderr"))?;
        let cost = child::watch(&mut command, log, limit, &mut |piece| console.read(piece))?;
        of_run(&console, cost).ok_or_else(|| "the guest did not finish its work".to_owned())
    };
    let mut done = Vec::new();
    for round in 1..=rounds {
        let mut runs = [Run { wall: f64::NAN, guest: f64::NAN, whole: f64::NAN }; WAYS.len()];
        for ((name, words), slot) in WAYS.iter().zip(&mut runs) {
            *slot = run(words)?;
            eprintln!("round {round}: {name:<26} {:.2} s of processor time", slot.whole);
        }
        done.push(runs);
    }
    Ok(Costs { rounds: done })
}

fn of_run(console: &Console, cost: Cost) -> Option<Run> {
    let seen: Vec<Clocks> = console.landmarks.iter().filter_map(|landmark| landmark.seen).collect();
    let [first, last] = seen[..] else { return None };
    let run = last.since(first);
    Some(Run { wall: run.wall, guest: run.cpu, whole: cost.cpu_seconds })
}

impl Costs {
    /// The least of one way over the least without a log, minus 1: other work on the machine only adds.
    fn share(&self, way: usize, of: fn(&Run) -> f64) -> f64 {
        let least = |way: usize| {
            self.rounds.iter().map(|runs| of(&runs[way])).fold(f64::INFINITY, f64::min)
        };
        least(way) / least(0) - 1.0
    }

    /// Of each way but the first: its name, its share by each measure.
    fn shares(&self) -> Vec<(&'static str, [f64; MEASURES.len()])> {
        let ways = WAYS.iter().enumerate().skip(1);
        ways.map(|(way, (name, _))| (*name, MEASURES.map(|(_, of)| self.share(way, of)))).collect()
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let [wall, cpu, process] = MEASURES.map(|(name, _)| format!("{name} %"));
        let mut text =
            format!("{:<26} {wall:>9} {cpu:>9} {process:>14} {:>7}\n", "recording costs", "wanted");
        for (index, (name, shares)) in self.shares().into_iter().enumerate() {
            let last = index + 2 == WAYS.len();
            let wanted = if last { format!("{:.0}", WANTED * 100.0) } else { "-".to_owned() };
            let above = if last && shares[0] > WANTED { " above" } else { "" };
            let [wall, cpu, process] = shares.map(|share| share * 100.0);
            writeln!(text, "{name:<26} {wall:>9.1} {cpu:>9.1} {process:>14.1} {wanted:>7}{above}")
                .expect("writing to a string cannot fail");
        }
        text.push_str(
            "least over the least without a log; wall and cpu between two lines of the console, so without writing the \
             start state and the last digest; cpu counts the thread that packs checkpoints, wall does not wait for it\n",
        );
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let ways: Vec<Value> = self
            .shares()
            .into_iter()
            .map(|(name, [wall, guest, whole])| {
                json!({ "way": name, "wall": wall, "guest": guest, "process": whole })
            })
            .collect();
        let each: Vec<Vec<[f64; 3]>> = self
            .rounds
            .iter()
            .map(|runs| runs.iter().map(|run| [run.wall, run.guest, run.whole]).collect())
            .collect();
        json!({ "shares": ways, "wanted": WANTED, "s_each_wall_cpu_and_process_cpu": each })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Glimpse;

    #[test]
    fn a_run_lasts_from_line_to_line() {
        let cost = Cost { seconds: 9.0, cpu_seconds: 8.0, memory_peak: 0 };
        let mut console = Console::new(&FROM_TO);
        for (cpu, text) in [(1.5, "Linux version 6\n"), (7.0, "DEJAVM-WORKLOAD-OK x\n")] {
            assert!(of_run(&console, cost).is_none());
            let clocks = Clocks { wall: cpu * 2.0, cpu };
            console.read(&Glimpse { clocks, bytes: text.as_bytes().to_vec() });
        }
        let run = of_run(&console, cost).unwrap();
        assert_eq!((run.wall, run.guest, run.whole), (11.0, 5.5, 8.0));
    }

    #[test]
    fn shares_are_of_what_runs_without() {
        let run = |guest| Run { wall: guest - 2.0, guest, whole: guest + 4.0 };
        let round = |with| [run(4.0), run(4.0), run(4.25), run(with)];
        let disturbed = [run(9.0), run(4.5), run(9.0), run(5.0)];
        let costs = Costs { rounds: vec![round(4.5), disturbed, round(8.0)] };
        let expected = [
            ("log", [0.0, 0.0, 0.0]),
            ("log, digests", [0.125, 0.0625, 0.03125]),
            ("log, digests, checkpoints", [0.25, 0.125, 0.0625]),
        ];
        assert_eq!(costs.shares(), expected);
        let table = costs.table();
        let words: Vec<&str> = table.lines().nth(3).unwrap().split_whitespace().collect();
        assert_eq!(words[3..], ["25.0", "12.5", "6.2", "5", "above"]);
        assert_eq!(costs.json()["shares"][2]["guest"], 0.125);
    }
}
