//! Where to listen: `PORT`, `HOST`, `HOST:PORT`, or the path of a unix socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A place to listen, as the user said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP. Without a port: 8864 for guests of 64 bits, 8832 for those of 32, the next free one if it is
    /// busy.
    Tcp {
        /// The interface's address: 127.0.0.1 unless told; 0.0.0.0 are all.
        host: IpAddr,
        /// The port.
        port: Option<u16>,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl Default for Address {
    fn default() -> Address {
        Address::Tcp { host: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Address::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(Address::Unix(text.into()));
        }
        if text.is_empty() {
            return Ok(Address::default());
        }
        let text = text.replace("localhost", "127.0.0.1");
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        if let Some(port) = port(text.strip_prefix(':').unwrap_or(&text)) {
            return Ok(Address::Tcp { host: local, port: Some(port) });
        }
        if let Ok(host) = text.parse() {
            return Ok(Address::Tcp { host, port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>()
            && address.port() != 0
        {
            return Ok(Address::Tcp { host: address.ip(), port: Some(address.port()) });
        }
        Err("say PORT, HOST (an IP address), HOST:PORT, or a unix socket's path with a `/` in it"
            .into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port: Some(port) } => SocketAddr::new(*host, *port).fmt(f),
            Address::Tcp { host, port: None } => host.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notations() {
        let tcp = |host: &str, port| Address::Tcp { host: host.parse().unwrap(), port };
        for (text, expected) in [
            ("", tcp("127.0.0.1", None)),
            ("1234", tcp("127.0.0.1", Some(1234))),
            (":1234", tcp("127.0.0.1", Some(1234))),
            ("0.0.0.0", tcp("0.0.0.0", None)),
            ("localhost:5", tcp("127.0.0.1", Some(5))),
            ("[::1]:5", tcp("::1", Some(5))),
            ("./gdb", Address::Unix("./gdb".into())),
            ("unix:gdb", Address::Unix("gdb".into())),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["0", "70000", "a.example", "1.2.3.4:0", "1.2.3.4:x"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
