//! Runs a program to its end and says what it cost.
//!
//! UNSAFETY: `wait4`, which is how the kernel tells a child's peak memory, and the clock of a child's
//! processor time; the standard library asks for neither.

#![expect(unsafe_code, reason = "wait4 and a child's processor clock; std has no safe way")]

use crate::console::Clocks;
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What one run of a program cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Wall time in seconds.
    pub seconds: f64,
    /// User plus system time of the child, in seconds.
    pub cpu_seconds: f64,
    /// Peak resident set in bytes.
    pub memory_peak: u64,
}

/// How often the child is asked whether it is done: the wall time's granularity.
const POLL: Duration = Duration::from_millis(2);

/// A piece of a running child's standard output.
#[derive(Clone, Debug)]
pub struct Glimpse {
    /// When it came.
    pub clocks: Clocks,
    /// What it was.
    pub bytes: Vec<u8>,
}

/// Runs `command` with no input, its standard output in `console` and its standard error in `log`.
///
/// # Errors
/// A sentence when it cannot start, leaves with a status other than 0, dies by a signal, or is not
/// done after `limit` (it is killed then).
pub fn run(
    command: &mut Command,
    console: File,
    log: File,
    limit: Duration,
) -> Result<Cost, String> {
    let started = Instant::now();
    let mut child = spawn(command.stdout(console).stderr(log))?;
    ended(command, &mut child, started, limit, |_| sleep(POLL))
}

/// The same, and `seen` is told what comes on its standard output as it comes.
///
/// # Errors
/// As [`run`] has them.
pub fn watch(
    command: &mut Command,
    log: File,
    limit: Duration,
    seen: &mut dyn FnMut(&Glimpse),
) -> Result<Cost, String> {
    let started = Instant::now();
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(log))?;
    let pieces = glimpses(&mut child, started);
    let cost = ended(command, &mut child, started, limit, |patience| {
        match pieces.recv_timeout(patience) {
            Ok(glimpse) => seen(&glimpse),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => sleep(patience),
        }
    });
    pieces.iter().for_each(|glimpse| seen(&glimpse));
    cost
}

fn spawn(command: &mut Command) -> Result<Child, String> {
    let child = command.stdin(Stdio::null()).spawn();
    child.map_err(|error| format!("cannot run {}: {error}", command.get_program().display()))
}

fn id(child: &Child) -> libc::pid_t {
    libc::pid_t::try_from(child.id()).expect("a process id fits pid_t")
}

/// A thread that reads the child's standard output.
fn glimpses(child: &mut Child, started: Instant) -> Receiver<Glimpse> {
    let (sender, receiver) = channel();
    let mut output = child.stdout.take().expect("it was asked for");
    let id = id(child);
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let wall = started.elapsed().as_secs_f64();
            // A child that is gone has no clock any more, and no phase that could end.
            let clocks = Clocks { wall, cpu: cpu_seconds(id).unwrap_or(f64::NAN) };
            if sender.send(Glimpse { clocks, bytes: buffer[..count].to_vec() }).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Waits for a child's end, with `pass` to let a moment pass.
fn ended(
    command: &Command,
    child: &mut Child,
    started: Instant,
    limit: Duration,
    mut pass: impl FnMut(Duration),
) -> Result<Cost, String> {
    let program = command.get_program().display();
    loop {
        if let Some((status, usage)) = wait(id(child)).map_err(|error| format!("wait4: {error}"))? {
            let seconds = started.elapsed().as_secs_f64();
            return match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                (true, 0) => Ok(cost(seconds, &usage)),
                (true, code) => Err(format!("{program} ended with status {code}")),
                (false, _) => Err(format!("{program} died by signal {}", libc::WTERMSIG(status))),
            };
        }
        if started.elapsed() > limit {
            // A child that is gone already needs no killing; the wait tells.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{program} was not done after {} s", limit.as_secs()));
        }
        pass(POLL);
    }
}

/// Processor time that all threads of a process have used, in seconds, and its children that have ended.
fn cpu_seconds(id: libc::pid_t) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(own_cpu_seconds(id)? + children_cpu_seconds(&stat)?)
}

/// What `/proc/PID/stat` tells of children that were waited for: `cutime` and `cstime` (proc(5)), in
/// hundredths of a second on every Linux for x86.
fn children_cpu_seconds(stat: &str) -> Option<f64> {
    // The name may hold anything, but no field after it a parenthesis. Field 3 comes first here.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((ticks(16)? + ticks(17)?) as f64 / 100.0)
}

fn own_cpu_seconds(id: libc::pid_t) -> Option<f64> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live local of the type that clock_getcpuclockid(3) writes.
    if unsafe { libc::clock_getcpuclockid(id, &mut clock) } != 0 {
        return None;
    }
    // SAFETY: the same for clock_gettime(2).
    let done = unsafe { libc::clock_gettime(clock, &mut time) } == 0;
    done.then(|| time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// The child's status and usage when it has ended.
fn wait(id: libc::pid_t) -> io::Result<Option<(libc::c_int, libc::rusage)>> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live locals of the types that wait4(2) writes.
    let ended = unsafe { libc::wait4(id, &mut status, libc::WNOHANG, usage.as_mut_ptr()) };
    match ended {
        0 => Ok(None),
        // SAFETY: all-zero is a valid rusage (integers only), and the kernel has filled it since.
        ended if ended == id => Ok(Some((status, unsafe { usage.assume_init() }))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn cost(seconds: f64, usage: &libc::rusage) -> Cost {
    let of = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    // ru_maxrss is in KiB (getrusage(2)).
    Cost {
        seconds,
        cpu_seconds: of(usage.ru_utime) + of(usage.ru_stime),
        memory_peak: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_shell(script: &str, limit_ms: u64) -> Result<Cost, String> {
        let null = || File::options().write(true).open("/dev/null").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(&mut command, null(), null(), Duration::from_millis(limit_ms))
    }

    #[test]
    fn a_program_that_ends_has_a_cost() {
        let cost = run_shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", 60_000).unwrap();
        assert!(cost.seconds > 0.0 && cost.cpu_seconds > 0.0);
        assert!(cost.memory_peak > 100 * 1024, "{}", cost.memory_peak);
    }

    #[test]
    fn what_went_wrong_is_said() {
        assert_eq!(run_shell("exit 3", 60_000).unwrap_err(), "sh ended with status 3");
        assert_eq!(run_shell("kill -9 $$", 60_000).unwrap_err(), "sh died by signal 9");
        assert!(run_shell("exec tail -f /dev/null", 50).unwrap_err().contains("not done"));
    }

    #[test]
    fn children_count() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 50 60 1234 66 20 0 1 0 99 0 0";
        assert_eq!(children_cpu_seconds(stat), Some(13.0));
        assert_eq!(children_cpu_seconds("7 (a) S 1"), None);
        assert_eq!(children_cpu_seconds(""), None);
    }

    #[test]
    fn output_is_seen_with_its_time() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let mut command = Command::new("sh");
        let script =
            "echo a; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo b; read x; exit 0";
        command.args(["-c", script]);
        let mut seen = Vec::new();
        let limit = Duration::from_secs(60);
        watch(&mut command, null, limit, &mut |glimpse| seen.push(glimpse.clone())).unwrap();
        let text: Vec<u8> = seen.iter().flat_map(|glimpse| glimpse.bytes.clone()).collect();
        assert_eq!(text, b"a\nb\n");
        assert!(seen.is_sorted_by(|a, b| a.clocks.wall <= b.clocks.wall), "{seen:?}");
    }
}
