//! `dejavm doctor`: which engines this host has, and what each can promise.

mod kvm;
mod probe;

use crate::arguments::Doctor;
use crate::exit::{Exit, Failure};
use crate::{Outcome, console};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::path::Path;

/// A fact about the host, with its reason in one line.
pub struct Finding {
    /// Whether it is there.
    pub present: bool,
    /// Why, or how.
    pub reason: String,
}

impl Finding {
    fn line(&self, name: &str) -> String {
        let Finding { present, reason } = self;
        format!("  {name:5} {}; {reason}\n", if *present { "yes" } else { "no" })
    }

    fn json(&self) -> Value {
        json!({ "present": self.present, "reason": self.reason })
    }
}

/// Looks at the host.
pub fn run(arguments: &Doctor) -> Result<Outcome, Failure> {
    if arguments.probe_kvm {
        let failed = |error: std::io::Error| Failure::new(Exit::Failed, error.to_string());
        return probe::probe().map(|()| Outcome::ok(Value::Null)).map_err(failed);
    }
    let (vendor, model) = cpu();
    let kvm = device();
    let pmu = dejavm_kvm::pmu::find();
    let verdict = match kvm.present {
        true => judge_kvm(),
        false => kvm::Verdict::without(&kvm.reason),
    };
    let pmu = match (&pmu, &verdict.counter) {
        (Ok(pmu), Some(tried)) => {
            Finding { present: tried.present, reason: format!("{pmu}; {}", tried.reason) }
        }
        (Ok(pmu), None) => Finding {
            present: true,
            reason: format!("{pmu}; no guest could be run to see whether it counts exactly"),
        },
        (Err(error), _) => Finding { present: false, reason: error.to_string() },
    };
    let kvm_tier = match verdict.works {
        true => format!("{}: `record --engine kvm`", verdict.tier.unwrap_or("nothing")),
        false => "not usable".to_owned(),
    };
    if !arguments.json {
        let host: String =
            [("kvm", &kvm), ("stops", &verdict.stops), ("tsc", &verdict.tsc), ("pmu", &pmu)]
                .map(|(name, finding)| finding.line(name))
                .concat();
        console::print(&format!(
            "engines\n  soft  exact; {SOFT_REASON}\n  kvm   {kvm_tier}; {}\nhost\n  cpu   {vendor}, {model}\n{host}",
            verdict.reason,
        ))?;
    }
    Ok(Outcome::ok(json!({
        "engines": [
            { "name": "soft", "usable": true, "tier": "exact", "reason": SOFT_REASON },
            { "name": "kvm", "usable": verdict.works, "works": verdict.works, "tier": verdict.tier, "reason": verdict.reason, "probe": verdict.probe },
        ],
        "host": {
            "cpu_vendor": vendor,
            "cpu_model": model,
            "kvm": kvm.json(),
            "stops": verdict.stops.json(),
            "tsc": verdict.tsc.json(),
            "pmu": pmu.json(),
        },
    })))
}

/// Runs guests on the host's KVM, which must open, and says what became of them.
pub fn judge_kvm() -> kvm::Verdict {
    kvm::judge(&probe::run())
}

const SOFT_REASON: &str = "the software CPU computes every instruction itself, so a recording replays \
                           bit for bit on any x86-64 host";

fn cpu() -> (String, String) {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().map(str::trim) == Some(key));
        let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
        value.unwrap_or("unknown").to_owned()
    };
    (value("vendor_id"), value("model name"))
}

fn device() -> Finding {
    let path = "/dev/kvm";
    if !Path::new(path).exists() {
        let reason =
            format!("{path} does not exist: no hardware virtualization, or none is offered");
        return Finding { present: false, reason };
    }
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding { present: true, reason: format!("{path} opens") },
        Err(error) => Finding { present: false, reason: format!("{path} does not open: {error}") },
    }
}
