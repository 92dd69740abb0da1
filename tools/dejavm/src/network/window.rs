//! TCP connections through passt without window scaling, so that no more than 64 KiB of one are under way.
//!
//! passt loses frames where it would have to wait for us, as for a guest whose window is larger than a socket's buffer; it notices
//! late, and then sends all behind the first again. Each of them would be in the recording. So the option by which the two ends
//! agree on larger windows is taken out of their first packets (RFC 7323, 2.2), in both directions, as some routers do.

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;
const TCP_BYTES: usize = 20;
const SYN: u8 = 0x02;

/// Options: the end of all, nothing, the window's scale and its length.
const END: u8 = 0;
const NOTHING: u8 = 1;
const SCALE: u8 = 3;
const SCALE_BYTES: u8 = 3;

/// Takes the option out of a frame if it begins a TCP connection.
pub fn unscale(frame: &mut [u8]) {
    let Some(tcp) = segment(frame) else { return };
    let Some(header) = frame.get_mut(tcp..) else { return };
    let Some(&[_, _, _, _, _, _, _, _, _, _, _, _, words, flags, ..]) =
        header.first_chunk::<TCP_BYTES>()
    else {
        return;
    };
    if flags & SYN == 0 {
        return;
    }
    let end = usize::from(words >> 4) * 4;
    let mut at = TCP_BYTES;
    while at < end {
        let length = match header.get(at..) {
            None | Some([] | [END, ..]) => return,
            Some([NOTHING, ..]) => 1,
            Some([SCALE, SCALE_BYTES, _, ..]) => return silence(header, at),
            Some([_, length, ..]) if *length >= 2 => usize::from(*length),
            Some(_) => return,
        };
        at += length;
    }
}

/// Where the TCP header of a frame begins.
fn segment(frame: &[u8]) -> Option<usize> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_BYTES)?;
    let kind = [ethernet[12], ethernet[13]];
    match (kind, packet) {
        // The first fragment, or the only one.
        (IPV4, [version, _, _, _, _, _, high, low, _, TCP, ..])
            if version >> 4 == 4 && (high & 0x1f, *low) == (0, 0) =>
        {
            Some(ETHERNET_BYTES + 4 * usize::from(version & 0xf))
        }
        (IPV6, [version, _, _, _, _, _, TCP, ..]) if version >> 4 == 6 => {
            Some(ETHERNET_BYTES + IPV6_BYTES)
        }
        _ => None,
    }
}

/// Writes nothing over the option, and makes the checksum right again (RFC 1624).
fn silence(header: &mut [u8], at: usize) {
    let mut sum = !u16::from_be_bytes([header[16], header[17]]);
    for (offset, place) in header[at..][..usize::from(SCALE_BYTES)].iter_mut().enumerate() {
        let index = at + offset;
        let old = std::mem::replace(place, NOTHING);
        for (byte, sign) in [(old, true), (NOTHING, false)] {
            let word = if index.is_multiple_of(2) { u16::from(byte) << 8 } else { u16::from(byte) };
            let (added, carry) = sum.overflowing_add(if sign { !word } else { word });
            sum = added + u16::from(carry);
        }
    }
    header[16..18].copy_from_slice(&(!sum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ones' complement sum that a segment with a right checksum gives, its pseudo header left out.
    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    fn frame(ip: &[u8], flags: u8, options: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend_from_slice(ip);
        let words = (20 + options.len() as u8) / 4;
        frame.extend([0x30, 0x39, 0, 22, 1, 2, 3, 4, 0, 0, 0, 0, words << 4, flags, 0xfa, 0xf0]);
        frame.extend([0xab, 0xcd, 0, 0]);
        frame.extend_from_slice(options);
        frame
    }

    const V4: [u8; 22] =
        [8, 0, 0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2];
    /// MSS, selective acknowledgements, time stamps, nothing, scale 7: Linux's.
    const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

    #[test]
    fn the_scale_is_taken_out_and_the_checksum_stays_right() {
        let mut v6 = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 40, 6, 64];
        v6.extend([0xfd; 32]);
        for ip in [&V4[..], &v6] {
            for (flags, options) in
                [(0x02, &LINUX[..]), (0x12, &[2, 4, 5, 0xb4, 3, 3, 8, 0]), (0x02, &[1, 3, 3, 14])]
            {
                let before = frame(ip, flags, options);
                let mut after = before.clone();
                unscale(&mut after);
                assert_ne!(after, before);
                let tcp = 12 + ip.len();
                let expected: Vec<u8> = {
                    let at = options.windows(2).position(|pair| pair == [3, 3]).unwrap();
                    [&options[..at], &[1, 1, 1], &options[at + 3..]].concat()
                };
                assert_eq!(after[tcp + 20..], expected);
                assert_eq!(sum(&after[tcp..]) % 0xffff, sum(&before[tcp..]) % 0xffff);
                assert_eq!(after[..tcp + 16], before[..tcp + 16]);
            }
        }
    }

    #[test]
    fn all_else_is_left_alone() {
        let data = frame(&V4, 0x10, &LINUX);
        let mut fragment = frame(&V4, 0x02, &LINUX);
        fragment[21] = 1;
        let mut udp = frame(&V4, 0x02, &LINUX);
        udp[23] = 17;
        let torn = frame(&V4, 0x02, &LINUX)[..52].to_vec();
        let looped = frame(&V4, 0x02, &[2, 0, 3, 3, 7, 0, 0, 0]);
        let ended = frame(&V4, 0x02, &[0, 3, 3, 7]);
        for before in [data, fragment, udp, torn, looped, ended, vec![], vec![8; 14], vec![8; 30]] {
            let mut after = before.clone();
            unscale(&mut after);
            assert_eq!(after, before);
        }
    }

    #[test]
    fn nothing_panics() {
        let whole = frame(&V4, 0x02, &LINUX);
        for length in 0..whole.len() {
            for byte in 0..length {
                for value in [0, 3, 0x45, 0xf0, 0xff] {
                    let mut frame = whole[..length].to_vec();
                    frame[byte] = value;
                    unscale(&mut frame);
                }
            }
        }
    }
}
