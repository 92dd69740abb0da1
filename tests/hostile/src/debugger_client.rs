//! Arbitrary bytes as a debugger's client.

use dejavm_gdb_tests::Rerun;
use dejavm_stub::{Options, Session, State, Target};

/// Runs and commands that one client may ask for.
const WORK_MAX: u32 = 40;
/// The most that a session may have to say to one client of ours: each run and command at most a packet of
/// the largest size and some text.
const OUTPUT_BYTES_MAX: usize = 48 << 20;

/// Bytes as they come from a socket, in pieces of varying length; the first bit of the first byte makes the
/// machine live. Returns how many packets were answered.
pub fn debugger_bytes(bytes: &[u8]) -> usize {
    let Some((&first, bytes)) = bytes.split_first() else { return 0 };
    let mut target = target(first);
    let pieces = bytes.chunks(usize::from(first >> 1) + 1);
    converse(&mut target, pieces.map(<[u8]>::to_vec))
}

/// Lines as payloads, checksums put right: so a fuzzer comes past the framing.
pub fn debugger_packets(bytes: &[u8]) -> usize {
    let Some((&first, bytes)) = bytes.split_first() else { return 0 };
    let mut target = target(first);
    let packets = bytes.split(|byte| *byte == b'\n').map(|payload| {
        let sum = payload.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let mut packet = vec![b'$'];
        packet.extend(payload);
        packet.extend(format!("#{sum:02x}").bytes());
        packet
    });
    converse(&mut target, packets)
}

fn target(first: u8) -> Rerun {
    let image = dejavm_images::HELLO;
    if first & 1 == 0 { Rerun::replay(image) } else { Rerun::live(image) }
}

fn converse(target: &mut dyn Target, pieces: impl Iterator<Item = Vec<u8>>) -> usize {
    let mut patience = 0u32;
    // A client that breaks off: runs end after a while.
    let interrupted = move || {
        patience += 1;
        patience > 1000
    };
    let mut session = Session::new(target, Box::new(interrupted), Options::default());
    let (mut work, mut sent, mut answered) = (0, 0, 0);
    for piece in pieces {
        session.receive(&piece);
        while session.state() == State::Work && work < WORK_MAX {
            session.work();
            work += 1;
        }
        let output = session.take_output();
        sent += output.len();
        answered += output.iter().filter(|byte| **byte == b'$').count();
        assert!(sent <= OUTPUT_BYTES_MAX, "it talks too much");
        if session.state() != State::Input {
            break;
        }
    }
    answered
}
