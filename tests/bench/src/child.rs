//! Runs a program to its end and says what it cost.
//!
//! UNSAFETY: one call of `wait4`, which is how the kernel tells a child's peak memory; the standard
//! library waits without asking for it.

#![expect(unsafe_code, reason = "wait4 reports the child's resource usage; std has no safe way")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Command, Stdio};
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
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let id = libc::pid_t::try_from(child.id()).expect("a process id fits pid_t");
    loop {
        if let Some((status, usage)) = wait(id).map_err(|error| format!("wait4: {error}"))? {
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
        sleep(POLL);
    }
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
}
