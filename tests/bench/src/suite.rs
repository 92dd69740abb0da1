//! Programs in the guest, side by side with QEMU and with the same programs on the host.

use crate::child;
use crate::console::{Clocks, Console};
use crate::programs::{Group, PROGRAMS, Program};
use crate::report::median;
use crate::subject::{Guest, Programs, STEPS, Step, Subject, Verb};
use crate::{create, last_line};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Where the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Native,
    QemuRecord,
    DejavmRecord,
    QemuReplay,
    DejavmReplay,
}

/// In the order of a round.
const SIDES: [Side; 5] =
    [Side::Native, Side::QemuRecord, Side::DejavmRecord, Side::QemuReplay, Side::DejavmReplay];

impl Side {
    fn name(self) -> &'static str {
        self.step().map_or("native", Step::name)
    }

    fn step(self) -> Option<Step> {
        let (subject, verb) = match self {
            Side::Native => return None,
            Side::QemuRecord => (Subject::Qemu, Verb::Record),
            Side::DejavmRecord => (Subject::Dejavm, Verb::Record),
            Side::QemuReplay => (Subject::Qemu, Verb::Replay),
            Side::DejavmReplay => (Subject::Dejavm, Verb::Replay),
        };
        let step = Step { subject, verb };
        assert!(STEPS.contains(&step));
        Some(step)
    }
}

/// Which clock the table and its ratios go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// What somebody who waits sees.
    Wall,
    /// Processor time, of the emulator or natively: less disturbed on a machine with other work. Natively
    /// in hundredths of a second.
    Cpu,
}

/// What is to be done.
pub struct Suite<'a> {
    /// Paths of both programs under measurement.
    pub programs: &'a Programs,
    /// The machine; its command line is completed here.
    pub guest: Guest,
    /// The programs' copies for the host.
    pub native: PathBuf,
    /// For logs.
    pub work: PathBuf,
    /// For one run of all programs.
    pub limit: Duration,
    /// Which programs.
    pub chosen: Vec<Program>,
}

/// All times of one program on one side.
type Times = BTreeMap<(&'static str, Side), Vec<Clocks>>;

/// What was found out.
pub struct Speeds {
    chosen: Vec<Program>,
    clock: Clock,
    times: Times,
    results: BTreeMap<&'static str, String>,
    /// What went wrong, a sentence each.
    pub failures: Vec<String>,
}

impl Suite<'_> {
    /// Runs everything `rounds` times.
    pub fn measure(&self, rounds: u32, clock: Clock) -> Speeds {
        let mut speeds = Speeds::new(self.chosen.clone(), clock);
        for round in 1..=rounds {
            for side in SIDES {
                let mut console = Console::default();
                let done = self.run(side, &mut console);
                let seconds = match &done {
                    Ok(seconds) => format!("{seconds:7.2} s"),
                    Err(sentence) => format!("failed: {sentence}"),
                };
                eprintln!("round {round}: programs, {:<14} {seconds}", side.name());
                if let Err(sentence) = done {
                    speeds.failures.push(format!("{}: {sentence}", side.name()));
                }
                speeds.note(side, &console);
            }
        }
        speeds
    }

    fn run(&self, side: Side, console: &mut Console) -> Result<f64, String> {
        let names: Vec<&str> = self.chosen.iter().map(|program| program.name).collect();
        let mut command = match side.step() {
            None => self.native(&names),
            Some(step) => {
                let mut guest = self.guest.clone();
                let names = names.join(",");
                write!(guest.append, " dejavm.workload=programs dejavm.programs={names}")
                    .expect("writing to a string cannot fail");
                self.programs.command(step, &guest, &self.work)
            }
        };
        let log = self.work.join(format!("programs-{}.stderr", side.name().replace(' ', "-")));
        child::watch(&mut command, create(log.clone())?, self.limit, &mut |piece| {
            console.read(piece)
        })
        .map(|cost| cost.seconds)
        .map_err(|sentence| format!("{sentence}{}", last_line(&log)))
    }

    fn native(&self, names: &[&str]) -> Command {
        let mut command = Command::new(self.native.join("busybox"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![self.native.clone()];
        folders.extend(std::env::split_paths(&path));
        let path = std::env::join_paths(folders).unwrap_or(path);
        command.arg("sh").arg(self.native.join("programs")).args(names);
        command.env("PATH", path).current_dir(&self.work);
        command
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Line {
    qemu_record: Option<f64>,
    dejavm_record: Option<f64>,
    qemu_replay: Option<f64>,
    dejavm_replay: Option<f64>,
    native: Option<f64>,
}

impl Line {
    /// Ratio to QEMU's speed while recording.
    fn record(self) -> Option<f64> {
        Some(self.qemu_record? / self.dejavm_record?)
    }

    /// Ratio to QEMU's speed while replaying.
    fn replay(self) -> Option<f64> {
        Some(self.qemu_replay? / self.dejavm_replay?)
    }

    /// How much longer recording takes than the host does.
    fn slowdown(self) -> Option<f64> {
        Some(self.dejavm_record? / self.native?)
    }
}

/// The geometric mean; `None` without values, or when one is missing.
fn geometric_mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

impl Speeds {
    fn new(chosen: Vec<Program>, clock: Clock) -> Speeds {
        let (times, results, failures) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Speeds { chosen, clock, times, results, failures }
    }

    /// Takes in what a console told. A program that computed something else than before has no time.
    fn note(&mut self, side: Side, console: &Console) {
        for program in self.chosen.clone() {
            let name = program.name;
            let Some(phase) = console.phases.iter().find(|phase| phase.name == name) else {
                self.failures.push(format!("{}: {name} did not run to its end", side.name()));
                continue;
            };
            let expected = self.results.entry(name).or_insert_with(|| phase.result.clone());
            if *expected != phase.result || phase.result == "failed" {
                let other = expected.clone();
                self.failures.push(format!(
                    "{}: {name} computed {}, elsewhere {other}",
                    side.name(),
                    phase.result
                ));
                continue;
            }
            self.times.entry((name, side)).or_default().push(phase.took);
        }
    }

    fn seconds(&self, name: &'static str, side: Side) -> Option<f64> {
        let times = self.times.get(&(name, side))?.iter();
        median(times.map(|took| match self.clock {
            Clock::Wall => took.wall,
            Clock::Cpu => took.cpu,
        }))
    }

    fn line(&self, program: Program) -> Line {
        let of = |side| self.seconds(program.name, side);
        Line {
            qemu_record: of(Side::QemuRecord),
            dejavm_record: of(Side::DejavmRecord),
            qemu_replay: of(Side::QemuReplay),
            dejavm_replay: of(Side::DejavmReplay),
            native: of(Side::Native),
        }
    }

    /// The geometric means over the hot programs, if all of them ran: record, replay, slowdown.
    fn hot(&self) -> [Option<f64>; 3] {
        let all = PROGRAMS.iter().filter(|program| program.group == Group::Hot);
        let lines: Vec<Line> = all.map(|program| self.line(*program)).collect();
        let mean = |of: fn(Line) -> Option<f64>| geometric_mean(lines.iter().copied().map(of));
        [mean(Line::record), mean(Line::replay), mean(Line::slowdown)]
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<13} {:>10} {:>12} {:>7} {:>10} {:>12} {:>7} {:>9} {:>9} {:>7}\n",
            "program",
            "qemu rec s",
            "dejavm rec s",
            "x rec",
            "qemu rep s",
            "dejavm rep s",
            "x rep",
            "native s",
            "slowdown",
            "wanted",
        );
        let of = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let mut row = |name: &str, line: Line, ratios: [Option<f64>; 3], wanted: Option<f64>| {
            let below = wanted
                .is_some_and(|wanted| ratios[..2].iter().flatten().any(|ratio| *ratio < wanted));
            writeln!(
                text,
                "{name:<13} {:>10} {:>12} {:>7} {:>10} {:>12} {:>7} {:>9} {:>9} {:>7}{}",
                of(line.qemu_record, 2),
                of(line.dejavm_record, 2),
                of(ratios[0], 2),
                of(line.qemu_replay, 2),
                of(line.dejavm_replay, 2),
                of(ratios[1], 2),
                of(line.native, 3),
                of(ratios[2], 2),
                of(wanted, 1),
                if below { " below" } else { "" },
            )
            .expect("writing to a string cannot fail");
        };
        for program in &self.chosen {
            let line = self.line(*program);
            let wanted = (program.group != Group::Hot).then(|| program.group.wanted());
            row(program.name, line, [line.record(), line.replay(), line.slowdown()], wanted);
        }
        row("hot, geo. mean", Line::default(), self.hot(), Some(Group::Hot.wanted()));
        let clock = match self.clock {
            Clock::Wall => "wall time",
            Clock::Cpu => "processor time",
        };
        writeln!(
            text,
            "medians of {clock} between a program's two lines on the console; x: QEMU's over ours; slowdown: \
             dejavm record over native"
        )
        .expect("writing to a string cannot fail");
        for failure in &self.failures {
            writeln!(text, "  failed: {failure}").expect("writing to a string cannot fail");
        }
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let each = |name: &'static str, side: Side| {
            let times = self.times.get(&(name, side)).cloned().unwrap_or_default();
            json!({
                "wall_s": times.iter().map(|took| took.wall).collect::<Vec<_>>(),
                "cpu_s": times.iter().map(|took| took.cpu).collect::<Vec<_>>(),
            })
        };
        let programs: Vec<Value> = self
            .chosen
            .iter()
            .map(|program| {
                let (name, line) = (program.name, self.line(*program));
                json!({
                    "program": name,
                    "result": self.results.get(name),
                    "qemu_record_s": line.qemu_record,
                    "dejavm_record_s": line.dejavm_record,
                    "record_ratio": line.record(),
                    "qemu_replay_s": line.qemu_replay,
                    "dejavm_replay_s": line.dejavm_replay,
                    "replay_ratio": line.replay(),
                    "native_s": line.native,
                    "slowdown": line.slowdown(),
                    "wanted_ratio": program.group.wanted(),
                    "each": SIDES
                        .iter()
                        .map(|side| (side.name().to_owned(), each(name, *side)))
                        .collect::<serde_json::Map<_, _>>(),
                })
            })
            .collect();
        let [record, replay, slowdown] = self.hot();
        json!({
            "clock": match self.clock { Clock::Wall => "wall", Clock::Cpu => "cpu" },
            "programs": programs,
            "hot_geometric_mean": {
                "record_ratio": record,
                "replay_ratio": replay,
                "slowdown": slowdown,
                "wanted_ratio": Group::Hot.wanted(),
            },
            "failures": self.failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Glimpse;

    /// A console on which each program took `wall` seconds, and a tenth of it of processor time.
    fn console(programs: &[Program], wall: f64, result: &str) -> Console {
        let mut console = Console::default();
        let mut clocks = Clocks::default();
        for program in programs {
            let name = program.name;
            console.read(&Glimpse {
                clocks,
                bytes: format!("DEJAVM-BENCH begin {name}\n").into_bytes(),
            });
            clocks = Clocks { wall: clocks.wall + wall, cpu: clocks.cpu + wall / 10.0 };
            console.read(&Glimpse {
                clocks,
                bytes: format!("DEJAVM-BENCH end {name} {result}\n").into_bytes(),
            });
        }
        console
    }

    fn near(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|value| (value - expected).abs() < 1e-9)
    }

    #[test]
    fn means_are_geometric() {
        assert!(near(geometric_mean([Some(2.0), Some(8.0)].into_iter()), 4.0));
        assert_eq!(geometric_mean([Some(2.0), None].into_iter()), None);
        assert_eq!(geometric_mean(std::iter::empty()), None);
    }

    #[test]
    fn ratios_and_the_slowdown() {
        let mut speeds = Speeds::new(PROGRAMS.to_vec(), Clock::Wall);
        for (side, wall) in SIDES.into_iter().zip([0.5, 6.0, 2.0, 9.0, 1.0]) {
            for off in [1.0, 0.9, 5.0] {
                speeds.note(side, &console(&PROGRAMS, wall * off, "00ff"));
            }
        }
        assert_eq!(speeds.failures, [""; 0]);
        let [record, replay, slowdown] = speeds.hot();
        assert!(near(record, 3.0) && near(replay, 9.0) && near(slowdown, 4.0));
        let value = speeds.json();
        assert!(near(value["programs"][0]["record_ratio"].as_f64(), 3.0));
        assert!(near(value["programs"][0]["each"]["native"]["wall_s"][1].as_f64(), 0.45));
        let table = speeds.table();
        let gzip = table.lines().find(|line| line.starts_with("gzip")).unwrap();
        let words: Vec<&str> = gzip.split_whitespace().collect();
        assert_eq!(
            words,
            ["gzip", "6.00", "2.00", "3.00", "9.00", "1.00", "9.00", "0.500", "4.00", "1.5"]
        );
        let hot = table.lines().find(|line| line.starts_with("hot")).unwrap();
        assert!(hot.ends_with("4.0 below"), "{hot}");
        speeds.clock = Clock::Cpu;
        assert!(near(speeds.line(PROGRAMS[0]).dejavm_record, 0.2));
        assert!(near(speeds.line(PROGRAMS[0]).native, 0.05));
    }

    #[test]
    fn who_computes_something_else_has_no_time() {
        let chosen = vec![PROGRAMS[0]];
        let mut speeds = Speeds::new(chosen.clone(), Clock::Wall);
        speeds.note(Side::Native, &console(&chosen, 1.0, "1"));
        speeds.note(Side::QemuRecord, &console(&chosen, 1.0, "2"));
        speeds.note(Side::QemuReplay, &console(&[], 1.0, "1"));
        assert_eq!(speeds.failures.len(), 2, "{:?}", speeds.failures);
        assert_eq!(speeds.line(PROGRAMS[0]).qemu_record, None);
        assert!(speeds.table().contains("qemu record: fib computed 2, elsewhere 1"));
        assert_eq!(speeds.hot(), [None; 3]);
    }
}
