//! What the probe found, as a sentence and a tier.

use super::Finding;
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
    /// How guests can be stopped, for debuggers and for the clock of branches.
    pub stops: Finding,
    /// The host's counter of branches, if it has one that was tried.
    pub counter: Option<Finding>,
    /// Guests' time stamp counter.
    pub tsc: Finding,
}

/// Judges.
pub fn judge(steps: &[Step]) -> Verdict {
    let mut failures = Vec::new();
    let (mut exit_ns, mut rate) = (None, None);
    let (mut stops, mut counter, mut tsc) = (Vec::new(), None, None);
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
            Step::Stops(what, why) => {
                last = what;
                stops.push((what.as_str(), why.as_deref()));
            }
            Step::Counter(is_clock, how) => {
                counter = Some(Finding { present: *is_clock, reason: how.clone() });
            }
            Step::Tsc(is_scaled, policy) => {
                tsc = Some(Finding { present: *is_scaled, reason: policy.clone() });
            }
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
    let tried: Vec<Value> = stops
        .iter()
        .map(|(what, why)| json!({ "what": what, "works": why.is_none(), "instead": why }))
        .collect();
    let probe = json!({
        "failures": failures,
        "exit_ns": exit_ns,
        "kernel_mips": rate,
        "emulates": emulates,
        "stops": tried,
    });
    let unknown = || Finding { present: false, reason: NOT_TRIED.into() };
    let (stops, tsc) = (judge_stops(&stops), tsc.unwrap_or_else(unknown));
    Verdict { works, tier, reason, probe, stops, counter, tsc }
}

impl Verdict {
    /// Of a host without KVM.
    pub fn without(reason: &str) -> Verdict {
        let none = || Finding { present: false, reason: "there is no KVM to try it on".into() };
        let (stops, tsc) = (none(), none());
        let (probe, reason) = (Value::Null, reason.to_owned());
        Verdict { works: false, tier: None, reason, probe, stops, counter: None, tsc }
    }
}

const NOT_TRIED: &str = "not found out: the guests before that did not come back";

/// Behind what does not stop guests.
const INSTEAD: &str = "; gdb stops them all the same, by the software CPU";

fn judge_stops(tried: &[(&str, Option<&str>)]) -> Finding {
    let (working, not): (Vec<_>, Vec<_>) = tried.iter().partition(|(_, why)| why.is_none());
    if tried.is_empty() {
        return Finding { present: false, reason: NOT_TRIED.into() };
    }
    let working: Vec<&str> = working.iter().map(|(what, _)| *what).collect();
    let not: Vec<String> =
        not.iter().map(|(what, why)| format!("{what} ({})", why.unwrap_or_default())).collect();
    let reason = match (working.is_empty(), not.is_empty()) {
        (_, true) => format!("KVM stops guests: {}", working.join(", ")),
        (true, false) => format!("KVM does not stop guests: {}", not.join(", ")),
        (false, false) => {
            format!("KVM stops guests: {}; it does not: {}", working.join(", "), not.join(", "))
        }
    };
    let instead = if not.is_empty() { "" } else { INSTEAD };
    Finding { present: not.is_empty(), reason: reason + instead }
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

    #[test]
    fn what_stops_guests() {
        let stops =
            |what: &str, why: Option<&str>| Step::Stops(what.into(), why.map(str::to_owned));
        let both = judge(&[stops("single steps", None), stops("breakpoints", None)]).stops;
        assert!(both.present, "{}", both.reason);
        assert_eq!(both.reason, "KVM stops guests: single steps, breakpoints");
        let one = judge(&[stops("single steps", None), stops("breakpoints", Some("it goes on"))]);
        assert!(!one.stops.present);
        assert_eq!(
            one.stops.reason,
            "KVM stops guests: single steps; it does not: breakpoints (it goes on); gdb stops them all the same, by the software CPU"
        );
        // They say nothing about whether guests can be recorded.
        assert_eq!(
            one.probe["failures"][0],
            "a guest did not come back; the last that did was for: breakpoints"
        );
        assert_eq!(judge(&[]).stops.reason, NOT_TRIED);
        assert_eq!(judge(&[Step::Counter(true, "exact".into())]).counter.unwrap().reason, "exact");
    }
}
