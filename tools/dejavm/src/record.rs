//! `dejavm record`.

use crate::Outcome;
use crate::arguments::{Record, Recording};
use crate::commit;
use crate::disks::{self, Disks, Images};
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::firmware;
use crate::kvm;
use crate::progress::rate;
use crate::recording::{checkpoints, going_on, live, packed_if_wanted, refuse_to_overwrite};
use crate::snapshot::Restored;
use crate::vmx::{Told, Vmx};
use dejavm_cpu::control;
use dejavm_machine::{Boot, BootError, End, Machine, MachineConfig, Module, OnReset, TimeBase};
use dejavm_memory::RamLayout;
use dejavm_replay::{
    CheckpointPolicy, Ending, External, Header, RecordOptions, Recorded, SEMANTICS,
};
use dejavm_units::Position;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name and version of this program, for recordings.
pub const CREATOR: &str = concat!("dejavm ", env!("CARGO_PKG_VERSION"));

/// Exits between two digests at most: some hundred milliseconds.
const DIGEST_INTERVAL_EXITS: u64 = 100_000;

/// RAM of machines of which nobody says more.
const RAM_BYTES: u64 = 512 << 20;

/// The command line, completed by the `.vmx` file that it names.
fn described(arguments: &Record) -> Result<Record, Failure> {
    let mut arguments = arguments.clone();
    let Some(path) = arguments.vmx.clone() else { return Ok(arguments) };
    let shown = name(&path);
    let text = read(&path, "the machine's description")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let Told { mapped, ignored } = Vmx::parse(&text, folder)
        .and_then(|vmx| vmx.fill(&mut arguments))
        .map_err(|failure| failure.about(&shown))?;
    if !mapped.is_empty() {
        eprintln!("dejavm: {shown}: {}", mapped.join("; "));
    }
    if !ignored.is_empty() {
        eprintln!("dejavm: {shown}: keys without a meaning here: {}", ignored.join(", "));
    }
    Ok(arguments)
}

/// Records until the guest ends or the user stops it.
pub fn run(arguments: &Record) -> Result<Outcome, Failure> {
    if let Some(checkpoint) = &arguments.from {
        return go_on(checkpoint, &arguments.recording);
    }
    let arguments = &described(arguments)?;
    let recording = &arguments.recording;
    if arguments.disk_commit {
        commit::check(&disks::all(arguments))?;
    }
    refuse_to_overwrite(recording, &[arguments.kernel.as_ref(), arguments.initrd.as_ref()])?;
    let kernel = match &arguments.kernel {
        Some(path) => read(path, "the kernel")?,
        None => Vec::new(),
    };
    let initrd = arguments.initrd.as_deref().map(|path| read(path, "the initial RAM disk"));
    let initrd = initrd.transpose()?;
    let rtc_epoch_s = arguments.rtc_epoch.unwrap_or_else(host_seconds);
    let ram = match arguments.memory {
        Some(ram) => ram,
        None => RamLayout::new(RAM_BYTES).expect("a constant that fits"),
    };
    let mut config = MachineConfig { cpu: arguments.cpu, rtc_epoch_s, ..MachineConfig::new(ram) };
    arguments.processors.fill(&mut config.hardware);
    if recording.tuning.engine == Engine::Kvm {
        arguments.processors.only_one_on_kvm()?;
    }
    if let Some(bios) = &arguments.bios {
        only_by_software(recording, "a machine starts with firmware")?;
        config.hardware.firmware = Some(firmware::read(bios, arguments.video_bios.as_deref())?);
        if !arguments.no_reboot {
            config.hardware.on_reset = OnReset::Restarts;
        }
    }
    let wants_display = arguments.display || recording.vnc.is_some();
    config.hardware.display = wants_display || arguments.bios.is_some();
    let tier = kvm::tier(recording.tuning.engine)?;
    if tier.is_some() {
        config.time_base = TimeBase::Exits;
        config.cpu = kvm::model(config.cpu);
    }
    let Disks { storages, mut externals } =
        disks::attach(&disks::all(arguments), &mut config.hardware)?;
    if recording.pack && storages.is_empty() {
        return Err(Failure::new(Exit::Usage, "--pack: there is no disk"));
    }
    recording.network.attach(&mut config.hardware);
    recording.serial.attach(&mut config.hardware)?;
    arguments.entropy.attach(&mut config.hardware)?;
    let boot = Boot { image: &kernel, initrd: initrd.as_deref(), cmdline: &arguments.append };
    let contents = arguments.module.iter().map(|path| read(path, "the module"));
    let contents = contents.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = arguments.module.iter().map(|path| name(path)).collect();
    let modules: Vec<Module<'_>> =
        contents.iter().zip(&names).map(|(bytes, cmdline)| Module { bytes, cmdline }).collect();
    let machine = match config.hardware.firmware {
        Some(_) => Machine::power_on(&config),
        None => Machine::boot_with_modules(&config, &boot, &modules),
    };
    let mut machine = machine.map_err(|error| refused(arguments, &error))?;
    machine.set_storages(storages);
    if wants_display && arguments.bios.is_none() {
        machine.set_text_mode(&firmware::video_rom(arguments.video_bios.as_deref())?);
    }
    machine.set_tuning(recording.tuning.tuning());
    if let Some(tier) = tier {
        kvm::put(&mut machine, &config, true)?;
        eprintln!("dejavm: KVM executes, and a replay is {tier}; one that differs is found out");
    }
    kvm::put_steps(&mut machine, &config, recording.tuning.engine)?;
    let bits_64 = machine.cpu_state().efer & control::EFER_LMA != 0 || is_elf_64(&kernel);
    if arguments.external {
        externals.push(external("kernel", kernel_path(arguments), &kernel)?);
        if let (Some(path), Some(contents)) = (&arguments.initrd, &initrd) {
            externals.push(external("initrd", path, contents)?);
        }
    }
    let options = RecordOptions {
        header: header(config, arguments, tier),
        externals,
        embed_pages: !arguments.external,
        until: recording.until.map(Position),
        // Nobody stands in a recording of KVM's: it is transcribed first.
        checkpoints: if tier.is_some() { CheckpointPolicy::NONE } else { checkpoints(recording) },
        parent: None,
    };
    drop((kernel, initrd));

    let recorded = live(recording, machine, &options, bits_64)?;
    let outcome = packed_if_wanted(recording, &Images::default(), recorded)?;
    if arguments.disk_commit {
        commit::commit(&recording.output)?;
    }
    Ok(outcome)
}

/// Records a machine that goes on from a checkpoint.
fn go_on(checkpoint: &PathBuf, recording: &Recording) -> Result<Outcome, Failure> {
    refuse_to_overwrite(recording, &[Some(checkpoint)])?;
    only_by_software(recording, "a machine goes on from a checkpoint")?;
    let Restored { mut machine, header, images } = Restored::from_file(checkpoint)?;
    machine.set_tuning(recording.tuning.tuning());
    let options = going_on(recording, header, None, images);
    let bits_64 = machine.cpu_state().efer & control::EFER_LMA != 0;
    eprintln!(
        "dejavm: {}: the machine goes on from position {}",
        name(checkpoint),
        machine.position()
    );
    live(recording, machine, &options, bits_64)
}

/// Refuses KVM where instructions are counted.
pub fn only_by_software(recording: &Recording, what: &str) -> Result<(), Failure> {
    match recording.tuning.engine {
        Engine::Kvm | Engine::KvmSteps => {
            let sentence = format!("--engine kvm: {what} by software only; leave the option out");
            Err(Failure::new(Exit::Usage, sentence))
        }
        Engine::Auto | Engine::Soft | Engine::Interpreter | Engine::Reference => Ok(()),
    }
}

/// The kernel to boot.
fn kernel_path(arguments: &Record) -> &Path {
    arguments.kernel.as_deref().expect("the command line has a kernel, or a checkpoint")
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
        Ending::Guest(End::EngineFailed) => "engine-failed",
        Ending::Stopped => "stopped",
    }
}

/// The value that the guest left by the debug exit port.
pub fn debug_exit(ending: Ending) -> Option<u32> {
    match ending {
        Ending::Guest(End::DebugExit(value)) => Some(value),
        Ending::Guest(
            End::PowerOff
            | End::Reset
            | End::TripleFault
            | End::Livelock
            | End::HaltedForever
            | End::EngineFailed,
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
        Ending::Guest(End::EngineFailed) => "the engine could not go on".into(),
        Ending::Stopped => "stopped".into(),
    }
}

/// A path for people.
pub fn name(path: &Path) -> String {
    path.display().to_string()
}

fn header(config: MachineConfig, arguments: &Record, tier: Option<&str>) -> Header {
    let image = arguments.bios.as_deref().map(|bios| ("firmware", bios));
    let (role, path) = image.unwrap_or_else(|| ("kernel", kernel_path(arguments)));
    let mut guest = vec![(role.to_owned(), name(path))];
    if let Some(initrd) = &arguments.initrd {
        guest.push(("initrd".into(), name(initrd)));
    }
    for module in &arguments.module {
        guest.push(("module".into(), name(module)));
    }
    if arguments.bios.is_none() {
        guest.push(("append".into(), arguments.append.clone()));
    }
    let mut digest_interval = arguments.recording.digest_interval;
    if let Some(tier) = tier {
        guest.push(("engine".into(), "kvm".into()));
        guest.push(("tier".into(), tier.into()));
        digest_interval = digest_interval.min(DIGEST_INTERVAL_EXITS);
    }
    let creator = CREATOR.into();
    let mut header = Header { creator, semantics: SEMANTICS, config, guest, digest_interval };
    header.set_positions_are_exits(tier.is_some());
    header
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
    let kernel = arguments.kernel.as_deref().map(name).unwrap_or_default();
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
        BootError::NoModules => Failure::new(Exit::Usage, error.to_string()).about("--module"),
        BootError::CmdlineTooLong { .. } | BootError::CmdlineHasZero => {
            Failure::new(Exit::Usage, error.to_string()).about("--append")
        }
        BootError::Config(_) => Failure::new(Exit::Usage, error.to_string()),
        BootError::Ram(_) => {
            Failure::new(Exit::Environment, format!("{error}: give the machine less RAM with -m"))
        }
    }
}
