//! The command line's part about serial ports, and what a machine has because of it.

use super::Serial;
use super::choice::{Backend, Choice, Port};
use super::line::Line;
use super::peer::Peer;
use crate::exit::{Exit, Failure};
use clap::Args;
use dejavm_machine::{Card, Hardware};
use std::collections::BTreeMap;

/// The serial ports of a live machine, or where those of a replayed one are written.
#[derive(Clone, Debug, Default, Args)]
pub struct SerialOptions {
    /// Where a serial port leads: PORT is 1 to 4 (COM1 to COM4) or virtio (a virtio console, the guest's hvc0); without it, the
    /// one after that of the option before. BACKEND is stdio, pty, file:PATH (what the guest sends), unix:PATH (a socket that
    /// is listened on), device:PATH, null (nowhere), none (the guest does not have it). A replay only writes: stdio, file, null
    /// [default: 1=stdio]
    #[arg(long, value_name = "[PORT=]BACKEND")]
    pub serial: Vec<Choice>,
}

type Choices = BTreeMap<Port, Backend>;

fn refused(port: Port, why: &str) -> Failure {
    let name = match port {
        Port::VIRTIO => "virtio".to_owned(),
        port => (port.number() + 1).to_string(),
    };
    Failure::new(Exit::Usage, format!("--serial {name}: {why}"))
}

impl SerialOptions {
    /// Whether the user says something of a port.
    pub fn tells_of(&self, port: Port) -> Result<bool, Failure> {
        Ok(self.told()?.contains_key(&port))
    }

    /// What the user says, by port.
    fn told(&self) -> Result<Choices, Failure> {
        let mut choices = Choices::new();
        let mut next = Some(Port::COM1);
        for Choice { port, backend } in &self.serial {
            let Some(port) = port.or(next) else {
                let sentence = "--serial: after the last port there is none; say which it is for";
                return Err(Failure::new(Exit::Usage, sentence));
            };
            // Those after the virtio console have names only.
            next = Port::com(port.number() + 2);
            if choices.insert(port, backend.clone()).is_some() {
                return Err(refused(port, "it is said twice where this port leads"));
            }
        }
        Ok(choices)
    }

    /// As told, and COM1 on standard input and output unless told.
    fn choices(&self) -> Result<Choices, Failure> {
        let mut choices = self.told()?;
        let taken = choices.iter().find(|(_, backend)| **backend == Backend::Stdio);
        let default = match taken {
            None => Backend::Stdio,
            Some(_) => Backend::Null,
        };
        choices.entry(Port::COM1).or_insert(default);
        let mut on_stdio = choices.iter().filter(|(_, backend)| **backend == Backend::Stdio);
        if let (Some(_), Some((port, _))) = (on_stdio.next(), on_stdio.next()) {
            return Err(refused(*port, "another port is on standard input and output already"));
        }
        Ok(choices)
    }

    /// Gives a new machine the ports.
    pub fn attach(&self, hardware: &mut Hardware) -> Result<(), Failure> {
        for (port, backend) in self.choices()? {
            match port {
                _ if backend == Backend::None => {}
                Port::COM1 => {}
                Port::VIRTIO => hardware.cards.push(Card::VirtioConsole),
                port => hardware.serial_ports[usize::from(port.number()) - 1] = true,
            }
        }
        Ok(())
    }

    /// The port on standard input and output.
    pub fn stdio(&self) -> Result<Option<Port>, Failure> {
        let choices = self.choices()?;
        let found = choices.iter().find(|(_, backend)| **backend == Backend::Stdio);
        Ok(found.map(|(port, _)| *port))
    }

    /// Whether somebody may type where a port leads.
    pub fn is_interactive(&self) -> Result<bool, Failure> {
        let interactive = |backend: &Backend| match backend {
            Backend::Pty | Backend::Unix(_) | Backend::Device(_) => true,
            Backend::Stdio | Backend::File(_) | Backend::Null | Backend::None => false,
        };
        Ok(self.choices()?.values().any(interactive))
    }

    /// Opens what the ports of a live machine lead to, and says what there is to say of it.
    pub fn open(&self, hardware: &Hardware) -> Result<Serial, Failure> {
        self.open_each(hardware, |port, backend| {
            let peer = match backend {
                Backend::Stdio | Backend::Null | Backend::None => return Ok(None),
                Backend::File(path) => return Line::file(port, path).map(Some),
                Backend::Pty => Peer::pty(),
                Backend::Unix(path) => Peer::unix(path),
                Backend::Device(path) => Peer::device(path),
            };
            let (peer, name) = peer.map_err(|sentence| {
                Failure::new(Exit::Environment, format!("{port}: {sentence}"))
            })?;
            if let Some(name) = name {
                eprintln!("dejavm: {port} is {name}");
            }
            Line::of(port, peer, true).map(Some)
        })
    }

    /// Opens where a replay writes what the ports sent.
    pub fn open_outputs(&self, hardware: &Hardware) -> Result<Serial, Failure> {
        self.open_each(hardware, |port, backend| match backend {
            Backend::Stdio | Backend::Null | Backend::None => Ok(None),
            Backend::File(path) => Line::file(port, path).map(Some),
            Backend::Pty | Backend::Unix(_) | Backend::Device(_) => {
                let why = "a replay takes nothing in, it only writes: to stdio, file:PATH or null";
                Err(refused(port, why))
            }
        })
    }

    fn open_each(
        &self,
        hardware: &Hardware,
        mut line: impl FnMut(Port, &Backend) -> Result<Option<Line>, Failure>,
    ) -> Result<Serial, Failure> {
        let mut serial = Serial::default();
        for (port, backend) in self.choices()? {
            let exists = match port {
                Port::COM1 => true,
                Port::VIRTIO => hardware.cards.contains(&Card::VirtioConsole),
                port => hardware.serial_ports[usize::from(port.number()) - 1],
            };
            if !exists && !matches!(backend, Backend::None) {
                let why = "this machine was started without that port, so leave the option out";
                return Err(refused(port, why));
            }
            if backend == Backend::Stdio {
                serial.stdio = Some(port);
            }
            if let Some(line) = line(port, &backend)? {
                serial.lines.push((port, line));
            }
        }
        Ok(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(texts: &[&str]) -> SerialOptions {
        SerialOptions { serial: texts.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn ports_are_counted_as_they_are_given_and_com1_is_the_terminal_unless_told() {
        let ports = |texts: &[&str]| {
            let mut hardware = Hardware::default();
            options(texts).attach(&mut hardware).unwrap();
            (hardware.serial_ports, hardware.cards.len())
        };
        assert_eq!(ports(&[]), ([false; 3], 0));
        assert_eq!(ports(&["stdio", "null", "4=pty"]), ([true, false, true], 0));
        assert_eq!(ports(&["3=null", "null", "2=none"]), ([false, true, true], 0));
        assert_eq!(ports(&["virtio=stdio"]), ([false; 3], 1));
        let on_stdio = |texts: &[&str]| {
            let mut hardware = Hardware::default();
            let options = options(texts);
            options.attach(&mut hardware).unwrap();
            options.open(&hardware).unwrap().stdio
        };
        assert_eq!(on_stdio(&[]), Some(Port::COM1));
        assert_eq!(on_stdio(&["2=stdio"]), Port::com(2));
        assert_eq!(on_stdio(&["null"]), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (texts, sentence) in [
            (&["2=pty", "2=null"][..], "--serial 2: it is said twice"),
            (&["4=null", "null"], "--serial: after the last port"),
            (&["stdio", "stdio"], "--serial 2: another port is on standard input"),
        ] {
            let error = options(texts).attach(&mut Hardware::default()).unwrap_err();
            assert!(error.sentence.starts_with(sentence), "{}", error.sentence);
        }
        let missing = options(&["2=null"]).open(&Hardware::default()).err().unwrap();
        assert!(missing.sentence.contains("started without that port"), "{}", missing.sentence);
        let hardware = Hardware { serial_ports: [true; 3], ..Hardware::default() };
        let typed = options(&["2=pty"]).open_outputs(&hardware).err().unwrap();
        assert!(typed.sentence.contains("a replay takes nothing in"), "{}", typed.sentence);
    }
}
