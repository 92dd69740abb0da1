//! Where viewers come: `[ADDR:]PORT`, a display number as users of QEMU and of viewers type it, or a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The port of display 0.
const PORT_FIRST: u16 = 5900;
/// Smaller numbers are those of displays, as viewers have it.
const DISPLAYS: u16 = 100;

/// A place to listen, as the user said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Whether others than this host's users reach it.
    pub fn is_public(&self) -> bool {
        match self {
            Address::Tcp(address) => !address.ip().is_loopback(),
            Address::Unix(_) => false,
        }
    }
}

/// A display's number, or a port.
fn port(text: &str) -> Option<u16> {
    let number: u16 = text.parse().ok()?;
    Some(if number < DISPLAYS { PORT_FIRST + number } else { number })
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        let (host, number) = text.rsplit_once(':').unwrap_or(("", text));
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare.unwrap_or(host) {
            "" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().ok(),
        };
        match (host, port(number)) {
            (Some(host), Some(port)) => Ok(Address::Tcp(SocketAddr::new(host, port))),
            _ => Err("say PORT, ADDR:PORT with an IP address, a display's number as in :1 (which is port 5901), or unix:PATH"
                .into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        for (text, expected) in [
            (":1", "127.0.0.1:5901"),
            ("0", "127.0.0.1:5900"),
            ("5905", "127.0.0.1:5905"),
            ("localhost:99", "127.0.0.1:5999"),
            ("127.0.0.1:100", "127.0.0.1:100"),
            ("0.0.0.0:7", "0.0.0.0:5907"),
            ("[::1]:5901", "[::1]:5901"),
            ("unix:screen.sock", "unix:screen.sock"),
        ] {
            assert_eq!(text.parse::<Address>().map(|it| it.to_string()), Ok(expected.into()));
        }
        for text in ["", ":", "127.0.0.1", "a.example:1", ":70000", "::x"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_other_hosts_are_the_public() {
        let public = |text: &str| text.parse::<Address>().unwrap().is_public();
        assert!(public("0.0.0.0:1") && public("192.168.0.1:1"));
        assert!(!public(":1") && !public("[::1]:1") && !public("unix:x"));
    }
}
