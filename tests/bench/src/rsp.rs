//! As much of a gdb as timing a stub takes: packets out, replies in.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A connection to a gdb stub.
pub struct Debugger {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Debugger {
    /// Connects, trying again until `patience` ends: the stub's program may still be starting.
    pub fn connect(port: u16, patience: Duration, limit: Duration) -> Result<Debugger, String> {
        let started = Instant::now();
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) if started.elapsed() > patience => {
                    return Err(format!("no stub answers on port {port}: {error}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let prepared = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(limit)));
        prepared.map_err(|error| format!("the connection to port {port}: {error}"))?;
        let mut debugger = Debugger { stream, received: Vec::new() };
        debugger.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+")?;
        debugger.ask("?")?;
        Ok(debugger)
    }

    fn send(&mut self, packet: &str) -> Result<(), String> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.stream
            .write_all(format!("${packet}#{sum:02x}").as_bytes())
            .map_err(|error| format!("{packet}: {error}"))
    }

    fn receive(&mut self, packet: &str) -> Result<String, String> {
        loop {
            if let Some(reply) = self.take_reply() {
                self.stream.write_all(b"+").map_err(|error| format!("{packet}: {error}"))?;
                return Ok(reply);
            }
            let mut bytes = [0; 65536];
            let count = match self.stream.read(&mut bytes) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            }
            .map_err(|error| format!("no reply to {packet}: {error}"))?;
            self.received.extend_from_slice(&bytes[..count]);
        }
    }

    fn take_reply(&mut self) -> Option<String> {
        let start = self.received.iter().position(|&byte| byte == b'$')?;
        let end = start + self.received[start..].iter().position(|&byte| byte == b'#')?;
        if self.received.len() < end + 3 {
            return None;
        }
        let reply = String::from_utf8_lossy(&self.received[start + 1..end]).into_owned();
        self.received.drain(..end + 3);
        Some(reply)
    }

    /// Sends a packet and returns the reply.
    pub fn ask(&mut self, packet: &str) -> Result<String, String> {
        self.send(packet)?;
        self.receive(packet)
    }

    /// Seconds until a packet that moves the machine is answered by a stop.
    pub fn time_stop(&mut self, packet: &str) -> Result<f64, String> {
        self.stop_after(packet).map(|(seconds, _)| seconds)
    }

    /// The same, and the stop's reply. What the stub prints meanwhile (`O`) is left out.
    pub fn stop_after(&mut self, packet: &str) -> Result<(f64, String), String> {
        let started = Instant::now();
        self.send(packet)?;
        loop {
            let reply = self.receive(packet)?;
            match reply.as_bytes().first() {
                Some(b'T' | b'S') => return Ok((started.elapsed().as_secs_f64(), reply)),
                Some(b'O') if reply != "OK" => {}
                _ => return Err(format!("{packet} was answered by '{reply}'")),
            }
        }
    }

    /// Lets the machine run for a while, then stops it.
    pub fn run_for(&mut self, time: Duration) -> Result<(), String> {
        self.send("c")?;
        std::thread::sleep(time);
        self.stream.write_all(&[3]).map_err(|error| format!("^C: {error}"))?;
        self.receive("^C").map(|_| ())
    }

    /// Seconds that a monitor command takes, and what it prints.
    pub fn monitor(&mut self, command: &str) -> Result<(f64, String), String> {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        let started = Instant::now();
        self.send(&format!("qRcmd,{hex}"))?;
        let mut text = String::new();
        loop {
            let reply = self.receive(command)?;
            let more = reply.strip_prefix('O').filter(|rest| *rest != "K");
            let hex = more.unwrap_or(if reply == "OK" { "" } else { &reply });
            text.push_str(&from_hex(hex));
            if more.is_none() {
                return Ok((started.elapsed().as_secs_f64(), text));
            }
        }
    }

    /// The instruction pointer of a 64-bit guest, as the stub spells it.
    pub fn instruction_pointer(&mut self) -> Result<u64, String> {
        let registers = self.ask("g")?;
        let field = registers.get(16 * 16..17 * 16).ok_or("the reply to g is too short")?;
        u64::from_str_radix(field, 16)
            .map(u64::swap_bytes)
            .map_err(|_| format!("no instruction pointer in '{field}'"))
    }
}

fn from_hex(hex: &str) -> String {
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
