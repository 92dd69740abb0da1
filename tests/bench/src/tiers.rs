//! A cold boot with the default engine beside one with the interpreter alone: translating must not make
//! anything come later. And what both need of memory.

use crate::child::{self, Cost};
use crate::console::{Clocks, Console};
use crate::create;
use crate::report::median;
use crate::subject::{Guest, Programs};
use crate::suite::Clock;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Lines of the console, in the order in which a boot prints them.
const LANDMARKS: [&str; 6] = [
    "Linux version",
    "Memory: ",
    "Freeing unused kernel",
    "DEJAVM-INIT",
    "dejavm: shell loop",
    "DEJAVM-WORKLOAD-OK",
];

/// What `record` is told for either.
const ENGINES: [(&str, &[&str]); 2] =
    [("default", &[]), ("soft,interp", &["--engine", "soft,interp"])];

/// One boot: when each landmark came, and the end.
struct Boot {
    landmarks: Vec<Option<Clocks>>,
    cost: Cost,
}

/// What was found out.
pub struct Tiers {
    clock: Clock,
    /// For each of the engines.
    boots: [Vec<Boot>; 2],
}

/// Boots with either engine in turn.
///
/// # Errors
/// A sentence when a boot fails.
pub fn measure(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
    rounds: u32,
    clock: Clock,
) -> Result<Tiers, String> {
    let mut boots = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        for ((name, words), boots) in ENGINES.iter().zip(&mut boots) {
            let mut console = Console::new(&LANDMARKS);
            let mut command = programs.dejavm_record(guest, &work.join("tiers.dvr"));
            command.args(*words);
            let log = create(work.join("tiers.stderr"))?;
            let cost = child::watch(&mut command, log, limit, &mut |piece| console.read(piece))
                .map_err(|sentence| format!("engine {name}: {sentence}"))?;
            eprintln!("round {round}: boot with {name:<12} {:7.2} s", cost.seconds);
            let landmarks = console.landmarks.iter().map(|landmark| landmark.seen).collect();
            boots.push(Boot { landmarks, cost });
        }
    }
    Ok(Tiers { clock, boots })
}

impl Boot {
    /// Seconds until each landmark, then until the end.
    fn seconds(&self, clock: Clock) -> Vec<Option<f64>> {
        let of = |clocks: Clocks| match clock {
            Clock::Wall => clocks.wall,
            Clock::Cpu => clocks.cpu,
        };
        let end = Clocks { wall: self.cost.seconds, cpu: self.cost.cpu_seconds };
        self.landmarks.iter().copied().chain([Some(end)]).map(|seen| seen.map(of)).collect()
    }
}

impl Tiers {
    /// Name of a moment; median seconds until then with the default engine and with the interpreter.
    fn rows(&self) -> Vec<(&'static str, Option<f64>, Option<f64>)> {
        let names = LANDMARKS.into_iter().chain(["end of the process"]);
        let middle = |boots: &[Boot], index: usize| {
            median(boots.iter().filter_map(|boot| boot.seconds(self.clock).get(index).copied()?))
        };
        names
            .enumerate()
            .map(|(index, name)| {
                (name, middle(&self.boots[0], index), middle(&self.boots[1], index))
            })
            .collect()
    }

    fn memory_peaks(&self) -> [Option<f64>; 2] {
        [0, 1].map(|engine: usize| {
            median(self.boots[engine].iter().map(|boot| boot.cost.memory_peak as f64))
        })
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<22} {:>10} {:>14} {:>8}\n",
            "cold boot, recorded", "default s", "interpreter s", "x speed"
        );
        let of = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        for (name, ours, interpreter) in self.rows() {
            let ratio = interpreter.zip(ours).map(|(interpreter, ours)| interpreter / ours);
            let late = if ratio.is_some_and(|ratio| ratio < 1.0) { " later" } else { "" };
            let (ours, interpreter, ratio) = (of(ours), of(interpreter), of(ratio));
            writeln!(text, "{name:<22} {ours:>10} {interpreter:>14} {ratio:>8}{late}")
                .expect("writing to a string cannot fail");
        }
        let mib = self.memory_peaks().map(|bytes| of(bytes.map(|bytes| bytes / 1048576.0)));
        writeln!(text, "peak memory: {} MiB, with the interpreter {} MiB", mib[0], mib[1])
            .expect("writing to a string cannot fail");
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let moments: Vec<Value> = self
            .rows()
            .into_iter()
            .map(|(name, ours, interpreter)| {
                json!({ "moment": name, "default_s": ours, "interpreter_s": interpreter })
            })
            .collect();
        let [ours, interpreter] = self.memory_peaks();
        json!({
            "moments": moments,
            "memory_peak_bytes": { "default": ours, "interpreter": interpreter },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(step: f64, memory_peak: u64) -> Boot {
        let at = |index: usize| {
            let wall = step * (index + 1) as f64;
            Clocks { wall, cpu: wall / 2.0 }
        };
        let count = LANDMARKS.len();
        let Clocks { wall: seconds, cpu: cpu_seconds } = at(count);
        Boot {
            landmarks: (0..count).map(|index| (index != 1).then(|| at(index))).collect(),
            cost: Cost { seconds, cpu_seconds, memory_peak },
        }
    }

    #[test]
    fn who_comes_later_is_named() {
        let boots = [vec![boot(1.0, 5 << 20), boot(1.0, 5 << 20)], vec![boot(0.5, 1 << 20)]];
        let mut tiers = Tiers { clock: Clock::Wall, boots };
        let table = tiers.table();
        let lines: Vec<&str> = table.lines().collect();
        let words = |line: &str| {
            line.split_whitespace().map(str::to_owned).collect::<Vec<String>>().join(" ")
        };
        assert_eq!(words(lines[1]), "Linux version 1.00 0.50 0.50 later");
        assert_eq!(words(lines[2]), "Memory: - - -");
        assert_eq!(words(lines[7]), "end of the process 7.00 3.50 0.50 later");
        assert_eq!(lines[8], "peak memory: 5.00 MiB, with the interpreter 1.00 MiB");
        tiers.clock = Clock::Cpu;
        assert_eq!(tiers.json()["moments"][0]["default_s"], 0.5);
        assert_eq!(tiers.json()["moments"][1]["default_s"], Value::Null);
    }
}
