//! Arbitrary bytes as a VNC viewer.

use dejavm_rfb::{Frame, Session};

/// What is said at first by a viewer that is let in.
const HELLO: &[u8] = b"RFB 003.008\n\x01\x01";
/// Bytes sent for a byte that came, at most: a palette for a pixel format.
const OUTPUT_FACTOR: usize = 80;
/// Bytes sent for a pixel of a picture, at most, and for anything else in a message.
const PIXEL_BYTES_MAX: usize = 8;
const MESSAGE_BYTES_MAX: usize = 8192;
/// Of the pictures here, at most.
const PIXELS_MAX: usize = 200 * 90;

/// What a viewer sends, in pieces, while the guest draws and changes its mode. The first byte says how long pieces are, whether the
/// viewer only looks (bit 0), and whether it has been let in (bit 1). Returns how many keys and motions it sent.
pub fn viewer(bytes: &[u8]) -> usize {
    let Some((&first, bytes)) = bytes.split_first() else { return 0 };
    let mut frame = Frame::black(70, 20);
    let mut session = Session::new("fuzz", &frame, first & 1 != 0);
    if first & 2 != 0 {
        session.receive(HELLO).expect("this is how it begins");
    }
    let mut events = 0;
    for (number, piece) in bytes.chunks(usize::from(first >> 2) + 1).enumerate() {
        session.take_output();
        let Ok(happened) = session.receive(piece) else { break };
        events += happened.len();
        let said = session.take_output().len();
        assert!(said <= OUTPUT_FACTOR * piece.len() + MESSAGE_BYTES_MAX, "it talks too much");
        frame = next(&frame, number);
        session.update(&frame);
        let said = session.take_output().len();
        assert!(said <= PIXEL_BYTES_MAX * PIXELS_MAX + MESSAGE_BYTES_MAX, "it talks too much");
    }
    events + session.left().len()
}

/// What the guest shows next: now and then in other dimensions.
fn next(frame: &Frame, number: usize) -> Frame {
    if number % 7 == 6 {
        return Frame::black((1 + 37 * number % 200) as u16, (1 + 11 * number % 90) as u16);
    }
    let mut rgb: Vec<u8> = frame.pixels(frame.whole()).flatten().collect();
    let length = rgb.len();
    for dot in 0..number % 40 {
        rgb[(number * 7919 + dot * 613) % length] = (number + dot) as u8;
    }
    Frame::new(frame.width(), frame.height(), rgb).expect("of the same dimensions")
}
