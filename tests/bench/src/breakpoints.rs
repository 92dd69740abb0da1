//! How fast a replay under a debugger goes forward with breakpoints that are never met, and without any.

use crate::child;
use crate::create;
use crate::debug::{end_of, serve_recording};
use crate::rsp::Debugger;
use crate::subject::{Guest, Programs};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// As many breakpoints are set.
const COUNT: u64 = 10;
/// What is wanted, as a share.
const WANTED: f64 = 0.10;

/// What was found out.
pub struct Breakpoints {
    /// Seconds from the start to the end of the recording, with and without, one pair a round.
    pairs: Vec<(f64, f64)>,
}

/// Records, then replays to the end again and again.
///
/// # Errors
/// A sentence when something fails.
pub fn measure(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
    rounds: u32,
) -> Result<Breakpoints, String> {
    let recording = work.join("breakpoints.dvr");
    let null = || create(Path::new("/dev/null").to_owned());
    child::run(&mut programs.dejavm_record(guest, &recording), null()?, null()?, limit)?;
    let end = end_of(programs, &recording)?;
    let (_server, mut debugger) = serve_recording(programs, &recording, limit)?;
    let mut unmet = Vec::new();
    for n in 0..COUNT {
        debugger.monitor(&format!("goto {}", end / COUNT * n + end / 20))?;
        // In the middle of an instruction that runs: in a page whose code is hot, and never met.
        unmet.push(debugger.instruction_pointer()?.wrapping_add(1));
    }
    // Once before, so that what a first run leaves behind serves every other; it finds addresses that
    // begin an instruction after all.
    while let Err(met) = to_the_end(&mut debugger, &unmet)? {
        let place = unmet.iter_mut().find(|place| **place == met);
        *place.ok_or_else(|| format!("a stop at {met:#x}, where no breakpoint is"))? += 1;
    }
    let mut pairs = Vec::new();
    for round in 1..=rounds {
        let mut seconds = |places: &[u64]| {
            to_the_end(&mut debugger, places)?
                .map_err(|met| format!("a breakpoint at {met:#x} that was not met before"))
        };
        let (without, with) = (seconds(&[])?, seconds(&unmet)?);
        eprintln!("round {round}: to the end without breakpoints {without:.2} s, with {with:.2} s");
        pairs.push((with, without));
    }
    Ok(Breakpoints { pairs })
}

/// Seconds from the start to the end with breakpoints at `places`, or the one that was met.
fn to_the_end(debugger: &mut Debugger, places: &[u64]) -> Result<Result<f64, u64>, String> {
    debugger.monitor("goto start")?;
    for place in places {
        debugger.ask(&format!("Z0,{place:x},1"))?;
    }
    let (seconds, reply) = debugger.stop_after("c")?;
    for place in places {
        debugger.ask(&format!("z0,{place:x},1"))?;
    }
    if reply.contains("replaylog:end") {
        return Ok(Ok(seconds));
    }
    debugger.instruction_pointer().map(Err)
}

impl Breakpoints {
    /// The least number of seconds with and without: other work on the machine only adds.
    fn least(&self) -> (f64, f64) {
        let least =
            |of: fn(&(f64, f64)) -> f64| self.pairs.iter().map(of).fold(f64::INFINITY, f64::min);
        (least(|pair| pair.0), least(|pair| pair.1))
    }

    /// With over without, minus 1.
    fn share(&self) -> f64 {
        let (with, without) = self.least();
        with / without - 1.0
    }

    /// The line for a person.
    pub fn line(&self) -> String {
        let (with, without) = self.least();
        let above = if self.share() > WANTED { ", above" } else { "" };
        format!(
            "forward under a debugger: {without:.2} s without breakpoints, {with:.2} s with {COUNT} that are never \
             met, {:+.1} % (wanted: {:.0} %{above}; each the least)\n",
            self.share() * 100.0,
            WANTED * 100.0,
        )
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        json!({
            "breakpoints": COUNT,
            "share": self.share(),
            "wanted_share": WANTED,
            "seconds_with_and_without": self.pairs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_runs_without() {
        let breakpoints = Breakpoints { pairs: vec![(5.0, 4.0), (4.5, 4.25), (4.75, 9.0)] };
        assert_eq!(breakpoints.share(), 0.125);
        assert_eq!(
            breakpoints.line(),
            "forward under a debugger: 4.00 s without breakpoints, 4.50 s with 10 that are never met, +12.5 % \
             (wanted: 10 %, above; each the least)\n"
        );
        assert_eq!(breakpoints.json()["seconds_with_and_without"][1][0], 4.5);
    }
}
