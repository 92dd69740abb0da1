//! How long a debugger waits: reverse steps, reverse runs and seeks in a recorded boot, ours beside
//! QEMU's, whose only restore point is the `rrsnapshot` of its start.

use crate::report::median;
use crate::rsp::Debugger;
use crate::subject::{Guest, Programs, Verb};
use crate::{child, create};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Random places in our recording.
const PLACES: u64 = 40;
/// Reverse steps of QEMU: each replays from the start.
const PEER_STEPS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(20);
/// A reply of QEMU's that takes longer does not come.
const PEER_PATIENCE: Duration = Duration::from_secs(180);

/// Seconds of each operation, as often as it was done.
#[derive(Default)]
struct Waits {
    reverse_step: Vec<f64>,
    reverse_continue: Vec<f64>,
    seek: Vec<f64>,
}

/// What was found out.
pub struct Debugging {
    qemu: Waits,
    dejavm: Waits,
    /// Wall seconds of recording with checkpoints over without, minus 1.
    checkpoint_cost: f64,
    /// Bytes of the file with checkpoints over without, minus 1.
    checkpoint_bytes: f64,
    /// What QEMU could not do.
    pub peer_failure: Option<String>,
}

/// A program with a stub, killed when dropped.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is left to do about a child that cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures both programs.
pub fn measure(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
) -> Result<Debugging, String> {
    let mut peer = Waits::default();
    let peer_failure = qemu(programs, guest, work, limit, &mut peer).err();
    let (dejavm, checkpoint_cost, checkpoint_bytes) =
        dejavm(programs, guest, work, limit).map_err(|e| format!("dejavm: {e}"))?;
    Ok(Debugging { qemu: peer, dejavm, checkpoint_cost, checkpoint_bytes, peer_failure })
}

/// What QEMU did goes into `waits` as it is done: its stub hangs at times.
fn qemu(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
    waits: &mut Waits,
) -> Result<(), String> {
    let disk = work.join("qemu-debug.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("64M")
        .status()
        .map_err(|error| format!("cannot run qemu-img: {error}"))?;
    if !made.success() {
        return Err(format!("qemu-img could not create {}", disk.display()));
    }
    let command = |verb, console: &str| {
        let log = work.join("qemu-debug.rr");
        let mut command = programs.qemu(verb, ",rrsnapshot=init", guest, &log);
        command
            .arg("-drive")
            .arg(format!("file={},if=none,id=rr", disk.display()))
            .arg("-serial")
            .arg(format!("file:{}", work.join(console).display()));
        command
    };
    let log = work.join("qemu-debug.stderr");
    let null = || create(Path::new("/dev/null").to_owned());
    child::run(
        &mut command(Verb::Record, "qemu-debug-record.console"),
        null()?,
        create(log)?,
        limit,
    )?;
    let replay = command(Verb::Replay, "qemu-debug.console");
    let (_server, mut debugger) = serve_qemu(replay, limit.min(PEER_PATIENCE))?;
    debugger.run_for(Duration::from_secs(4))?;
    let earlier = debugger.instruction_pointer()?;
    debugger.run_for(Duration::from_secs(2))?;
    for _ in 0..PEER_STEPS {
        waits.reverse_step.push(debugger.time_stop("bs")?);
    }
    debugger.ask(&format!("Z0,{earlier:x},1"))?;
    waits.reverse_continue.push(debugger.time_stop("bc")?);
    Ok(())
}

fn dejavm(
    programs: &Programs,
    guest: &Guest,
    work: &Path,
    limit: Duration,
) -> Result<(Waits, f64, f64), String> {
    let record = |name: &str, interval: &[&str]| {
        let file = work.join(name);
        let mut command = programs.dejavm_record(guest, &file);
        command.args(interval);
        let null = create(Path::new("/dev/null").to_owned())?;
        let cost =
            child::run(&mut command, null, create(work.join("dejavm-debug.stderr"))?, limit)?;
        let bytes = std::fs::metadata(&file).map_err(|error| error.to_string())?.len();
        Ok::<_, String>((cost.cpu_seconds, bytes as f64))
    };
    // Alternating, and compared by processor time, of which noise is the smaller part.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        without.push(record("dejavm-bare.dvr", &["--checkpoint-interval", "0"])?);
        with.push(record("dejavm-debug.dvr", &[])?);
    }
    let ratio = |of: fn(&(f64, f64)) -> f64| {
        let middle = |runs: &[(f64, f64)]| median(runs.iter().map(of)).unwrap_or(f64::NAN);
        middle(&with) / middle(&without) - 1.0
    };
    let (cost, bytes) = (ratio(|run| run.0), ratio(|run| run.1));
    let recording = work.join("dejavm-debug.dvr");
    let (_server, mut debugger) = serve_recording(programs, &recording, limit)?;
    let end = end_of(programs, &recording)?;
    let mut waits = Waits::default();
    // The same places each time; far apart, in no order.
    let place = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % end;
    let mut earlier = None;
    for n in 0..PLACES {
        waits.seek.push(debugger.monitor(&format!("goto {}", place(n)))?.0);
        waits.reverse_step.push(debugger.time_stop("bs")?);
        if n % 8 == 7 {
            let at = debugger.instruction_pointer()?;
            if let Some(earlier) = earlier.replace(at) {
                debugger.ask(&format!("Z0,{earlier:x},1"))?;
                waits.reverse_continue.push(debugger.time_stop("bc")?);
                debugger.ask(&format!("z0,{earlier:x},1"))?;
            }
        }
    }
    Ok((waits, cost, bytes))
}

/// Our stub over a recording, and a connection to it.
pub fn serve_recording(
    programs: &Programs,
    recording: &Path,
    limit: Duration,
) -> Result<(Server, Debugger), String> {
    let mut child = Command::new(&programs.dejavm)
        .arg("replay")
        .arg(recording)
        // At the usual port or the next free one: it says which.
        .arg("--gdb")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run it: {error}"))?;
    let messages = child.stderr.take().expect("it was asked for");
    let server = Server(child);
    let mut lines = BufReader::new(messages).lines();
    let port = lines
        .find_map(|line| {
            let line = line.ok()?;
            let number = line.split("debug connection on port ").nth(1)?;
            number.trim_end_matches('.').parse().ok()
        })
        .ok_or("it ended without listening")?;
    // Whatever else it says must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((server, Debugger::connect(port, PATIENCE, limit)?))
}

/// QEMU, stopped before its first instruction, and a connection to its stub.
pub fn serve_qemu(mut command: Command, limit: Duration) -> Result<(Server, Debugger), String> {
    // One that is free now: nobody else's stub must answer.
    let port = TcpListener::bind(("127.0.0.1", 0))
        .and_then(|free| free.local_addr())
        .map_err(|error| format!("no free port: {error}"))?
        .port();
    let child = command
        .args(["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run it: {error}"))?;
    let server = Server(child);
    Ok((server, Debugger::connect(port, PATIENCE, limit)?))
}

/// The last position of a recording.
pub fn end_of(programs: &Programs, recording: &Path) -> Result<u64, String> {
    let output = Command::new(&programs.dejavm).arg("info").arg(recording).arg("--json").output();
    let output = output.map_err(|error| format!("cannot run it: {error}"))?;
    let info: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    info["instructions"].as_u64().ok_or_else(|| "info tells no instructions".to_owned())
}

impl Debugging {
    fn rows(&self) -> [(&'static str, &[f64], &[f64]); 3] {
        [
            ("reverse-stepi", &self.qemu.reverse_step, &self.dejavm.reverse_step),
            ("reverse-continue", &self.qemu.reverse_continue, &self.dejavm.reverse_continue),
            ("seek", &self.qemu.seek, &self.dejavm.seek),
        ]
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<17} {:>12} {:>13} {:>13} {:>8}\n",
            "debugging", "qemu med s", "dejavm med s", "dejavm max s", "x speed"
        );
        let of = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        for (name, qemu, dejavm) in self.rows() {
            let (theirs, ours) = (middle(qemu), middle(dejavm));
            let ratio = theirs.zip(ours).map_or("-".to_owned(), |(q, d)| format!("{:.0}", q / d));
            writeln!(
                text,
                "{name:<17} {:>12} {:>13} {:>13} {ratio:>8}",
                of(theirs),
                of(ours),
                of(worst(dejavm)),
            )
            .expect("writing to a string cannot fail");
        }
        writeln!(
            text,
            "checkpoints cost {:.1} % of the processor time of recording and {:.1} % of the file \
             (the recording's log and start state: 100 %)",
            self.checkpoint_cost * 100.0,
            self.checkpoint_bytes * 100.0,
        )
        .expect("writing to a string cannot fail");
        if let Some(failure) = &self.peer_failure {
            writeln!(text, "  failed: qemu: {failure}").expect("writing to a string cannot fail");
        }
        text
    }

    /// The same for a program.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows()
            .into_iter()
            .map(|(name, qemu, dejavm)| {
                json!({
                    "operation": name,
                    "qemu_seconds": qemu,
                    "dejavm_seconds": dejavm,
                    "dejavm_median": middle(dejavm),
                    "dejavm_worst": worst(dejavm),
                    "speed_ratio": middle(qemu).zip(middle(dejavm)).map(|(q, d)| q / d),
                })
            })
            .collect();
        json!({
            "operations": rows,
            "checkpoint_cost": self.checkpoint_cost,
            "checkpoint_bytes": self.checkpoint_bytes,
            "peer_failure": self.peer_failure,
        })
    }
}

fn middle(values: &[f64]) -> Option<f64> {
    median(values.iter().copied())
}

fn worst(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}
