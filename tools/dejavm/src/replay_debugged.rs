//! `dejavm replay --gdb`: a recording under a debugger.

use crate::Outcome;
use crate::arguments::Replay;
use crate::branching::Branching;
use crate::debugger::{Address, Left, Listener, serve};
use crate::exit::{Exit, Failure};
use crate::open;
use crate::view::{VIEW_ONLY, View};
use crate::world::stop_on_signals;
use dejavm_cpu::Stops;
use dejavm_replay::{Replayer, Timeline, TimelineOptions, add_mark};
use dejavm_stub::{Direction, Layout, Options, Refusal, Replaying, Resume, Target};
use dejavm_units::GuestNs;
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Serves debuggers, one after the other, until one kills the replay or the user ends it.
pub fn run(arguments: &Replay, address: &Address) -> Result<Outcome, Failure> {
    let (file, name) = open::file(arguments.file.as_deref())?;
    let stop = stop_on_signals().map_err(|error| {
        Failure::new(Exit::Environment, format!("signals cannot be handled: {error}"))
    })?;
    let about = |failure: Failure| failure.about(&name);
    let target = open_target(file, arguments, &stop).map_err(about)?;
    let view = arguments
        .vnc
        .as_ref()
        .map(|address| View::open(address, target.timeline().machine(), &name, VIEW_ONLY));
    let mut target = Branching::new(target, Path::new(&name), Arc::clone(&stop))
        .with_images(&arguments.images)
        .with_view(view.transpose()?);
    let bits_64 = match arguments.gdb_bits.as_deref() {
        Some(bits) => bits == "64",
        None => target.is_64_bit(),
    };
    let layout = if bits_64 { Layout::Bits64 } else { Layout::Bits32 };
    let options = Options { layout: Some(layout), ..Options::default() };
    let listener = Listener::open(address, bits_64)?;
    listener.announce();
    let mut sessions = 0u64;
    while let Some(connection) = listener.wait(&stop) {
        sessions += 1;
        match serve(&mut target, connection, options.clone(), &stop) {
            // The machine stays where it is; another debugger finds it there.
            Left::Lost => eprintln!("dejavm: the debugger is gone; another may come"),
            Left::Detached => {
                eprintln!("dejavm: the debugger has left; the replay goes on, another may come");
                let result = run_free(&mut target, &listener, &stop);
                if let Err(refusal) = result {
                    eprintln!("dejavm: {name}: {refusal}");
                }
            }
            Left::Killed | Left::Stopped => break,
        }
    }
    if let Err(refusal) = target.leave() {
        eprintln!("dejavm: {refusal}");
    }
    let at = target.replaying().timeline().now();
    eprintln!("dejavm: {name}: the replay was ended at {at}");
    let value = json!({
        "result": "debugged",
        "file": name,
        "position": at.position.0,
        "guest_ns": at.guest_ns.0,
        "debug_target": listener.target(),
        "debug_sessions": sessions,
    });
    Ok(Outcome::ok(value))
}

fn open_target(
    file: File,
    arguments: &Replay,
    stop: &Arc<AtomicBool>,
) -> Result<Replaying<File>, Failure> {
    let by_exits = Replayer::open(file.try_clone().map_err(|error| {
        Failure::new(Exit::Environment, format!("the file cannot be opened twice: {error}"))
    })?)?
    .header()
    .positions_are_exits();
    let mut replayer = open::replayer(file, &arguments.images)?;
    let mut machine = open::machine(&mut replayer, &arguments.images)?;
    machine.set_tuning(arguments.tuning.tuning());
    let timeline = Timeline::new(replayer, machine, TimelineOptions::default())?;
    let mut target = Replaying::new(timeline)?;
    target.set_pacer(Box::new(pacer(Arc::clone(stop))));
    // Its positions are not those of the file.
    if let Some(path) = arguments.file.clone().filter(|_| !by_exits) {
        target.set_mark_keeper(Box::new(move |mark| {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|error| format!("the recording cannot be changed: {error}"))?;
            add_mark(&file, mark).map_err(|error| error.to_string())
        }));
    }
    Ok(target)
}

/// To the end, or until a debugger comes.
fn run_free(
    target: &mut dyn Target,
    listener: &Listener,
    stop: &AtomicBool,
) -> Result<(), Refusal> {
    let stops = Stops::default();
    let resume = Resume { direction: Direction::Forward, until: None, stops: &stops };
    let mut interrupted = || stop.load(Ordering::Relaxed) || listener.has_client();
    target.resume(&resume, &mut |_, _| true, &mut interrupted).map(drop)
}

/// Waits so that a guest second takes `pace` milliseconds; 0: as fast as it goes.
fn pacer(stop: Arc<AtomicBool>) -> impl FnMut(GuestNs, u32) {
    /// No wait is longer: it could not be interrupted.
    const WAIT_MAX: Duration = Duration::from_millis(100);
    let mut since: Option<(GuestNs, Instant, u32)> = None;
    move |now, pace| {
        let Some((from, begun, _)) = since.filter(|(from, _, of)| *of == pace && *from <= now)
        else {
            since = Some((now, Instant::now(), pace));
            return;
        };
        let guest = Duration::from_nanos(now.0.saturating_sub(from.0));
        let due = guest.saturating_mul(pace) / 1000;
        let passed = begun.elapsed();
        if due > passed && !stop.load(Ordering::Relaxed) {
            thread::park_timeout((due - passed).min(WAIT_MAX));
        }
        // What could not be waited for at once, or was spent elsewhere, is let go.
        if due.abs_diff(passed) > WAIT_MAX {
            since = Some((now, Instant::now(), pace));
        }
    }
}
