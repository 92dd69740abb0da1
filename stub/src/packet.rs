//! Packets on the wire: `$payload#checksum`, acknowledgements, the interrupt byte, escapes (the gdb
//! manual, "Overview" of the remote protocol).

/// Longest payload that we accept, in bytes as they come (escapes included). Also what `PacketSize`
/// says; gdb sizes its memory reads by it.
pub const PACKET_BYTES_MAX: usize = 1 << 20;

/// Something complete that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A packet, checksum right, escapes still in.
    Packet(Vec<u8>),
    /// One whose checksum is wrong, or that is too long: to be answered with a nack.
    Broken,
    /// `+`
    Ack,
    /// `-`: the last reply is wanted again.
    Nack,
    /// The byte 3, outside of a packet: `^C`.
    Interrupt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// No packet.
    Nothing,
    Payload,
    /// A payload that is too long to keep.
    Overlong,
    /// Behind `#`.
    Checksum,
    /// Its second digit.
    ChecksumLow(u8),
}

/// Takes bytes as they come and makes packets of them. Holds at most one packet.
#[derive(Debug)]
pub struct Receiver {
    inside: Inside,
    payload: Vec<u8>,
    overlong: bool,
}

impl Default for Receiver {
    fn default() -> Receiver {
        Receiver { inside: Inside::Nothing, payload: Vec::new(), overlong: false }
    }
}

impl Receiver {
    /// One more byte. Bytes between packets that mean nothing are dropped.
    pub fn byte(&mut self, byte: u8) -> Option<Received> {
        match self.inside {
            Inside::Nothing => match byte {
                b'$' => {
                    self.payload.clear();
                    self.overlong = false;
                    self.inside = Inside::Payload;
                    None
                }
                b'+' => Some(Received::Ack),
                b'-' => Some(Received::Nack),
                3 => Some(Received::Interrupt),
                _ => None,
            },
            Inside::Payload | Inside::Overlong => {
                match byte {
                    b'#' => self.inside = Inside::Checksum,
                    // A payload never holds a bare `$`: what came before was cut off.
                    b'$' => {
                        self.payload.clear();
                        self.overlong = false;
                        self.inside = Inside::Payload;
                    }
                    _ if self.payload.len() == PACKET_BYTES_MAX => {
                        self.overlong = true;
                        self.inside = Inside::Overlong;
                    }
                    _ => self.payload.push(byte),
                }
                None
            }
            Inside::Checksum => {
                self.inside = Inside::ChecksumLow(byte);
                None
            }
            Inside::ChecksumLow(high) => {
                self.inside = Inside::Nothing;
                let sum = digit(high).zip(digit(byte)).map(|(high, low)| high << 4 | low);
                let payload = std::mem::take(&mut self.payload);
                if self.overlong || sum != Some(checksum(&payload)) {
                    return Some(Received::Broken);
                }
                Some(Received::Packet(payload))
            }
        }
    }
}

/// Whether bytes that arrive while the machine runs should stop it: `^C` and whole packets do, late
/// acknowledgements do not. gdb sends `-` when a reply takes longer than two seconds.
pub fn interrupts(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| !matches!(byte, b'+' | b'-'))
}

fn checksum(payload: &[u8]) -> u8 {
    payload.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The value of a hexadecimal digit.
pub fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|value| value as u8)
}

/// A hexadecimal number of at most 64 bits, all of the text.
pub fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| {
        let digit = digit(*byte)?;
        (value >> 60 == 0).then(|| value << 4 | u64::from(digit))
    })
}

/// Two hexadecimal digits a byte, all of the text.
pub fn bytes(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2)
        .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?))
        .collect()
}

/// Bytes as hexadecimal digits, at the end of `out`.
pub fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Binary data as a payload has it, at the end of `out`.
pub fn push_escaped(out: &mut Vec<u8>, data: &[u8]) {
    for &byte in data {
        if matches!(byte, b'#' | b'$' | b'}' | b'*') {
            out.extend([b'}', byte ^ 0x20]);
        } else {
            out.push(byte);
        }
    }
}

/// A payload with `$` and checksum around it, at the end of `out`.
pub fn push_framed(out: &mut Vec<u8>, payload: &[u8]) {
    out.push(b'$');
    out.extend(payload);
    out.push(b'#');
    push_hex(out, &[checksum(payload)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(receiver: &mut Receiver, bytes: &[u8]) -> Vec<Received> {
        bytes.iter().filter_map(|byte| receiver.byte(*byte)).collect()
    }

    #[test]
    fn packets_come_in_any_pieces() {
        let mut receiver = Receiver::default();
        assert_eq!(receive(&mut receiver, b"+$m12,4"), [Received::Ack]);
        let packet = Received::Packet(b"m12,4".to_vec());
        assert_eq!(receive(&mut receiver, b"#"), []);
        // 'm' + '1' + '2' + ',' + '4' = 0x6d + 0x31 + 0x32 + 0x2c + 0x34 = 0x130.
        assert_eq!(
            receive(&mut receiver, b"30\x03-"),
            [packet, Received::Interrupt, Received::Nack]
        );
    }

    #[test]
    fn a_wrong_checksum_a_missing_one_and_a_packet_within_another() {
        let mut receiver = Receiver::default();
        assert_eq!(receive(&mut receiver, b"$g#66$g#zz$g#"), [Received::Broken, Received::Broken]);
        assert_eq!(receive(&mut receiver, b"67"), [Received::Packet(b"g".to_vec())]);
        assert_eq!(receive(&mut receiver, b"$vCo$g#67"), [Received::Packet(b"g".to_vec())]);
        // An interrupt byte in a packet is data.
        assert_eq!(receive(&mut receiver, b"$\x03#03"), [Received::Packet(vec![3])]);
    }

    #[test]
    fn a_packet_without_end_takes_bounded_memory() {
        let mut receiver = Receiver::default();
        receiver.byte(b'$');
        for _ in 0..3 * PACKET_BYTES_MAX {
            assert_eq!(receiver.byte(0), None);
        }
        assert!(receiver.payload.capacity() <= 2 * PACKET_BYTES_MAX);
        assert_eq!(receive(&mut receiver, b"#00"), [Received::Broken]);
        assert_eq!(receive(&mut receiver, b"$g#67"), [Received::Packet(b"g".to_vec())]);
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"ffffffffffffffff"), Some(u64::MAX));
        assert_eq!(number(b"1ffffffffffffffff"), None);
        assert_eq!((number(b""), number(b"-1"), number(b"0x1")), (None, None, None));
        assert_eq!((bytes(b"0aF"), bytes(b"0aFf")), (None, Some(vec![10, 255])));
        let mut out = Vec::new();
        push_escaped(&mut out, b"a#$}*b");
        assert_eq!(out, b"a}\x03}\x04}]}\x0ab");
    }
}
