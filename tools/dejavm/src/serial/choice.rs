//! `[PORT=]BACKEND`: a port and where it leads.

use std::fmt;
use std::path::PathBuf;

/// A port of the guest's: 0 to 3 are COM1 to COM4, 4 is the virtio console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u8);

impl Port {
    /// COM1.
    pub const COM1: Port = Port(0);
    /// The virtio console.
    pub const VIRTIO: Port = Port(dejavm_machine::VIRTIO_CONSOLE);

    /// As inputs and outputs of machines name it.
    pub fn number(self) -> u8 {
        self.0
    }

    /// COM1 to COM4 by 1 to 4.
    pub fn com(number: u8) -> Option<Port> {
        (1..=4).contains(&number).then(|| Port(number - 1))
    }

    /// As the command line names it.
    fn named(text: &str) -> Option<Port> {
        match text {
            "virtio" => Some(Port::VIRTIO),
            _ => Port::com(text.parse().ok()?),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Port::VIRTIO => f.write_str("the virtio console"),
            Port(number) => write!(f, "serial port {}", number + 1),
        }
    }
}

/// Where a port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Standard input and output: the terminal.
    Stdio,
    /// A pseudo-terminal, for programs such as screen and minicom.
    Pty,
    /// What the guest sends goes to a file.
    File(PathBuf),
    /// A unix socket that is listened on.
    Unix(PathBuf),
    /// A device of the host's, such as a serial port.
    Device(PathBuf),
    /// Nowhere, but the guest has the port.
    Null,
    /// The guest does not have the port; COM1 it always has.
    None,
}

/// What the user says of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which; `None`: the one after that of the option before.
    pub port: Option<Port>,
    /// Where it leads.
    pub backend: Backend,
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Choice, String> {
        // A path may have `=` in it.
        let (port, backend) = match text.split_once('=') {
            Some((port, backend)) if !port.contains(':') => {
                let port = Port::named(port).ok_or("the ports are 1, 2, 3, 4 and virtio")?;
                (Some(port), backend)
            }
            _ => (None, text),
        };
        let backend = match backend.split_once(':') {
            None if backend == "stdio" => Backend::Stdio,
            None if backend == "pty" => Backend::Pty,
            None if backend == "null" => Backend::Null,
            None if backend == "none" => Backend::None,
            Some((_, "")) => return Err(format!("a path must follow {backend}")),
            Some(("file", path)) => Backend::File(path.into()),
            Some(("unix", path)) => Backend::Unix(path.into()),
            Some(("device", path)) => Backend::Device(path.into()),
            _ => {
                let known = "stdio, pty, file:PATH, unix:PATH, device:PATH, null and none";
                return Err(format!("a port leads to one of {known}"));
            }
        };
        Ok(Choice { port, backend })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_and_where_it_leads() {
        let parse = |text: &str| text.parse::<Choice>();
        let choice = |port, backend| Ok(Choice { port, backend });
        assert_eq!(parse("2=pty"), choice(Port::com(2), Backend::Pty));
        assert_eq!(parse("stdio"), choice(None, Backend::Stdio));
        assert_eq!(
            parse("virtio=unix:/a=b:c"),
            choice(Some(Port::VIRTIO), Backend::Unix("/a=b:c".into()))
        );
        assert_eq!(parse("file:/a=b"), choice(None, Backend::File("/a=b".into())));
        for (text, complaint) in [
            ("5=pty", "the ports are 1, 2, 3, 4 and virtio"),
            ("0=pty", "the ports are"),
            ("2=", "a port leads to one of stdio, pty"),
            ("2=file:", "a path must follow file:"),
            ("telnet:4444", "a port leads to one of"),
            ("", "a port leads to one of"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(complaint), "{text}: {error}");
        }
    }
}
