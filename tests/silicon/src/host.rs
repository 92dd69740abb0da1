//! The parent's end of the native runner.

use crate::layout::{self, PAGE, PageUse};
use crate::shared::{Arena, Shared};
use crate::test_case::Batch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// The hidden command that makes the program be the runner.
pub const RUNNER_COMMAND: &str = "native-runner";

/// A batch takes milliseconds; a runner that is silent this long is in an endless loop.
const TIMEOUT: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Why a batch has no result.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The runner could not be started or talked to.
    #[error("the native runner: {0}")]
    Io(#[from] io::Error),
    /// The runner ended.
    #[error("the native runner died ({status}) on case {case} of the batch")]
    Died {
        /// The case that it was running.
        case: usize,
        /// How it ended.
        status: ExitStatus,
    },
    /// The runner does not answer.
    #[error("the native runner hangs on case {case} of the batch")]
    Hangs {
        /// The case that it was running.
        case: usize,
    },
    /// Data pages changed where no window is: the generator does not know some instruction's reach.
    #[error("the host's CPU wrote memory outside the windows of the batch's cases")]
    Stray,
}

/// A runner process.
pub struct Host {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
    shared: Shared,
}

impl Host {
    /// Starts a runner for 64-bit or 32-bit code. `program` is the `silicon` binary.
    pub fn start(program: &Path, bits: u32) -> Result<Host, HostError> {
        let shared = Shared::create()?;
        let fd = shared.fd().as_fd().as_raw_fd();
        let mut child = Command::new(program)
            .args([RUNNER_COMMAND, &bits.to_string(), &fd.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().expect("stdin is piped");
        let from = child.stdout.take().expect("stdout is piped");
        Ok(Host { child, to, from, shared })
    }

    /// Runs a batch; see [`Host::outcomes`] afterwards.
    pub fn run(&mut self, batch: &Batch) -> Result<(), HostError> {
        let (region, arena) = self.shared.region_and_arena();
        for page in 0..layout::REGION_PAGES {
            let at = (page * PAGE) as usize;
            match layout::page_use(page) {
                PageUse::Code | PageUse::ReadWrite | PageUse::ReadOnly => {
                    let bytes = at..at + PAGE as usize;
                    region[bytes.clone()].copy_from_slice(&batch.region[bytes]);
                }
                PageUse::Hole | PageUse::Stub => {}
            }
        }
        arena.count = batch.tests.len() as u32;
        arena.with_fx = batch.family.has_fx().into();
        arena.current = 0;
        arena.stray = 0;
        for (to, page) in arena.pristine.iter_mut().zip(layout::DATA_PAGES) {
            to.copy_from_slice(&batch.region[(page * PAGE) as usize..][..PAGE as usize]);
        }
        for (to, test) in arena.cases.iter_mut().zip(&batch.tests) {
            *to = test.case;
        }
        arena.pokes[..batch.pokes.len()].copy_from_slice(&batch.pokes);
        self.exchange()?;
        if self.shared.arena().stray != 0 {
            return Err(HostError::Stray);
        }
        Ok(())
    }

    /// What the last batch left.
    pub fn outcomes(&mut self) -> &Arena {
        self.shared.arena()
    }

    /// Gives the turn to the runner and waits to get it back.
    fn exchange(&mut self) -> Result<(), HostError> {
        let mut answer = [0u8; 1];
        if self.to.write_all(&[1]).is_err() {
            return Err(self.died()?);
        }
        let mut ready = [PollFd::new(&self.from, PollFlags::IN)];
        if poll(&mut ready, Some(&TIMEOUT)).map_err(io::Error::from)? == 0 {
            return Err(HostError::Hangs { case: self.shared.arena().current as usize });
        }
        match self.from.read_exact(&mut answer) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.died()?),
        }
    }

    fn died(&mut self) -> Result<HostError, HostError> {
        let status = self.child.wait()?;
        Ok(HostError::Died { case: self.shared.arena().current as usize, status })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be gone already, and hangs only in what it was told to run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
