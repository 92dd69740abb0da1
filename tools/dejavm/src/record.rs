//! `dejavm record`.

use crate::Outcome;
use crate::arguments::{IdlePolicy, LiveGdb, Record};
use crate::console::Console;
use crate::debugger::Listener;
use crate::exit::{Exit, Failure};
use crate::live::{Debugging, Live};
use crate::progress::{Meter, rate, seconds, size};
use crate::terminal::{RawTerminal, read_stdin};
use crate::world::{HostWorld, stop_on_signals};
use dejavm_cpu::control;
use dejavm_machine::{Boot, BootError, End, Machine, MachineConfig};
use dejavm_replay::{
    CheckpointInterval, CheckpointPolicy, Ending, External, Header, RecordOptions, Recorded,
    Recorder, SEMANTICS,
};
use dejavm_units::Position;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Name and version of this program, for recordings.
pub const CREATOR: &str = concat!("dejavm ", env!("CARGO_PKG_VERSION"));

/// Records until the guest ends or the user stops it.
pub fn run(arguments: &Record) -> Result<Outcome, Failure> {
    refuse_to_overwrite(arguments)?;
    let kernel = read(&arguments.kernel, "the kernel")?;
    let initrd = arguments.initrd.as_deref().map(|path| read(path, "the initial RAM disk"));
    let initrd = initrd.transpose()?;
    let rtc_epoch_s = arguments.rtc_epoch.unwrap_or_else(host_seconds);
    let config =
        MachineConfig { cpu: arguments.cpu, rtc_epoch_s, ..MachineConfig::new(arguments.memory) };
    let boot = Boot { image: &kernel, initrd: initrd.as_deref(), cmdline: &arguments.append };
    let machine = Machine::boot(&config, &boot).map_err(|error| refused(arguments, &error))?;
    let bits_64 = machine.cpu_state().efer & control::EFER_LMA != 0 || is_elf_64(&kernel);
    let mut externals = Vec::new();
    if arguments.external {
        externals.push(external("kernel", &arguments.kernel, &kernel)?);
        if let (Some(path), Some(contents)) = (&arguments.initrd, &initrd) {
            externals.push(external("initrd", path, contents)?);
        }
    }
    let options = RecordOptions {
        header: header(config, arguments),
        externals,
        embed_pages: !arguments.external,
        until: arguments.until.map(Position),
        checkpoints: checkpoints(arguments),
        parent: None,
    };
    drop((kernel, initrd));

    let mut console = Console::new(arguments.report.console.as_deref(), arguments.report.json)?;
    let typed = io::stdin().is_terminal();
    let idle = arguments.idle.unwrap_or(match typed {
        true => IdlePolicy::Realtime,
        false => IdlePolicy::Skip,
    });
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let debugging = debugging(&arguments.gdb, bits_64)?;
    let sink = create(arguments)?;

    let console_on_terminal =
        arguments.report.console.is_none() && (arguments.report.json || io::stdout().is_terminal());
    let mut meter = Meter::new(arguments.report.progress, console_on_terminal);
    let input = read_stdin(typed, stop.clone());
    let result = {
        let _raw = RawTerminal::enter();
        let world = HostWorld::new(input, Arc::clone(&stop), idle, &mut console, &mut meter);
        Recorder::new(machine, sink, &options).and_then(|recorder| {
            Live::new(recorder, world, name(&arguments.output)).run(debugging.as_ref(), &stop)
        })
    };
    meter.finish();
    let recorded = result.map_err(|error| Failure::from(error).about(&name(&arguments.output)))?;
    let time = meter.seconds();
    eprintln!(
        "dejavm: {}: {}; {} instructions, guest time {}, {:.0} M/s; {}, of which log {}",
        name(&arguments.output),
        ending_text(recorded.ending),
        recorded.at.position,
        seconds(recorded.at),
        rate(recorded.at.position.0, time),
        size(recorded.file_bytes),
        size(recorded.log_bytes),
    );
    let mut value = recorded_json(&recorded, time);
    value["file"] = json!(name(&arguments.output));
    Ok(Outcome { json: value, failure: console.check().err() })
}

/// Starts to listen for debuggers, if the user wants any.
pub fn debugging(arguments: &LiveGdb, bits_64: bool) -> Result<Option<Debugging>, Failure> {
    let Some(address) = &arguments.gdb else { return Ok(None) };
    let bits_64 = arguments.gdb_bits.as_deref().map_or(bits_64, |bits| bits == "64");
    let listener = Listener::open(address, bits_64)?;
    listener.announce();
    Ok(Some(Debugging { listener, wait: arguments.gdb_wait, bits_64 }))
}

/// An ELF image for 64-bit mode, even if it starts in another.
fn is_elf_64(kernel: &[u8]) -> bool {
    kernel.starts_with(b"\x7fELF\x02")
}

/// A recording's result for programs.
pub fn recorded_json(recorded: &Recorded, seconds: f64) -> Value {
    json!({
        "result": "recorded",
        "ending": ending_name(recorded.ending),
        "debug_exit": debug_exit(recorded.ending),
        "position": recorded.at.position.0,
        "instructions": recorded.at.position.0,
        "guest_ns": recorded.at.guest_ns.0,
        "console_bytes": recorded.console_bytes,
        "console_hash": recorded.console.to_string(),
        "machine_hash": recorded.digest.machine.to_string(),
        "memory_hash": recorded.digest.memory.to_string(),
        "file_bytes": recorded.file_bytes,
        "log_bytes": recorded.log_bytes,
        "seconds": seconds,
        "million_instructions_per_second": rate(recorded.at.position.0, seconds),
    })
}

/// An ending, for programs.
pub fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::Guest(End::PowerOff) => "power-off",
        Ending::Guest(End::Reset) => "reset",
        Ending::Guest(End::DebugExit(_)) => "debug-exit",
        Ending::Guest(End::TripleFault) => "triple-fault",
        Ending::Guest(End::Livelock) => "livelock",
        Ending::Guest(End::HaltedForever) => "halted",
        Ending::Stopped => "stopped",
    }
}

/// The value that the guest left by the debug exit port.
pub fn debug_exit(ending: Ending) -> Option<u32> {
    match ending {
        Ending::Guest(End::DebugExit(value)) => Some(value),
        Ending::Guest(
            End::PowerOff | End::Reset | End::TripleFault | End::Livelock | End::HaltedForever,
        )
        | Ending::Stopped => None,
    }
}

/// An ending, for people.
pub fn ending_text(ending: Ending) -> String {
    match ending {
        Ending::Guest(End::PowerOff) => "the guest switched the power off".into(),
        Ending::Guest(End::Reset) => "the guest reset the machine".into(),
        Ending::Guest(End::DebugExit(value)) => {
            format!("the guest left by the debug exit port with {value:#x}")
        }
        Ending::Guest(End::TripleFault) => "the guest died of a triple fault".into(),
        Ending::Guest(End::Livelock) => {
            "the guest hangs in interrupts or exceptions that never let an instruction complete"
                .into()
        }
        Ending::Guest(End::HaltedForever) => "the guest halted for ever".into(),
        Ending::Stopped => "stopped".into(),
    }
}

/// A path for people.
pub fn name(path: &Path) -> String {
    path.display().to_string()
}

fn header(config: MachineConfig, arguments: &Record) -> Header {
    let mut guest = vec![("kernel".to_owned(), name(&arguments.kernel))];
    if let Some(initrd) = &arguments.initrd {
        guest.push(("initrd".into(), name(initrd)));
    }
    guest.push(("append".into(), arguments.append.clone()));
    Header {
        creator: CREATOR.into(),
        semantics: SEMANTICS,
        config,
        guest,
        digest_interval: arguments.digest_interval,
    }
}

fn checkpoints(arguments: &Record) -> CheckpointPolicy {
    let interval = match arguments.checkpoint_interval {
        None => CheckpointInterval::Affordable,
        Some(0) => CheckpointInterval::Never,
        Some(instructions) => CheckpointInterval::Every(instructions),
    };
    CheckpointPolicy { interval, file_bytes: arguments.checkpoint_size }
}

fn host_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads a file whole.
pub fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: {what} cannot be read: {error}", path.display()))
    })
}

fn external(role: &str, path: &Path, contents: &[u8]) -> Result<External, Failure> {
    let absolute = path.canonicalize().map_err(|error| {
        Failure::new(Exit::Failed, format!("{}: its path cannot be found: {error}", path.display()))
    })?;
    let Some(path) = absolute.to_str() else {
        let sentence = format!(
            "{}: the path is not UTF-8, so a recording cannot refer to it: leave out --external",
            absolute.display()
        );
        return Err(Failure::new(Exit::Failed, sentence));
    };
    Ok(External {
        role: role.into(),
        path: path.into(),
        bytes: contents.len() as u64,
        blake3: *blake3::hash(contents).as_bytes(),
    })
}

/// Says which file made the machine impossible.
fn refused(arguments: &Record, error: &BootError) -> Failure {
    let initrd = || arguments.initrd.as_deref().map(name).unwrap_or_default();
    let kernel = name(&arguments.kernel);
    match error {
        BootError::NotAKernel | BootError::BadImage(_) | BootError::OldProtocol { .. } => {
            Failure::new(Exit::Failed, error.to_string()).about(&kernel)
        }
        BootError::NeedsLongMode => {
            Failure::new(Exit::Failed, format!("{error}: use --cpu dejavm-v2")).about(&kernel)
        }
        BootError::KernelTooLarge { .. } | BootError::Outside(_) => {
            Failure::new(Exit::Failed, format!("{error}: give the machine more RAM with -m"))
                .about(&kernel)
        }
        BootError::InitrdTooLarge { .. } => {
            Failure::new(Exit::Failed, format!("{error}: give the machine more RAM with -m"))
                .about(&initrd())
        }
        BootError::CmdlineTooLong { .. } | BootError::CmdlineHasZero => {
            Failure::new(Exit::Usage, error.to_string()).about("--append")
        }
        BootError::Config(_) => Failure::new(Exit::Usage, error.to_string()),
        BootError::Ram(_) => {
            Failure::new(Exit::Environment, format!("{error}: give the machine less RAM with -m"))
        }
    }
}

/// Refuses an output that exists, before any work is done.
fn refuse_to_overwrite(arguments: &Record) -> Result<(), Failure> {
    let output = &arguments.output;
    let Ok(there) = output.metadata() else { return Ok(()) };
    if there.is_dir() {
        let sentence = format!("{}: this is a folder; name a file in it", output.display());
        return Err(Failure::new(Exit::Failed, sentence));
    }
    if !arguments.force {
        let sentence = format!(
            "{}: the file exists; choose another name, or overwrite it with --force",
            output.display()
        );
        return Err(Failure::new(Exit::Failed, sentence));
    }
    let inputs =
        [Some(&arguments.kernel), arguments.initrd.as_ref(), arguments.report.console.as_ref()];
    for input in inputs.into_iter().flatten() {
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
fn create(arguments: &Record) -> Result<File, Failure> {
    let mut how = OpenOptions::new();
    how.write(true);
    match arguments.force {
        true => how.create(true).truncate(true),
        false => how.create_new(true),
    };
    how.open(&arguments.output).map_err(|error| {
        let name = arguments.output.display();
        Failure::new(Exit::Failed, format!("{name}: the recording cannot be made: {error}"))
    })
}
