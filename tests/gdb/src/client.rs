//! A client that speaks packets, without a socket.

use dejavm_stub::{Lasting, Options, Session, State, Target};

/// A session and its client in one.
pub struct Client<'t> {
    session: Session<'t>,
    received: Vec<u8>,
}

impl<'t> Client<'t> {
    /// Connects.
    pub fn new(target: &'t mut dyn Target) -> Client<'t> {
        Client::after(target, Lasting::default())
    }

    /// Connects to a machine that had a client before.
    pub fn after(target: &'t mut dyn Target, lasting: Lasting) -> Client<'t> {
        let options = Options { lasting, ..Options::default() };
        let session = Session::new(target, Box::new(|| false), options);
        Client { session, received: Vec::new() }
    }

    /// Sends bytes as they are; the bytes that come back until more is wanted.
    pub fn raw(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.receive(bytes);
        while self.session.state() == State::Work {
            self.session.work();
        }
        self.session.take_output()
    }

    /// Sends a packet; the payloads of the packets that come back.
    pub fn packets(&mut self, payload: &str) -> Vec<String> {
        let sum = payload.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte));
        self.received = self.raw(format!("${payload}#{sum:02x}").as_bytes());
        let text = String::from_utf8_lossy(&self.received).into_owned();
        let mut found = Vec::new();
        let mut rest = text.as_str();
        while let Some((_, packet)) = rest.split_once('$') {
            let (payload, after) = packet.split_once('#').expect("packets are complete");
            found.push(payload.to_owned());
            rest = after;
        }
        found
    }

    /// Sends a packet that has one reply.
    pub fn ask(&mut self, payload: &str) -> String {
        let mut packets = self.packets(payload);
        assert_eq!(packets.len(), 1, "{payload}: {packets:?}");
        packets.remove(0)
    }

    /// `monitor`: the text.
    pub fn monitor(&mut self, command: &str) -> String {
        let digits: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut packets = self.packets(&format!("qRcmd,{digits}"));
        assert_eq!(packets.pop().as_deref(), Some("OK"), "{command}");
        let console = packets.iter().map(|packet| decode(packet.trim_start_matches('O')));
        console.collect()
    }

    /// What it waits for.
    pub fn state(&self) -> State {
        self.session.state()
    }
}

/// Hexadecimal digits as text.
pub fn decode(digits: &str) -> String {
    let bytes: Vec<u8> = (0..digits.len() / 2)
        .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).expect("digits"))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
