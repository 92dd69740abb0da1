//! Recording a live machine, wherever it comes from: the files, the terminal, the signals.

use crate::Outcome;
use crate::arguments::{IdlePolicy, LiveGdb, Recording, Report};
use crate::console::Console;
use crate::debugger::Listener;
use crate::disks::{Images, images};
use crate::exit::{Exit, Failure};
use crate::live::{Debugging, Live};
use crate::pack::pack;
use crate::packing_thread;
use crate::progress::{Meter, rate, seconds, size};
use crate::record::{CREATOR, ending_text, name, recorded_json};
use crate::serial::Port;
use crate::terminal::{RawTerminal, Wishes, read_stdin};
use crate::unrecorded;
use crate::view::{VIEW_ONLY, View};
use crate::world::{HostWorld, snapshot_on_signal, stop_on_signals};
use crossbeam_channel::never;
use dejavm_machine::Machine;
use dejavm_replay::{
    CheckpointInterval, CheckpointPolicy, External, Header, Parent, RecordOptions, Recorder,
    SEMANTICS,
};
use dejavm_units::Position;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs and records a machine until it ends or the user stops it. `bits_64`: what gdb is to see.
pub fn live(
    recording: &Recording,
    mut machine: Machine,
    options: &RecordOptions,
    bits_64: bool,
) -> Result<Outcome, Failure> {
    console_has_a_port(&recording.report, recording.serial.stdio()?)?;
    let mut console = Console::new(recording.report.console.as_deref(), recording.report.json)?
        .with_debug(recording.report.debug_console.as_deref())?;
    let typed = io::stdin().is_terminal();
    let attended = typed
        || recording.network.is_any()
        || recording.vnc.is_some()
        || recording.serial.is_interactive()?;
    let idle = recording.idle.unwrap_or(match attended {
        true => IdlePolicy::Realtime,
        false => IdlePolicy::Skip,
    });
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let snapshot = snapshot_on_signal().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let bits_64 = recording.gdb.gdb_bits.as_deref().map_or(bits_64, |bits| bits == "64");
    let debugging = debugging(&recording.gdb, bits_64)?;
    let packer = packing_thread::for_host().map_err(|error| {
        Failure::new(Exit::Environment, format!("a thread cannot be started: {error}"))
    })?;
    let network = recording.network.open(&options.header.config.hardware)?;
    let serial = recording.serial.open(&options.header.config.hardware)?;
    let shown_as = name(&recording.output);
    let view = recording.vnc.as_ref();
    let view =
        view.map(|address| View::open(address, &machine, &shown_as, !VIEW_ONLY)).transpose()?;
    let sink = match recording.no_log {
        true => None,
        false => Some(create(recording)?),
    };

    let console_on_terminal =
        recording.report.console.is_none() && (recording.report.json || io::stdout().is_terminal());
    let mut meter = Meter::new(recording.report.progress, console_on_terminal);
    let wishes = Wishes { stop: Arc::clone(&stop), snapshot: Arc::clone(&snapshot) };
    let input = match typed || serial.stdio.is_some() {
        true => read_stdin(typed, wishes),
        false => never(),
    };
    let result = {
        let _raw = RawTerminal::enter();
        let mut world = HostWorld::new(input, Arc::clone(&stop), idle, &mut console, &mut meter)
            .with_network(network)
            .with_serial(serial)
            .with_view(view);
        let Some(sink) = sink else {
            let (ending, at) = unrecorded::run(&mut machine, &mut world);
            eprintln!("dejavm: {}; {} instructions, no log", ending_text(ending), at.position);
            let value = json!({ "result": "ran", "instructions": at.position.0 });
            return Ok(Outcome { json: value, failure: console.check().err() });
        };
        Recorder::new(machine, sink, options).and_then(|recorder| {
            let recorder = match packer {
                Some(packer) => recorder.packed_by(Box::new(packer)),
                None => recorder,
            };
            let (path, header) = (recording.output.clone(), options.header.clone());
            Live::new(recorder, world, path, header, bits_64)
                .with_images(images(&options.externals))
                .snapshots_on(snapshot)
                .run(debugging.as_ref(), &stop)
        })
    };
    meter.finish();
    let recorded = result.map_err(|error| Failure::from(error).about(&name(&recording.output)))?;
    let time = meter.seconds();
    eprintln!(
        "dejavm: {}: {}; {} {}, guest time {}, {:.0} M/s; {}, of which log {}",
        name(&recording.output),
        ending_text(recorded.ending),
        recorded.at.position,
        counted(&options.header),
        seconds(recorded.at),
        rate(recorded.at.position.0, time),
        size(recorded.file_bytes),
        size(recorded.log_bytes),
    );
    let mut value = recorded_json(&recorded, time);
    value["positions"] = json!(counted(&options.header));
    value["file"] = json!(name(&recording.output));
    Ok(Outcome { json: value, failure: console.check().err() })
}

/// Refuses a file for a console that no port is.
pub fn console_has_a_port(report: &Report, port: Option<Port>) -> Result<(), Failure> {
    match &report.console {
        Some(_) if port.is_none() => {
            let sentence = "--console: no serial port is on stdio, whose file it would be; leave the option out, or say \
                            which port it is, as in --serial 1=stdio";
            Err(Failure::new(Exit::Usage, sentence))
        }
        _ => Ok(()),
    }
}

/// Packs a recording that is complete, if the user said so.
pub fn packed_if_wanted(
    recording: &Recording,
    images: &Images,
    mut outcome: Outcome,
) -> Result<Outcome, Failure> {
    if recording.pack {
        let output = &recording.output;
        let packed = pack(output, output, images).map_err(|failure| Failure {
            sentence: format!("{failure}; the recording is whole, and not packed"),
            ..failure
        })?;
        outcome.json["packed_blocks"] = json!(packed.blocks);
        outcome.json["file_bytes"] = json!(packed.file_bytes);
    }
    Ok(outcome)
}

/// What positions are.
pub fn counted(header: &Header) -> &'static str {
    if header.positions_are_exits() { "exits" } else { "instructions" }
}

/// Starts to listen for debuggers, if the user wants any.
fn debugging(arguments: &LiveGdb, bits_64: bool) -> Result<Option<Debugging>, Failure> {
    let Some(address) = &arguments.gdb else { return Ok(None) };
    let listener = Listener::open(address, bits_64)?;
    listener.announce();
    Ok(Some(Debugging { listener, wait: arguments.gdb_wait }))
}

/// How a machine is recorded that goes on from a recording or a checkpoint, whose header is given, and the images of whose drives.
pub fn going_on(
    recording: &Recording,
    header: Header,
    parent: Option<Parent>,
    externals: Vec<External>,
) -> RecordOptions {
    RecordOptions {
        header: Header {
            creator: CREATOR.into(),
            semantics: SEMANTICS,
            digest_interval: recording.digest_interval,
            ..header
        },
        externals,
        embed_pages: true,
        until: recording.until.map(Position),
        checkpoints: checkpoints(recording),
        parent,
    }
}

/// Checkpoints as the user wants them.
pub fn checkpoints(recording: &Recording) -> CheckpointPolicy {
    let interval = match recording.checkpoint_interval {
        None => CheckpointInterval::Affordable,
        Some(0) => CheckpointInterval::Never,
        Some(instructions) => CheckpointInterval::Every(instructions),
    };
    CheckpointPolicy { interval, file_bytes: recording.checkpoint_size }
}

/// Refuses an output that exists, before any work is done, and one of the files that are read, always.
pub fn refuse_to_overwrite(
    recording: &Recording,
    inputs: &[Option<&PathBuf>],
) -> Result<(), Failure> {
    let output = &recording.output;
    let Ok(there) = output.metadata() else { return Ok(()) };
    if there.is_dir() {
        let sentence = format!("{}: this is a folder; name a file in it", output.display());
        return Err(Failure::new(Exit::Failed, sentence));
    }
    if !recording.force {
        let sentence = format!(
            "{}: the file exists; choose another name, or overwrite it with --force",
            output.display()
        );
        return Err(Failure::new(Exit::Failed, sentence));
    }
    for input in inputs.iter().copied().chain([recording.report.console.as_ref()]).flatten() {
        let same = input
            .metadata()
            .is_ok_and(|input| (input.dev(), input.ino()) == (there.dev(), there.ino()));
        if same {
            let sentence = format!(
                "{}: the recording would overwrite {}; choose another name",
                output.display(),
                input.display()
            );
            return Err(Failure::new(Exit::Failed, sentence));
        }
    }
    Ok(())
}

/// Makes the output file: the last step before recording, when nothing else can go wrong.
fn create(recording: &Recording) -> Result<File, Failure> {
    let mut how = OpenOptions::new();
    how.write(true);
    match recording.force {
        true => how.create(true).truncate(true),
        false => how.create_new(true),
    };
    how.open(&recording.output).map_err(|error| {
        let name = recording.output.display();
        Failure::new(Exit::Failed, format!("{name}: the recording cannot be made: {error}"))
    })
}
