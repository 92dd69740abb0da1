//! Sending: descriptors, checksums that the card computes, and the cutting of long TCP packets (software developer's manual,
//! 3.3 to 3.5).

use super::E1000;
use crate::card::Surroundings;
use crate::ethernet::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};
use dejavm_units::Gpa;
use serde::{Deserialize, Serialize};

/// Commands of descriptors.
const EOP: u8 = 1 << 0;
const IC: u8 = 1 << 2;
const TSE: u8 = 1 << 2;
const RS: u8 = 1 << 3;
const DEXT: u8 = 1 << 5;
/// Status.
const DD: u8 = 1;
/// Options of a packet: insert the checksum of IP, of TCP or UDP.
const IXSM: u8 = 1 << 0;
const TXSM: u8 = 1 << 1;
/// Of a context: the packets are TCP and not UDP; IPv4 and not IPv6.
const CONTEXT_TCP: u8 = 1 << 0;
const CONTEXT_IP: u8 = 1 << 1;

/// Bytes of a packet at most: what IP can say, and headers.
const PACKET_BYTES_MAX: usize = 65_535 + 256;
/// What a descriptor and a frame cost beside their bytes, as bytes.
const COST: u64 = 256;

/// A sum over some bytes, and where it goes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Checksum {
    start: u8,
    offset: u8,
    /// The last byte; 0: of the packet.
    end: u16,
}

/// What a context descriptor says of the packets behind it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Context {
    ip: Checksum,
    tcp: Checksum,
    command: u8,
    header_bytes: u8,
    segment_bytes: u16,
}

/// A descriptor (3.3.3, 3.3.6, 3.3.7).
#[derive(Clone, Copy)]
struct Descriptor([u8; 16]);

impl Descriptor {
    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn command(&self) -> u8 {
        self.0[11]
    }

    fn is_extended(&self) -> bool {
        self.command() & DEXT != 0
    }

    fn is_context(&self) -> bool {
        self.is_extended() && self.0[10] >> 4 == 0
    }

    fn ends_packet(&self) -> bool {
        !self.is_context() && self.command() & EOP != 0
    }

    fn at(&self) -> Gpa {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        Gpa(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    fn bytes(&self) -> usize {
        let low = usize::from(self.word(8));
        if self.is_extended() { low | usize::from(self.0[10] & 0xf) << 16 } else { low }
    }

    fn context(&self) -> Context {
        let sum = |at: usize| Checksum {
            start: self.0[at],
            offset: self.0[at + 1],
            end: self.word(at + 2),
        };
        Context {
            ip: sum(0),
            tcp: sum(4),
            command: self.command(),
            header_bytes: self.0[13],
            segment_bytes: self.word(14),
        }
    }
}

/// The ones' complement sum of bytes, as IP has it.
fn sum(bytes: &[u8]) -> u16 {
    let (pairs, last) = bytes.as_chunks::<2>();
    let words = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair)));
    let mut sum = words.sum::<u64>() + last.first().map_or(0, |byte| u64::from(*byte) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn put_word(packet: &mut [u8], at: usize, value: u16) {
    if let Some(to) = packet.get_mut(at..at + 2) {
        to.copy_from_slice(&value.to_be_bytes());
    }
}

fn word(packet: &[u8], at: usize) -> u16 {
    packet.get(at..at + 2).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Computes a checksum, over whatever stands at its place.
fn insert(packet: &mut [u8], Checksum { start, offset, end }: Checksum) {
    let end = match end {
        0 => packet.len(),
        end => packet.len().min(usize::from(end) + 1),
    };
    let Some(covered) = packet.get(usize::from(start)..end) else { return };
    let value = !sum(covered);
    put_word(packet, offset.into(), value);
}

/// Cuts a packet into frames of at most `segment_bytes` behind the headers (3.5).
fn cut(packet: &[u8], context: &Context) -> Vec<Vec<u8>> {
    let header_bytes = usize::from(context.header_bytes).min(packet.len());
    let (header, payload) = packet.split_at(header_bytes);
    let (ip, tcp) = (usize::from(context.ip.start), usize::from(context.tcp.start));
    let segments = payload.chunks(usize::from(context.segment_bytes).max(1));
    let count = segments.len();
    let mut done = 0u32;
    let mut frames = Vec::with_capacity(count);
    for (number, segment) in segments.enumerate() {
        let mut frame = [header, segment].concat();
        let behind = |start: usize| frame.len().saturating_sub(start) as u16;
        let (ip_bytes, tcp_bytes) = (behind(ip), behind(tcp));
        if context.command & CONTEXT_IP != 0 {
            put_word(&mut frame, ip + 2, ip_bytes);
            let id = word(&frame, ip + 4).wrapping_add(number as u16);
            put_word(&mut frame, ip + 4, id);
        } else {
            // Of IPv6, the payload's.
            put_word(&mut frame, ip + 4, ip_bytes.saturating_sub(40));
        }
        if context.command & CONTEXT_TCP != 0 {
            if let Some(sequence) = frame.get_mut(tcp + 4..tcp + 8) {
                let first =
                    u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]);
                sequence.copy_from_slice(&first.wrapping_add(done).to_be_bytes());
            }
            if number + 1 < count
                && let Some(flags) = frame.get_mut(tcp + 13)
            {
                // FIN and PSH are the last one's.
                *flags &= !0x09;
            }
        } else {
            put_word(&mut frame, tcp + 4, tcp_bytes);
        }
        // The driver has put the sum of the pseudo header there, without the length.
        let offset = usize::from(context.tcp.offset);
        let seed = u32::from(word(&frame, offset)) + u32::from(tcp_bytes);
        put_word(&mut frame, offset, ((seed & 0xffff) + (seed >> 16)) as u16);
        done = done.wrapping_add(segment.len() as u32);
        frames.push(frame);
    }
    frames
}

impl E1000 {
    fn fetch(&self, index: u32, around: &dyn Surroundings) -> Descriptor {
        let mut bytes = [0; 16];
        around.read_memory(self.transmit.descriptor(index), &mut bytes);
        Descriptor(bytes)
    }

    /// Descriptors up to the end of the next packet; `None`: it is not complete yet.
    fn next_packet(&self, around: &dyn Surroundings) -> Option<Vec<Descriptor>> {
        let entries = self.transmit.entries();
        let mut descriptors = Vec::new();
        for n in 0..self.transmit.handed() {
            let descriptor = self.fetch((self.transmit.head + n) % entries, around);
            descriptors.push(descriptor);
            if descriptor.ends_packet() || descriptor.is_context() {
                return Some(descriptors);
            }
        }
        None
    }

    /// Sends a packet; what it counts for.
    fn send(&mut self, descriptors: &[Descriptor], around: &mut dyn Surroundings) -> u64 {
        let Some((&first, &last)) = descriptors.first().zip(descriptors.last()) else { return 0 };
        if last.is_context() {
            self.context = last.context();
            return 0;
        }
        let mut packet = Vec::new();
        for descriptor in descriptors.iter().filter(|descriptor| !descriptor.is_context()) {
            let begin = packet.len();
            let bytes = descriptor.bytes().min(PACKET_BYTES_MAX - begin);
            packet.resize(begin + bytes, 0);
            around.read_memory(descriptor.at(), &mut packet[begin..]);
        }
        let mut frames = vec![packet];
        if first.is_extended() {
            let context = self.context;
            if first.command() & TSE != 0 {
                frames = cut(&frames[0], &context);
            }
            for frame in &mut frames {
                if first.0[13] & IXSM != 0 {
                    insert(frame, context.ip);
                }
                if first.0[13] & TXSM != 0 {
                    insert(frame, context.tcp);
                }
            }
        } else if last.command() & IC != 0 {
            insert(&mut frames[0], Checksum { start: last.0[13], offset: last.0[10], end: 0 });
        }
        let mut cost = 0;
        for frame in frames {
            cost += COST + frame.len() as u64;
            if (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
                self.sent.count(&frame);
                if self.link {
                    around.send_frame(frame);
                }
            }
        }
        cost
    }

    /// Sends until nothing complete waits or it was `enough`; what it counts for, whether more waits, whether the driver wants to
    /// be told.
    pub(super) fn transmit(
        &mut self,
        enough: u64,
        around: &mut dyn Surroundings,
    ) -> (u64, bool, bool) {
        let (mut cost, mut told) = (0, false);
        while cost < enough {
            let Some(descriptors) = self.next_packet(around) else { return (cost, false, told) };
            cost += COST * descriptors.len() as u64 + self.send(&descriptors, around);
            for descriptor in descriptors {
                if descriptor.command() & RS != 0 {
                    let status = self.transmit.descriptor(self.transmit.head).wrapping_add(12);
                    around.write_memory(status, &[descriptor.0[12] | DD]);
                    told = true;
                }
                self.transmit.advance();
            }
        }
        (cost, true, told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry_around_and_an_odd_byte_is_a_high_one() {
        assert_eq!([sum(&[]), sum(&[0; 4]), sum(&[0xff; 4])], [0, 0, 0xffff]);
        assert_eq!([sum(&[0x12]), sum(&[0xff; 3])], [0x1200, 0xff00]);
        assert_eq!(sum(&[0xff; 0x1_0000]), 0xffff);
    }

    #[test]
    fn a_checksum_goes_where_it_belongs() {
        // RFC 1071, 3: the sum of these is ddf2.
        let mut packet = vec![9, 9, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0];
        insert(&mut packet, Checksum { start: 2, offset: 10, end: 9 });
        assert_eq!(packet[10..], [0x22, 0x0d]);
        let before = packet.clone();
        insert(&mut packet, Checksum { start: 200, offset: 10, end: 0 });
        insert(&mut packet, Checksum { start: 2, offset: 250, end: 0 });
        assert_eq!(packet, before, "outside the packet");
    }

    #[test]
    fn a_long_packet_is_cut_and_each_piece_is_right() {
        let mut packet = vec![0; 14];
        packet.extend([0x45, 0, 0, 0, 0x10, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        // Ports, sequence, acknowledgement, 5 words, FIN PSH ACK, window, the pseudo header's sum, urgent.
        let pseudo = sum(&[10, 0, 2, 15, 10, 0, 2, 2, 0, 6]);
        packet.extend([0, 1, 0, 2, 0xff, 0xff, 0xff, 0x00, 0, 0, 0, 0, 0x50, 0x19, 0, 0]);
        packet.extend(pseudo.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend((0..2500u32).map(|n| n as u8));
        let context = Context {
            ip: Checksum { start: 14, offset: 24, end: 33 },
            tcp: Checksum { start: 34, offset: 50, end: 0 },
            command: CONTEXT_TCP | CONTEXT_IP,
            header_bytes: 54,
            segment_bytes: 1000,
        };
        let mut frames = cut(&packet, &context);
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        let mut payload = Vec::new();
        for (n, frame) in frames.iter_mut().enumerate() {
            insert(frame, context.ip);
            insert(frame, context.tcp);
            assert_eq!(usize::from(word(frame, 16)), frame.len() - 14, "length");
            assert_eq!(word(frame, 18), 0x10ff + n as u16, "identification");
            assert_eq!(sum(&frame[14..34]), 0xffff, "checksum of IP");
            let mut covered = vec![10, 0, 2, 15, 10, 0, 2, 2, 0, 6];
            covered.extend((frame.len() as u16 - 34).to_be_bytes());
            covered.extend_from_slice(&frame[34..]);
            assert_eq!(sum(&covered), 0xffff, "checksum of TCP");
            let sequence = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
            assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(1000 * n as u32));
            assert_eq!(frame[47], if n == 2 { 0x19 } else { 0x10 }, "flags");
            payload.extend_from_slice(&frame[54..]);
        }
        assert_eq!(payload, packet[54..]);
    }
}
