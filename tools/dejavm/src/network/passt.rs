//! passt: a program that gives a guest the host's network without privileges, over a stream.
//!
//! The guest's addresses are always the same, so that two recordings of a guest differ by what happened and not by where:
//! 10.0.2.15 of 10.0.2.0/24, and the host is 10.0.2.2, where the host's own services are too.

use super::{Forward, Mac, framing};
use crate::exit::{Exit, Failure};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Addresses of the guest and of the host, as the guest sees it.
const GUEST: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [10, 0, 2, 2];
/// How long it may take to start.
const START_TIME: Duration = Duration::from_secs(10);
/// Lines of its complaints that are kept.
const LINES_MAX: usize = 3;

fn dotted(address: [u8; 4]) -> String {
    address.map(|byte| byte.to_string()).join(".")
}

fn ports(forwards: &[Forward], udp: bool) -> Option<String> {
    let ports = forwards.iter().filter(|forward| forward.udp == udp);
    let ports: Vec<String> =
        ports.map(|forward| format!("{}:{}", forward.host, forward.guest)).collect();
    (!ports.is_empty()).then(|| format!("127.0.0.1/{}", ports.join(",")))
}

fn arguments(forwards: &[Forward]) -> Vec<String> {
    // In the foreground, quiet, the stream is standard input. It ends when the stream does.
    let mut arguments: Vec<String> = ["-f", "-q", "-e", "-F", "0", "-n", "255.255.255.0"]
        .into_iter()
        .map(String::from)
        .collect();
    arguments.extend(["-a".into(), dotted(GUEST), "-g".into(), dotted(HOST)]);
    for (option, udp) in [("-t", false), ("-u", true)] {
        if let Some(ports) = ports(forwards, udp) {
            arguments.extend([option.into(), ports]);
        }
    }
    arguments
}

/// Starts it, and waits until it answers.
pub fn start(forwards: &[Forward], mac: Mac) -> Result<(Child, UnixStream), Failure> {
    let refused = |sentence: String| Failure::new(Exit::Environment, sentence);
    let unusable = |error| refused(format!("the network cannot be used: {error}"));
    let (ours, theirs) = UnixStream::pair().map_err(unusable)?;
    let mut child = Command::new("passt")
        .args(arguments(forwards))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Not of the terminal's: its Ctrl-C ends the recording first.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => refused(
                "the guest's network needs the program passt, which is not installed: install it \
                 (on Debian: apt install passt), or record with --net none"
                    .into(),
            ),
            _ => refused(format!("passt cannot be started: {error}")),
        })?;
    let complaints = child.stderr.take();
    match answers(&ours, mac) {
        Ok(()) => {
            // Nobody reads what it says from now on, but it must not wait for that.
            if let Some(mut complaints) = complaints {
                let _ = thread::Builder::new().name("passt's words".into()).spawn(move || {
                    let _ = std::io::copy(&mut complaints, &mut std::io::sink());
                });
            }
            Ok((child, ours))
        }
        Err(why) => {
            drop(ours);
            let _ = child.kill();
            let _ = child.wait();
            let said = complaints.map(said).unwrap_or_default();
            let advice = "try the same ports with passt alone, or record with --net none";
            Err(refused(format!("passt gives the guest no network: {why}{said}; {advice}")))
        }
    }
}

/// Asks by ARP who the host is.
fn answers(mut stream: &UnixStream, mac: Mac) -> Result<(), String> {
    let mut question = vec![0xff; 6];
    question.extend(mac);
    // ARP; Ethernet, IPv4, their lengths, request.
    question.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(mac);
    question.extend(GUEST);
    question.extend([0; 6]);
    question.extend(HOST);
    let mut bytes = Vec::new();
    framing::put(&question, &mut bytes);
    let told = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => error.to_string(),
    };
    stream.set_read_timeout(Some(START_TIME)).map_err(told)?;
    stream.write_all(&bytes).map_err(told)?;
    let answer = framing::Frames::new(stream).next().map_err(told)?;
    stream.set_read_timeout(None).map_err(told)?;
    answer.map(|_| ()).ok_or_else(|| "it ended at once".into())
}

/// Its last words, without what it says of its own messages.
fn said(complaints: ChildStderr) -> String {
    let lines = BufReader::new(complaints).lines().map_while(Result::ok);
    let lines: Vec<String> = lines
        .filter(|line| {
            !line.is_empty() && !line.contains("syslog") && !line.contains("run as root")
        })
        .collect();
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    if last.is_empty() { String::new() } else { format!(" ({})", last.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_bound_to_the_loopback_interface() {
        let forward = |udp, host, guest| Forward { udp, host, guest };
        let all = [forward(false, 2222, 22), forward(true, 53, 53), forward(false, 8080, 80)];
        let arguments = arguments(&all).join(" ");
        assert!(
            arguments.ends_with("-t 127.0.0.1/2222:22,8080:80 -u 127.0.0.1/53:53"),
            "{arguments}"
        );
        assert_eq!(ports(&[], false), None);
    }
}
