//! Who may be at the other end of a line: files of the host's that are never waited for in reading or writing.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{self, OptionalActions};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked whether somebody has opened a pseudo-terminal: nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// What is told of a peer that has left, asked for or not.
const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

/// The other end of a line.
pub enum Peer {
    /// A pseudo-terminal.
    Pty {
        /// Its master.
        master: File,
        /// It was seen that somebody has the terminal open.
        open: bool,
    },
    /// A socket, and the client that is there.
    Unix {
        /// The socket.
        listener: UnixListener,
        /// Its file, removed at the end.
        path: PathBuf,
        /// Who is there.
        client: Option<UnixStream>,
        /// The client has nothing more to say, and may still listen.
        silent: bool,
    },
    /// A device or a pipe.
    Device {
        /// Open for both.
        file: File,
        /// Nothing comes from it any more.
        silent: bool,
    },
}

/// What may go on with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Somebody is there.
    pub connected: bool,
    /// Something can be read.
    pub read: bool,
    /// Something can be written.
    pub write: bool,
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// What happened to the first of the files; an interrupted wait is one in which nothing happened.
fn polled(files: &mut [PollFd<'_>], time: Duration) -> PollFlags {
    match poll(files, Some(&timespec(time))) {
        Ok(_) => files.first().map_or(PollFlags::empty(), PollFd::revents),
        Err(_) => PollFlags::empty(),
    }
}

/// Opens without waiting for anybody, and without making a terminal ours.
fn open(path: &Path) -> Result<File, String> {
    let how = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::open(path, how, Mode::empty()) {
        Ok(file) => Ok(File::from(file)),
        Err(error) => Err(format!("{}: it cannot be opened: {error}", path.display())),
    }
}

fn make_raw(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut how = termios::tcgetattr(terminal)?;
    how.make_raw();
    termios::tcsetattr(terminal, OptionalActions::Now, &how)
}

impl Peer {
    /// A pseudo-terminal, and its path.
    pub fn pty() -> Result<(Peer, Option<String>), String> {
        let cannot = |error: Errno| format!("there is no pseudo-terminal to be had: {error}");
        let how = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(how).map_err(cannot)?;
        grantpt(&master).map_err(cannot)?;
        unlockpt(&master).map_err(cannot)?;
        let path = ptsname(&master, Vec::new()).map_err(cannot)?;
        let path = path.to_string_lossy().into_owned();
        rustix::io::ioctl_fionbio(&master, true).map_err(cannot)?;
        // Opened and closed once, it tells from then on whether anybody has it open.
        make_raw(open(Path::new(&path))?.as_fd()).map_err(cannot)?;
        Ok((Peer::Pty { master: File::from(master), open: false }, Some(path)))
    }

    /// A socket that is listened on.
    pub fn unix(path: &Path) -> Result<(Peer, Option<String>), String> {
        let cannot =
            |error: io::Error| format!("{}: it cannot be listened on: {error}", path.display());
        // One that nobody listens on any more is what a killed recorder left.
        let is_socket = path.symlink_metadata().is_ok_and(|there| there.file_type().is_socket());
        if is_socket && UnixStream::connect(path).is_err() {
            std::fs::remove_file(path).map_err(cannot)?;
        }
        let listener = UnixListener::bind(path).map_err(cannot)?;
        let path = path.to_owned();
        let name = format!("at the socket {}", path.display());
        let peer = Peer::Unix { listener, path, client: None, silent: false };
        if let Peer::Unix { listener, .. } = &peer {
            listener.set_nonblocking(true).map_err(cannot)?;
        }
        Ok((peer, Some(name)))
    }

    /// A device, or another file that is no regular one.
    pub fn device(path: &Path) -> Result<(Peer, Option<String>), String> {
        let there = path.metadata();
        let kind =
            there.map_err(|error| format!("{}: it cannot be opened: {error}", path.display()));
        if !kind?.file_type().is_char_device() {
            return Err(format!("{}: this is no character device", path.display()));
        }
        let file = open(path)?;
        if termios::isatty(&file) {
            make_raw(file.as_fd()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok((Peer::Device { file, silent: false }, None))
    }

    /// A pipe or a device that is only written to.
    pub fn sink(path: &Path) -> Result<Peer, String> {
        Ok(Peer::Device { file: open(path)?, silent: false })
    }

    /// Whether nobody has to come first.
    pub fn is_always_there(&self) -> bool {
        matches!(self, Peer::Device { .. })
    }

    /// Waits until something can go on, `wake` can be read, or `time` has passed.
    pub fn wait(&mut self, wake: &OwnedFd, read: bool, write: bool, time: Duration) -> Ready {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, read);
        events.set(PollFlags::OUT, write);
        let wake = || PollFd::new(wake, PollFlags::IN);
        match self {
            Peer::Pty { master, open } => {
                let there = polled(&mut [PollFd::new(master, events)], Duration::ZERO);
                let is_open = !there.contains(PollFlags::HUP);
                let was_open = std::mem::replace(open, is_open);
                if !is_open {
                    polled(&mut [wake()], time.min(LOOK_AGAIN));
                    return Ready::default();
                }
                if !was_open {
                    // At once: who has just come is not kept waiting for what may be there for him.
                    return Ready { connected: true, ..Ready::default() };
                }
                Ready::of(polled(&mut [PollFd::new(master, events), wake()], time))
            }
            Peer::Unix { listener, client: client @ None, silent, .. } => {
                polled(&mut [PollFd::new(listener, PollFlags::IN), wake()], time);
                *silent = false;
                let stream = listener.accept().map(|(stream, _)| stream);
                *client = stream.ok().filter(|stream| stream.set_nonblocking(true).is_ok());
                Ready { connected: client.is_some(), ..Ready::default() }
            }
            Peer::Unix { client: Some(stream), silent, .. } => {
                events.set(PollFlags::IN, read && !*silent);
                let happened = polled(&mut [PollFd::new(stream, events), wake()], time);
                if !happened.intersects(GONE) {
                    return Ready::of(happened);
                }
                // What a client said before it left is still there to be read, when there is room.
                let waits = !*silent && (!read || happened.contains(PollFlags::IN));
                if !waits {
                    self.lose();
                } else if !read {
                    polled(&mut [wake()], time.min(LOOK_AGAIN));
                }
                Ready { connected: waits, read: waits && read, write: false }
            }
            Peer::Device { file, silent } => {
                events.set(PollFlags::IN, read && !*silent);
                let happened = polled(&mut [PollFd::new(file, events), wake()], time);
                if happened.intersects(GONE) && !happened.contains(PollFlags::IN) {
                    // Who writes to it is told; who does not need not know, and waits for something to write.
                    polled(&mut [wake()], time.min(LOOK_AGAIN));
                }
                Ready::of(happened)
            }
        }
    }

    /// Reads what is there; `None`: nothing. An end is seen by the next `wait`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let read = match self {
            Peer::Pty { master, .. } => master.read(buffer),
            Peer::Device { file, silent } => {
                let read = file.read(buffer);
                *silent |= matches!(read, Ok(0));
                read
            }
            Peer::Unix { client: Some(client), silent, .. } => {
                let read = client.read(buffer);
                *silent |= matches!(read, Ok(0));
                read
            }
            Peer::Unix { client: None, .. } => return None,
        };
        read.ok().filter(|bytes| *bytes > 0)
    }

    /// Writes what fits; an error is that of a peer that is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wrote = match self {
            Peer::Pty { master: file, .. } | Peer::Device { file, .. } => file.write(bytes),
            Peer::Unix { client: Some(client), .. } => client.write(bytes),
            Peer::Unix { client: None, .. } => return Ok(0),
        };
        match wrote {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            wrote => wrote,
        }
    }

    /// Lets a peer go that refused to be written to; whether another may come.
    pub fn lose(&mut self) -> bool {
        match self {
            Peer::Pty { .. } => true,
            Peer::Unix { client, .. } => {
                *client = None;
                true
            }
            Peer::Device { .. } => false,
        }
    }
}

impl Ready {
    fn of(happened: PollFlags) -> Ready {
        Ready {
            connected: true,
            read: happened.contains(PollFlags::IN),
            write: happened.contains(PollFlags::OUT),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Peer::Unix { path, .. } = self {
            // It may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}
