//! Frames without what fills them up to the length that a wire wants. passt (at least as Debian 12 has it) takes that for data of
//! TCP's, and no longer knows what was acknowledged.

const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_BYTES: usize = 40;

/// Takes off what is behind the end of the packet in a frame.
pub fn trim(frame: &mut Vec<u8>) {
    let Some((ethernet, packet)) = frame.split_at_checked(ETHERNET_BYTES) else { return };
    let length = |high: u8, low: u8| usize::from(u16::from_be_bytes([high, low]));
    let bytes = match ([ethernet[12], ethernet[13]], packet) {
        (IPV4, [_, _, high, low, ..]) => length(*high, *low),
        (IPV6, [_, _, _, _, high, low, ..]) => IPV6_BYTES + length(*high, *low),
        _ => return,
    };
    // Of 0 bytes are packets that are longer than can be said.
    if bytes >= 20 {
        frame.truncate(ETHERNET_BYTES + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_packet_goes_and_nothing_else() {
        let frame = |kind: [u8; 2], at: usize, length: u16, bytes: usize| {
            let mut frame = vec![0; bytes];
            frame[12..14].copy_from_slice(&kind);
            frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
            frame
        };
        for (before, bytes) in [
            (frame([8, 0], 16, 40, 60), 54),
            (frame([8, 0], 16, 1500, 1514), 1514),
            (frame([8, 0], 16, 1500, 60), 60),
            (frame([8, 0], 16, 0, 60), 60),
            (frame([0x86, 0xdd], 18, 4, 60), 58),
            (frame([8, 6], 16, 1, 60), 60),
        ] {
            let mut after = before.clone();
            trim(&mut after);
            assert_eq!(after, before[..bytes]);
        }
        for bytes in 0..20 {
            let mut short = [vec![0; 12], vec![8, 0, 0x45, 0, 0, 40]].concat();
            short.truncate(bytes);
            let before = short.clone();
            trim(&mut short);
            assert_eq!(short, before);
        }
    }
}
