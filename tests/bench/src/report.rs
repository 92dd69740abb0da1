//! Medians, ratios, the table and the JSON.

use crate::child::Cost;
use crate::subject::{STEPS, Step, Subject, Verb};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What one step gave over all rounds.
#[derive(Debug)]
pub struct Row {
    /// Which step.
    pub step: Step,
    /// One cost a round in which it succeeded.
    pub costs: Vec<Cost>,
    /// Size of the log in bytes after the last recording, for the steps that record.
    pub log_bytes: Option<u64>,
    /// The sentence of the last failure.
    pub failure: Option<String>,
}

impl Row {
    /// An empty row.
    pub fn new(step: Step) -> Row {
        Row { step, costs: Vec::new(), log_bytes: None, failure: None }
    }

    fn seconds(&self) -> Option<f64> {
        median(self.costs.iter().map(|cost| cost.seconds))
    }

    fn memory_peak(&self) -> Option<f64> {
        median(self.costs.iter().map(|cost| cost.memory_peak as f64))
    }
}

/// The middle value; of an even number of values the mean of the middle two.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        Some(upper)
    } else {
        Some((values[values.len() / 2 - 1] + upper) / 2.0)
    }
}

/// QEMU's row that `row` is compared with: our verify stands against its replay, the nearest it has.
fn peer(rows: &[Row], row: &Row) -> Option<usize> {
    let verb = match (row.step.subject, row.step.verb) {
        (Subject::Qemu, _) => return None,
        (Subject::Dejavm, Verb::Record) => Verb::Record,
        (Subject::Dejavm, Verb::Replay | Verb::Verify) => Verb::Replay,
    };
    rows.iter().position(|other| other.step == Step { subject: Subject::Qemu, verb })
}

/// The three ratios of a row to QEMU's: speed (above 1: ours is faster), memory and log (below 1:
/// ours is smaller).
struct Ratios {
    speed: Option<f64>,
    memory: Option<f64>,
    log: Option<f64>,
}

fn ratios(rows: &[Row], row: &Row) -> Ratios {
    let Some(peer) = peer(rows, row).map(|index| &rows[index]) else {
        return Ratios { speed: None, memory: None, log: None };
    };
    let over = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    Ratios {
        speed: over(peer.seconds(), row.seconds()),
        memory: over(row.memory_peak(), peer.memory_peak()),
        log: over(row.log_bytes.map(|n| n as f64), peer.log_bytes.map(|n| n as f64)),
    }
}

/// The table for a person. `instructions`: completed guest instructions of our recording.
pub fn table(rows: &[Row], instructions: Option<u64>) -> String {
    let mut text = format!(
        "{:<14} {:>4} {:>9} {:>9} {:>10} {:>12} {:>9} {:>8} {:>8}\n",
        "step", "runs", "wall s", "M insn/s", "peak MiB", "log bytes", "x speed", "x mem", "x log"
    );
    for row in rows {
        let of = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        // The same guest work: QEMU's own instruction count is not at hand, so none is claimed.
        let speed = match row.step.subject {
            Subject::Dejavm => {
                instructions.and_then(|count| Some(count as f64 / row.seconds()? / 1e6))
            }
            Subject::Qemu => None,
        };
        let ratio = ratios(rows, row);
        writeln!(
            text,
            "{:<14} {:>4} {:>9} {:>9} {:>10} {:>12} {:>9} {:>8} {:>8}",
            row.step.name(),
            row.costs.len(),
            of(row.seconds(), 2),
            of(speed, 0),
            of(row.memory_peak().map(|bytes| bytes / 1048576.0), 0),
            row.log_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            of(ratio.speed, 2),
            of(ratio.memory, 2),
            of(ratio.log, 3),
        )
        .expect("writing to a string cannot fail");
        if let Some(failure) = &row.failure {
            writeln!(text, "  failed: {failure}").expect("writing to a string cannot fail");
        }
    }
    text.push_str(
        "wall and peak are medians; x speed: QEMU's wall over ours; x mem, x log: ours over QEMU's; \
         verify stands against QEMU's replay\n",
    );
    text
}

/// The same for a program.
pub fn json(rows: &[Row], instructions: Option<u64>) -> Value {
    let steps: Vec<Value> = rows
        .iter()
        .map(|row| {
            let ratio = ratios(rows, row);
            json!({
                "step": row.step.name(),
                "runs": row.costs.len(),
                "wall_s": row.seconds(),
                "wall_s_each": row.costs.iter().map(|cost| cost.seconds).collect::<Vec<_>>(),
                "cpu_s": median(row.costs.iter().map(|cost| cost.cpu_seconds)),
                "memory_peak_bytes": row.memory_peak(),
                "log_bytes": row.log_bytes,
                "speed_ratio": ratio.speed,
                "memory_ratio": ratio.memory,
                "log_ratio": ratio.log,
                "failure": row.failure,
            })
        })
        .collect();
    json!({ "instructions": instructions, "steps": steps })
}

/// Empty rows for every step of a round.
pub fn rows() -> Vec<Row> {
    STEPS.iter().map(|step| Row::new(*step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    #[test]
    fn ratios_stand_against_the_right_row() {
        let cost = |seconds, memory_peak| Cost { seconds, cpu_seconds: seconds, memory_peak };
        let mut rows = rows();
        for (row, (seconds, memory, log)) in rows.iter_mut().zip([
            (6.0, 400, Some(1000)),
            (3.0, 100, Some(10)),
            (12.0, 400, None),
            (2.0, 200, None),
            (4.0, 200, None),
        ]) {
            row.costs.push(cost(seconds, memory));
            row.log_bytes = log;
        }
        let value = json(&rows, Some(30_000_000));
        let field = |step: usize, name: &str| value["steps"][step][name].as_f64();
        assert_eq!(field(1, "speed_ratio"), Some(2.0));
        assert_eq!(field(1, "memory_ratio"), Some(0.25));
        assert_eq!(field(1, "log_ratio"), Some(0.01));
        assert_eq!(field(3, "speed_ratio"), Some(6.0));
        assert_eq!(field(4, "speed_ratio"), Some(3.0));
        assert_eq!(field(0, "speed_ratio"), None);
        assert!(table(&rows, Some(30_000_000)).contains("dejavm record     1      3.00        10"));
    }
}
