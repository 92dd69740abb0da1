//! `dejavm replay` and `dejavm verify`.

use crate::Outcome;
use crate::arguments::{Replay, TuningOptions, Verify};
use crate::console::Console;
use crate::disks::Images;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::kvm;
use crate::lockstep;
use crate::open;
use crate::progress::{Meter, rate, seconds};
use crate::record::{debug_exit, ending_name, ending_text};
use crate::recording::console_has_a_port;
use crate::replay_debugged;
use crate::serial::Serial;
use crate::view::{self, VIEW_ONLY, View};
use crate::world::stop_on_signals;
use dejavm_machine::{Hardware, Machine, Output};
use dejavm_replay::{CutShort, Header, Moment, Observer, ReplayOptions, Replayed, Replayer};
use dejavm_units::Position;
use serde_json::{Value, json};
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Replays, verifies, and prints the console.
pub fn replay(arguments: &Replay) -> Result<Outcome, Failure> {
    if let Some(address) = &arguments.gdb {
        return replay_debugged::run(arguments, address);
    }
    let report = &arguments.report;
    console_has_a_port(report, arguments.serial.stdio()?)?;
    let console = match arguments.quiet {
        true => Console::none(),
        false => Console::new(report.console.as_deref(), report.json)?
            .with_debug(report.debug_console.as_deref())?,
    };
    let console_on_terminal =
        !arguments.quiet && report.console.is_none() && (report.json || io::stdout().is_terminal());
    let meter = Meter::new(report.progress, console_on_terminal);
    let serial = &arguments.serial;
    let set_up = |watch: &mut Watch, hardware: &Hardware| {
        watch.serial = serial.open_outputs(hardware)?;
        watch.console.show(watch.serial.stdio);
        Ok(())
    };
    let vnc = arguments.vnc.as_ref();
    let what = What {
        file: arguments.file.as_deref(),
        images: &arguments.images,
        until: arguments.until,
        tuning: &arguments.tuning,
    };
    run(&what, console, meter, set_up, vnc)
}

/// Replays and verifies.
pub fn verify(arguments: &Verify) -> Result<Outcome, Failure> {
    if let Some(step) = arguments.lockstep {
        return lockstep::verify(arguments, step);
    }
    let meter = Meter::new(arguments.progress, false);
    let console = Console::none();
    let what = What {
        file: arguments.file.as_deref(),
        images: &arguments.images,
        until: arguments.until,
        tuning: &arguments.tuning,
    };
    let outcome = run(&what, console, meter, |_, _| Ok(()), None)?;
    if !arguments.json && outcome.failure.is_none() {
        let value = &outcome.json;
        let line = format!(
            "equal: {} digests over {} instructions\n",
            value["digests"], value["instructions"]
        );
        crate::console::print(&line)?;
    }
    Ok(outcome)
}

/// What is replayed, and how.
struct What<'a> {
    file: Option<&'a Path>,
    images: &'a Images,
    until: Option<u64>,
    tuning: &'a TuningOptions,
}

fn run(
    what: &What<'_>,
    console: Console,
    meter: Meter,
    set_up: impl FnOnce(&mut Watch, &Hardware) -> Result<(), Failure>,
    vnc: Option<&view::Address>,
) -> Result<Outcome, Failure> {
    let (file, name) = open::file(what.file)?;
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let mut watch = Watch { console, serial: Serial::default(), meter, stop, view: None };
    let shown = vnc.map(|address| (address, &*name));
    let result = replay_file(file, what, &mut watch, set_up, shown);
    watch.meter.finish();
    let replayed = result.map_err(|failure| failure.about(&name))?;
    let time = watch.meter.seconds();
    if let Some(cut_short) = &replayed.cut_short {
        eprintln!("dejavm: {name}: the recording was cut short: {cut_short}");
    }
    eprintln!(
        "dejavm: {name}: {}; {} {}, guest time {}, {} inputs, {} digests equal, {:.0} M/s",
        match replayed.ending {
            Some(ending) => format!("replayed to the end: {}", ending_text(ending)),
            None => format!("replayed to position {}", replayed.at.position),
        },
        replayed.at.position,
        if what.tuning.engine == Engine::Kvm { "exits" } else { "instructions" },
        seconds(replayed.at),
        replayed.inputs,
        replayed.digests,
        rate(replayed.at.position.0, time),
    );
    let mut value = replayed_json(&replayed, time);
    value["file"] = json!(name);
    let failure =
        failure(&replayed, &watch, what.until.is_some()).map(|failure| failure.about(&name));
    if let Some(failure) = &failure {
        value["result"] = json!("failed");
        value["exit_code"] = json!(failure.exit.code());
        value["error"] = json!(failure.sentence);
    }
    Ok(Outcome { json: value, failure })
}

/// What kept a replay without divergence from being a success.
fn failure(replayed: &Replayed, watch: &Watch, until: bool) -> Option<Failure> {
    if let Err(failure) = watch.console.check() {
        return Some(failure);
    }
    match &replayed.cut_short {
        Some(CutShort::Damaged(error)) => {
            let sentence = format!("{error}; everything before it replays, up to {}", replayed.at);
            return Some(Failure::new(Exit::Recording, sentence));
        }
        // A killed recorder's leftover is as good as a recording that was stopped there.
        Some(CutShort::Ends { .. }) => return None,
        None => {}
    }
    if replayed.ending.is_none() && !until && watch.stopped() {
        let sentence = format!("the replay was stopped at {}", replayed.at);
        return Some(Failure::new(Exit::Failed, sentence));
    }
    None
}

fn replay_file(
    file: std::fs::File,
    what: &What<'_>,
    watch: &mut Watch,
    set_up: impl FnOnce(&mut Watch, &Hardware) -> Result<(), Failure>,
    vnc: Option<(&view::Address, &str)>,
) -> Result<Replayed, Failure> {
    let What { images, until, tuning, .. } = *what;
    let mut replayer = match tuning.engine {
        Engine::Kvm => Replayer::open(file)?,
        Engine::Auto
        | Engine::Soft
        | Engine::Interpreter
        | Engine::Reference
        | Engine::KvmSteps => open::replayer(file, images)?,
    };
    set_up(watch, &replayer.header().config.hardware)?;
    let mut machine = open::machine(&mut replayer, images)?;
    machine.set_tuning(tuning.tuning());
    if tuning.engine == Engine::Kvm {
        if !replayer.header().positions_are_exits() {
            let sentence = "--engine kvm: the software CPU recorded this, and its positions are instructions, which KVM cannot count; \
                            leave the option out";
            return Err(Failure::new(Exit::Usage, sentence));
        }
        let config = replayer.header().config.clone();
        kvm::put(&mut machine, &config, false)?;
    }
    kvm::put_steps(&mut machine, &replayer.header().config, tuning.engine)?;
    let options = ReplayOptions { until: until.map(Position), unverified: false };
    if let Some((address, name)) = vnc {
        let view = View::open(address, &machine, name, VIEW_ONLY)?;
        eprintln!("dejavm: {name}: the replay starts when a viewer comes");
        view.wait(true, &watch.stop);
        watch.view = Some(view);
    }
    let header = replayer.header().clone();
    let replayed = replayer.run(&mut machine, &options, watch);
    if let Some(view) = &mut watch.view {
        view.show_now(&machine);
        view.wait(false, &watch.stop);
    }
    replayed.map_err(|error| older(error.into(), &header))
}

/// A recording of an older machine may differ for that.
fn older(mut failure: Failure, header: &Header) -> Failure {
    if let Exit::Divergence = failure.exit
        && let Some(corrected) = header.corrected_since()
    {
        let creator = &header.creator;
        failure.sentence += &format!(
            "; it was recorded by an older machine ({creator}), and corrected since are: {corrected}. Replay it with the dejavm that \
             recorded it"
        );
    }
    failure
}

/// Watches a replay for the user.
struct Watch {
    console: Console,
    serial: Serial,
    meter: Meter,
    stop: Arc<AtomicBool>,
    view: Option<View>,
}

impl Watch {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.console.is_broken()
    }
}

impl Observer for Watch {
    fn output(&mut self, output: &[Output]) {
        self.console.write(output);
        self.serial.write(output);
    }

    fn look(&mut self, machine: &Machine) {
        if let Some(view) = &mut self.view {
            view.show(machine);
        }
    }

    fn progress(&mut self, at: Moment) -> bool {
        self.meter.show(at, None);
        !self.stopped()
    }
}

/// A replay's result for programs.
pub fn replayed_json(replayed: &Replayed, seconds: f64) -> Value {
    let digest = replayed.last_digest.as_ref();
    json!({
        "result": "equal",
        "complete": replayed.ending.is_some(),
        "ending": replayed.ending.map(ending_name),
        "debug_exit": replayed.ending.and_then(debug_exit),
        "cut_short": replayed.cut_short.as_ref().map(CutShort::to_string),
        "position": replayed.at.position.0,
        "instructions": replayed.at.position.0,
        "guest_ns": replayed.at.guest_ns.0,
        "inputs": replayed.inputs,
        "digests": replayed.digests,
        "console_bytes": replayed.console_bytes,
        "console_hash": replayed.console.to_string(),
        "machine_hash": digest.map(|digest| digest.machine.to_string()),
        "memory_hash": digest.map(|digest| digest.memory.to_string()),
        "seconds": seconds,
        "million_instructions_per_second": rate(replayed.at.position.0, seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dejavm_machine::MachineConfig;
    use dejavm_memory::RamLayout;
    use dejavm_replay::{SEMANTICS, SEMANTICS_OLDEST};

    #[test]
    fn a_divergence_says_whether_the_machine_is_older() {
        let said = |exit: Exit, semantics: u32| {
            let header = Header {
                creator: "dejavm 0.0".into(),
                semantics,
                config: MachineConfig::new(RamLayout::new(8 << 20).unwrap()),
                guest: Vec::new(),
                digest_interval: 0,
            };
            older(Failure::new(exit, "it differs"), &header).sentence
        };
        let old = said(Exit::Divergence, SEMANTICS_OLDEST);
        assert!(old.starts_with("it differs; it was recorded by an older machine (dejavm 0.0)"));
        assert!(old.contains("SYSRET") && !old.contains('\n'), "{old}");
        assert_eq!(said(Exit::Divergence, SEMANTICS), "it differs");
        assert_eq!(said(Exit::Failed, SEMANTICS_OLDEST), "it differs");
    }
}
