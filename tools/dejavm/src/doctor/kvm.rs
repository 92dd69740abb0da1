//! What the probe found, as a sentence and a tier.

use super::probe::Step;
use serde_json::{Value, json};

/// Slower than that, in millions of instructions a second, is no processor, but a program in the host's kernel (measured: 1 to 3). Processors do
/// thousands; the one that QEMU emulates on a busy machine still does 99.
const EMULATED_RATE: f64 = 20.0;

/// What can be said of the host's KVM.
pub struct Verdict {
    /// Guests run on it as they should.
    pub works: bool,
    /// What it can promise; `None` if nothing.
    pub tier: Option<&'static str>,
    /// Why.
    pub reason: String,
    /// What was measured, for programs.
    pub probe: Value,
}

/// Judges.
pub fn judge(steps: &[Step]) -> Verdict {
    let mut failures = Vec::new();
    let (mut exit_ns, mut rate) = (None, None);
    let mut last = "nothing";
    for step in steps {
        match step {
            Step::Checked(what, None) => last = what,
            Step::Checked(what, Some(why)) => {
                last = what;
                failures.push(format!("{what}: {why}"));
            }
            Step::ExitNs(ns) => exit_ns = Some(*ns),
            Step::KernelRate(found) => rate = Some(*found),
            Step::Whole => {}
        }
    }
    if failures.is_empty() && steps.last() != Some(&Step::Whole) {
        failures.push(format!("a guest did not come back; the last that did was for: {last}"));
    }
    let speed = rate.map(|rate| {
        let how = if rate < EMULATED_RATE { ", so they are emulated" } else { "" };
        format!("{rate:.0} million instructions a second in the guest's kernel{how}")
    });
    let latency = exit_ns.map(|ns| format!("an exit takes {:.1} us", ns as f64 / 1e3));
    let measured: Vec<String> = latency.into_iter().chain(speed).collect();
    let emulates = rate.is_some_and(|rate| rate < EMULATED_RATE);
    if emulates {
        failures.push(format!("it is slower than the software CPU: {}", measured.join(", ")));
    }
    let works = failures.is_empty();
    let reason = match works {
        false => failures.join("; "),
        true => format!(
            "{}; KVM lets guests read the host's time stamp counter, so a guest that does is recorded but not replayed",
            measured.join(", ")
        ),
    };
    let tier = works.then_some("exact if the guest reads no time stamp counter");
    let probe = json!({
        "failures": failures,
        "exit_ns": exit_ns,
        "kernel_mips": rate,
        "emulates": emulates,
    });
    Verdict { works, tier, reason, probe }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(why: Option<&str>) -> Step {
        Step::Checked("real mode".into(), why.map(str::to_owned))
    }

    #[test]
    fn verdicts() {
        let fine = [checked(None), Step::ExitNs(1500), Step::KernelRate(3000.0), Step::Whole];
        assert!(judge(&fine).works);
        let slow = judge(&[checked(None), Step::ExitNs(4000), Step::KernelRate(1.5), Step::Whole]);
        assert!(
            !slow.works && slow.reason.contains("2 million") && slow.reason.contains("emulated"),
            "{}",
            slow.reason
        );
        let hung = judge(&fine[..1]);
        assert!(!hung.works && hung.reason.contains("did not come back"), "{}", hung.reason);
        let wrong = judge(&[checked(Some("it shut down")), Step::Whole]);
        assert_eq!(wrong.reason, "real mode: it shut down");
        assert_eq!(judge(&[]).tier, None);
    }
}
