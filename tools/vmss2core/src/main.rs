//! `vmss2core`: core files of guests at rest, for gdb, crash, drgn, makedumpfile and others.
#![forbid(unsafe_code)]

mod meter;

use meter::Meter;
use serde_json::json;
use std::io::{self, Write};
use std::num::NonZero;
use std::process::ExitCode;
use vmss2core::{
    Command, Conversion, Error, Guest, Kind, Process, Progress, Request, USAGE, dump, processes,
};

/// It could not be done.
const FAILED: u8 = 1;
/// The command line makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = match Command::parse(&arguments) {
        Ok(command) => command,
        Err(sentence) => {
            eprintln!("vmss2core: {sentence}; without arguments it lists its options");
            return ExitCode::from(MISUSED);
        }
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("vmss2core: {sentence}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let written = match command {
        Command::Help => write!(out, "{USAGE}"),
        Command::Version => writeln!(out, "vmss2core {}", env!("CARGO_PKG_VERSION")),
        Command::Dump { state, json } => {
            dump(&state, json, &mut out).map_err(|error| format!("{}: {error}", state.display()))?
        }
        Command::Convert(request) => return convert(&request, &mut out),
    };
    written.map_err(|error| error.to_string())
}

fn convert(request: &Request, out: &mut impl Write) -> Result<(), String> {
    let guest = Guest::open(&request.input, request.memory.as_deref())
        .map_err(|error| error.to_string())?;
    let all = || std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let meter = Meter::new(request.quiet || request.json);
    guest.remarks.iter().for_each(|sentence| meter.remark(sentence));
    if let Kind::Processes(options) = &request.kind {
        let list = processes(&guest, options).map_err(|error| error.to_string())?;
        return show(&list, &meter, request.json, out).map_err(|error| error.to_string());
    }
    let conversion = Conversion {
        guest: &guest,
        output: request.output.as_deref(),
        threads: request.threads.unwrap_or_else(all),
        progress: &meter,
    };
    let made = conversion.make(&request.kind);
    meter.clear();
    if let (Err(Error::Interrupted), Some(signal)) = (&made, meter.signal()) {
        eprintln!("vmss2core: stopped by a signal; nothing was written");
        std::process::exit(128 + i32::from(signal));
    }
    let files = made.map_err(|error| error.to_string())?;
    let written = if request.json {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        writeln!(out, "{}", json!({ "files": names, "remarks": meter.remarks() }))
    } else if request.quiet {
        Ok(())
    } else {
        files.iter().try_for_each(|file| writeln!(out, "{}", file.display()))
    };
    written.map_err(|error| error.to_string())
}

/// The processes as `ps` would list them.
fn show(processes: &[Process], meter: &Meter, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let all = json!({ "processes": processes, "remarks": meter.remarks() });
        return writeln!(out, "{all:#}");
    }
    writeln!(out, "{:>7} S {:>7} {:>4}  {:<18} NAME", "PID", "THREADS", "CPU", "TASK")?;
    for process in processes {
        let Process { pid, state, threads, comm, task, .. } = process;
        let cpu = process.cpu.map_or("?".to_owned(), |cpu| cpu.to_string());
        // As ps marks threads of the kernel, and crash what runs.
        let name = if process.is_kernel { format!("[{comm}]") } else { comm.clone() };
        let cpu = if process.vcpu.is_some() { format!(">{cpu}") } else { cpu };
        writeln!(out, "{pid:>7} {state} {threads:>7} {cpu:>4}  {task:#018x} {name}")?;
    }
    Ok(())
}
