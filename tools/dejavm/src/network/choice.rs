//! What the user may ask for: `--net`, `--forward`, `--nic`.

use super::Mac;
use clap::ValueEnum;
use std::path::PathBuf;
use std::str::FromStr;

/// Which network the guest is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// None: it has no network card.
    None,
    /// The host's, by passt, without privileges.
    Passt,
    /// A TAP interface.
    Tap(String),
    /// Whoever is behind a unix socket and speaks as passt does.
    Unix(PathBuf),
}

impl FromStr for Net {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Net, &'static str> {
        match text.split_once(':') {
            None if text == "none" => Ok(Net::None),
            None if text == "passt" => Ok(Net::Passt),
            Some(("tap", name)) if (1..16).contains(&name.len()) => Ok(Net::Tap(name.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(Net::Unix(path.into())),
            _ => Err("a network is passt, tap:NAME, unix:PATH or none"),
        }
    }
}

/// Which network card the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Nic {
    /// A virtio network card
    Virtio,
    /// An Intel 82540EM, for guests without virtio
    E1000,
}

/// The address of a network card, as in `00:0c:29:01:02:03`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub Mac);

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<MacAddress, &'static str> {
        let refusal = "an address is six bytes of two hexadecimal digits, as in 00:0c:29:01:02:03";
        let byte = |part: &str| match part.len() {
            2 if !part.starts_with('+') => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split([':', '-']).map(byte).collect();
        let mac: Mac = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(refusal)?;
        // Bit 0 of the first byte: a group's.
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err("this is no address of one network card");
        }
        Ok(MacAddress(mac))
    }
}

/// A port of the host's that leads to one of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// UDP, or TCP.
    pub udp: bool,
    /// On the host, at 127.0.0.1.
    pub host: u16,
    /// In the guest.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Forward, &'static str> {
        let refusal = "a forward is HOST:GUEST, two ports as in 2222:22, or udp:HOST:GUEST";
        let (udp, ports) = match text.split_once(':') {
            Some(("udp", ports)) => (true, ports),
            Some(("tcp", ports)) => (false, ports),
            _ => (false, text),
        };
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(refusal);
        let (host, guest) = ports.split_once(':').ok_or(refusal)?;
        Ok(Forward { udp, host: port(host)?, guest: port(guest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, net) in [
            ("none", Net::None),
            ("passt", Net::Passt),
            ("tap:tap0", Net::Tap("tap0".into())),
            ("unix:/run/a:b", Net::Unix("/run/a:b".into())),
        ] {
            assert_eq!(text.parse(), Ok(net), "{text}");
        }
        for text in ["", "tap", "tap:", "tap:sixteen_letters_", "unix:", "user", "passt:x"] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn forwards() {
        let forward = |udp, host, guest| Ok(Forward { udp, host, guest });
        assert_eq!("2222:22".parse(), forward(false, 2222, 22));
        assert_eq!("tcp:2222:22".parse(), forward(false, 2222, 22));
        assert_eq!("udp:53:5353".parse(), forward(true, 53, 5353));
        for text in ["", "22", "0:22", "22:0", "2222:65536", "udp:22", "1:2:3", "sctp:1:2"] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
