//! `dejavm verify --lockstep N`: interpreter and translator side by side on a recording.

mod instructions;
mod pair;

use crate::Outcome;
use crate::arguments::Verify;
use crate::disks::Images;
use crate::exit::{Exit, Failure};
use crate::open;
use crate::progress::{Meter, rate, seconds};
use crate::replay::replayed_json;
use crate::world::stop_on_signals;
use dejavm_cpu::{Engine, Tuning};
use dejavm_machine::{Machine, MachineConfig, RestoreError};
use dejavm_replay::{Moment, Observer, ReplayError, ReplayOptions, Replayed};
use dejavm_units::Position;
pub use pair::Mistake as InjectedMistake;
use pair::{Difference, Lockstep, LockstepOptions, Mistake, Narrowed, narrow};
use serde_json::json;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Instructions shown before a difference.
const SHOWN: u64 = 40;

/// A replay of both.
struct Run {
    config: MachineConfig,
    pair: Lockstep,
    result: Result<Replayed, ReplayError>,
}

struct Watch {
    meter: Meter,
    stop: Arc<AtomicBool>,
}

impl Observer for Watch {
    fn progress(&mut self, at: Moment) -> bool {
        self.meter.show(at, None);
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Replays with both, compares, and says where they differ.
pub fn verify(arguments: &Verify, step: u64) -> Result<Outcome, Failure> {
    let (file, name) = open::file(arguments.file.as_deref())?;
    let about = |failure: Failure| failure.about(&name);
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let mut watch = Watch { meter: Meter::new(arguments.progress, false), stop };
    let tuning = arguments.tuning.tuning();
    let tunings = [
        Tuning { engine: Engine::Interpreter, ..tuning },
        Tuning { engine: Engine::Translator, ..tuning },
    ];
    let mistake = arguments.lockstep_mistake;
    let options = LockstepOptions { tunings, step, memory_from: None, mistake };
    let until = arguments.until.map(Position);
    let run = replay(file, options, until, &arguments.images, &mut watch).map_err(about)?;
    let found = match run.pair.difference() {
        Some(difference) => Some(explain(arguments, &run, difference, options, &mut watch)?),
        None => None,
    };
    watch.meter.finish();
    let time = watch.meter.seconds();
    if let Some(found) = found {
        return Ok(differs(&name, found));
    }
    let replayed = run.result.map_err(Failure::from).map_err(about)?;
    let comparisons = run.pair.comparisons();
    if let Some(cut_short) = &replayed.cut_short {
        eprintln!("dejavm: {name}: the recording was cut short: {cut_short}");
    }
    if replayed.ending.is_none() && until.is_none() && watch.stop.load(Ordering::Relaxed) {
        let sentence = format!("the replay was stopped at {}", replayed.at);
        return Err(about(Failure::new(Exit::Failed, sentence)));
    }
    eprintln!(
        "dejavm: {name}: interpreter and translator did the same for {} instructions, guest time {}, \
         compared {comparisons} times; {} digests equal, {:.0} M/s",
        replayed.at.position,
        seconds(replayed.at),
        replayed.digests,
        rate(replayed.at.position.0, time),
    );
    if !arguments.json {
        crate::console::print(&format!(
            "equal: {comparisons} comparisons and {} digests over {} instructions\n",
            replayed.digests, replayed.at.position
        ))?;
    }
    let mut value = replayed_json(&replayed, time);
    value["file"] = json!(name);
    value["lockstep"] = json!({ "step": step, "comparisons": comparisons });
    Ok(Outcome::ok(value))
}

fn replay(
    file: File,
    options: LockstepOptions,
    until: Option<Position>,
    images: &Images,
    watch: &mut Watch,
) -> Result<Run, Failure> {
    let mut replayer = open::replayer(file, images)?;
    let machine = open::machine(&mut replayer, images)?;
    let config = replayer.header().config.clone();
    let mut pair = Lockstep::new(&config, machine, options).map_err(no_room)?;
    let result = replayer.run(&mut pair, &ReplayOptions { until, unverified: false }, watch);
    Ok(Run { config, pair, result })
}

fn no_room(error: RestoreError) -> Failure {
    Failure::new(Exit::Environment, format!("there is no second machine: {error}"))
}

/// What is known of a difference.
struct Found {
    difference: Difference,
    narrowed: Option<Narrowed>,
    instructions: Vec<String>,
}

/// Runs again, to say more of a difference.
fn explain(
    arguments: &Verify,
    run: &Run,
    difference: &Difference,
    options: LockstepOptions,
    watch: &mut Watch,
) -> Result<Found, Failure> {
    let again = || open::file(arguments.file.as_deref()).map(|(file, _)| file);
    let mut difference = difference.clone();
    if difference.memory {
        // Compared more seldom than the rest: now as often.
        let options = LockstepOptions { memory_from: Some(difference.since), ..options };
        let nearer = replay(again()?, options, Some(difference.at), &arguments.images, watch)?;
        if let Some(nearer) = nearer.pair.difference() {
            difference = nearer.clone();
        }
    }
    let mut replayer = open::replayer(again()?, &arguments.images)?;
    let mut machine = open::machine(&mut replayer, &arguments.images)?;
    machine.set_tuning(options.tunings[0]);
    let until = ReplayOptions { until: Some(difference.since), unverified: true };
    replayer.run(&mut machine, &until, watch)?;
    let narrowed = narrow(&run.config, &machine, &difference, &options).map_err(no_room)?;
    let at = narrowed.as_ref().map_or(difference.at, |narrowed| narrowed.at);
    let instructions = instructions_before(&mut machine, at);
    Ok(Found { difference, narrowed, instructions })
}

/// The instructions before a position, as a machine that stands before it runs them.
fn instructions_before(machine: &mut Machine, at: Position) -> Vec<String> {
    pair::advance(machine, Position(at.0.saturating_sub(SHOWN)), None);
    let mut lines = Vec::new();
    while machine.position() < at {
        let here = machine.position();
        lines.push(instructions::current(machine));
        pair::advance(machine, Position(here.0 + 1), None);
        if machine.position() == here {
            break;
        }
    }
    lines
}

fn differs(name: &str, found: Found) -> Outcome {
    let Found { difference, narrowed, instructions } = found;
    let Difference { since, at, memory: _, what } = &difference;
    let place = match &narrowed {
        Some(narrowed) => format!("first at position {}", narrowed.at),
        None => format!(
            "between positions {since} and {at} (run again from {since}, they do not differ)"
        ),
    };
    let shown = narrowed.as_ref().map_or(what, |narrowed| &narrowed.what);
    let mut text = format!("interpreter and translator differ, {place}; interpreter's value first");
    for line in shown {
        text.push_str(&format!("\n  {line}"));
    }
    if !instructions.is_empty() {
        text.push_str("\nthe instructions before:");
        for line in &instructions {
            text.push_str(&format!("\n  {line}"));
        }
    }
    let mut failure = Failure::new(Exit::Divergence, text).about(name);
    let json = json!({
        "result": "differ",
        "file": name,
        "exit_code": Exit::Divergence.code(),
        "error": format!("interpreter and translator differ, {place}"),
        "equal_at": since.0,
        "different_at": at.0,
        "first_at": narrowed.as_ref().map(|narrowed| narrowed.at.0),
        "what": shown,
        "instructions": instructions,
    });
    failure.divergence = None;
    Outcome { json, failure: Some(failure) }
}

/// A mistake for tests: a position, or one with `,memory` behind it.
pub fn mistake(text: &str) -> Result<Mistake, String> {
    let (position, kind) = text.split_once(',').unwrap_or((text, "register"));
    let at = Position(position.parse().map_err(|_| "not a position".to_owned())?);
    match kind {
        "register" => Ok(Mistake::Register(at)),
        "memory" => Ok(Mistake::Memory(at)),
        _ => Err("a mistake is made in a register or in memory".into()),
    }
}
