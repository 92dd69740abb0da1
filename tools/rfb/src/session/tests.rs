//! Conversations, written down byte by byte from RFC 6143.

use super::*;
use crate::keyboard::Key;

fn session(width: u16, height: u16) -> (Session, Frame) {
    let frame = Frame::black(width, height);
    (Session::new("guest", &frame, false), frame)
}

/// After the handshake of version 3.8.
fn talking(width: u16, height: u16) -> (Session, Frame) {
    let (mut session, frame) = session(width, height);
    session.receive(b"RFB 003.008\n\x01\x01").unwrap();
    session.take_output();
    (session, frame)
}

fn request(incremental: u8, [x, y, width, height]: [u16; 4]) -> Vec<u8> {
    let mut message = vec![3, incremental];
    [x, y, width, height].iter().for_each(|part| message.extend(part.to_be_bytes()));
    message
}

fn encodings(wishes: &[i32]) -> Vec<u8> {
    let mut message = vec![2, 0];
    message.extend((wishes.len() as u16).to_be_bytes());
    wishes.iter().for_each(|wish| message.extend(wish.to_be_bytes()));
    message
}

fn lit(frame: &Frame, at: usize) -> Frame {
    let (width, height) = (frame.width(), frame.height());
    let mut rgb: Vec<u8> = frame.pixels(frame.whole()).flatten().collect();
    rgb[3 * at..3 * at + 3].copy_from_slice(&[1, 2, 3]);
    Frame::new(width, height, rgb).unwrap()
}

/// What a server says of itself: 4 by 2 pixels, 32 bits, depth 24, little-endian, true colour, maxima, shifts, padding, name.
const HELLO: &[u8] = b"\0\x04\0\x02\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x05guest";

#[test]
fn a_client_of_version_3_8() {
    let (mut session, _) = session(4, 2);
    assert_eq!(session.take_output(), b"RFB 003.008\n");
    session.receive(b"RFB 003.008\n").unwrap();
    assert_eq!(session.take_output(), [1, 1]);
    session.receive(&[1]).unwrap();
    assert_eq!(session.take_output(), [0, 0, 0, 0]);
    assert!(!session.is_initialised());
    session.receive(&[0]).unwrap();
    assert_eq!(session.take_output(), HELLO);
    assert!(session.is_initialised());
}

#[test]
fn clients_of_older_versions_and_of_newer() {
    for (version, before) in [
        ("003.003", &[0, 0, 0, 1][..]),
        ("003.005", &[0, 0, 0, 1]),
        ("003.007", &[1, 1]),
        ("003.889", &[1, 1, 0, 0, 0, 0]),
        ("004.001", &[1, 1, 0, 0, 0, 0]),
    ] {
        let (mut session, _) = session(4, 2);
        session.take_output();
        session.receive(format!("RFB {version}\n").as_bytes()).unwrap();
        if before.len() != 4 {
            session.receive(&[1]).unwrap();
        }
        session.receive(&[1]).unwrap();
        assert_eq!(session.take_output(), [before, HELLO].concat(), "{version}");
    }
}

#[test]
fn the_same_is_heard_however_the_bytes_are_cut() {
    let bytes = [
        b"RFB 003.008\n\x01\x01".to_vec(),
        encodings(&[16, -223, -258]),
        b"\x06\0\0\0\0\0\0\x03abc".to_vec(),
        b"\x04\x01\0\0\0\0\0a\xff\0\0\x01\0\0\0b\0\0\0\x30\x05\0\0\x01\0\x02".to_vec(),
        request(0, [0, 0, 4, 2]),
    ]
    .concat();
    let (mut whole, frame) = session(4, 2);
    let expected = whole.receive(&bytes).unwrap();
    whole.update(&frame);
    let expected_output = whole.take_output();
    assert_eq!(expected.len(), 3);
    for cut in 0..=bytes.len() {
        let (mut session, _) = session(4, 2);
        let mut events = session.receive(&bytes[..cut]).unwrap();
        events.extend(session.receive(&bytes[cut..]).unwrap());
        session.update(&frame);
        assert_eq!((events, session.take_output()), (expected.clone(), expected_output.clone()));
    }
}

#[test]
fn strangers_are_sent_away() {
    for (bytes, why) in [
        (&b"GET / HTTP/1.1"[..], Unwelcome::OtherProtocol),
        (b"RFX", Unwelcome::OtherProtocol),
        (b"RFB 0x3.008\n", Unwelcome::OtherProtocol),
        (b"RFB 002.000\n", Unwelcome::OtherProtocol),
        (b"RFB 003.008\n\x02", Unwelcome::Security(2)),
        (b"RFB 003.008\n\x01\x01\x07", Unwelcome::Message(7)),
        (b"RFB 003.008\n\x01\x01\xff\x01", Unwelcome::Message(255)),
        (b"RFB 003.003\n\x01\0\0\0\0\x21\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Unwelcome::PixelFormat),
    ] {
        let (mut session, _) = session(4, 2);
        assert_eq!(session.receive(bytes), Err(why), "{bytes:?}");
    }
    let (mut session, _) = session(4, 2);
    let _ = session.receive(b"RFB 003.008\n\x02");
    let said = session.take_output();
    assert_eq!(said[14..18], [0, 0, 0, 1]);
    assert!(said.ends_with(b"security type None"));
}

#[test]
fn a_picture_comes_once_for_each_request_and_only_what_changed() {
    let (mut session, black) = talking(200, 40);
    session.update(&black);
    assert_eq!(session.take_output(), []);
    // All of it first, even asked for as what changed.
    session.receive(&request(1, [0, 0, 200, 40])).unwrap();
    assert!(session.wants_update());
    session.update(&black);
    let first = session.take_output();
    assert_eq!(first[..16], [0, 0, 0, 1, 0, 0, 0, 0, 0, 200, 0, 40, 0, 0, 0, 0]);
    assert_eq!(first.len(), 16 + 200 * 40 * 4);
    let changed = lit(&black, 0);
    session.update(&changed);
    assert_eq!(session.take_output(), []);
    session.receive(&request(1, [0, 0, 200, 40])).unwrap();
    session.update(&changed);
    let second = session.take_output();
    assert_eq!(second[..20], [0, 0, 0, 1, 0, 0, 0, 0, 0, 64, 0, 16, 0, 0, 0, 0, 3, 2, 1, 0]);
    assert_eq!(second.len(), 16 + 64 * 16 * 4);
    // Nothing new: it waits.
    session.receive(&request(1, [0, 0, 200, 40])).unwrap();
    session.update(&changed);
    assert_eq!(session.take_output(), []);
    session.update(&black);
    assert_eq!(session.take_output().len(), 16 + 64 * 16 * 4);
}

#[test]
fn a_part_is_asked_for_and_the_rest_is_not_forgotten() {
    let (mut session, black) = talking(200, 40);
    let changed = lit(&lit(&black, 0), 199);
    session.receive(&request(0, [0, 0, 1, 1])).unwrap();
    session.update(&changed);
    assert_eq!(session.take_output()[4..], [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, 2, 1, 0]);
    session.receive(&request(1, [199, 0, 0xffff, 0xffff])).unwrap();
    session.update(&changed);
    let part = session.take_output();
    // Beside what it has, and below.
    assert_eq!(part[..20], [0, 0, 0, 2, 0, 199, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 3, 2, 1, 0]);
    assert_eq!(part[20..32], [0, 199, 0, 1, 0, 1, 0, 39, 0, 0, 0, 0]);
}

/// However often it asked, nothing is sent twice.
#[test]
fn places_that_overlap_are_sent_once() {
    let (mut session, black) = talking(100, 10);
    for x in 0..50 {
        session.receive(&request(0, [x, 0, 50, 10])).unwrap();
    }
    session.receive(&request(0, [0, 0, 100, 10])).unwrap();
    session.update(&black);
    assert_eq!(session.take_output().len(), 16 + 100 * 10 * 4);
    session.receive(&request(1, [0, 0, 100, 10])).unwrap();
    session.update(&black);
    assert_eq!(session.take_output(), []);
}

#[test]
fn other_dimensions_are_told_or_fitted() {
    let wider = Frame::black(8, 2);
    let (mut session, _) = talking(4, 2);
    session.receive(&encodings(&[0, -223])).unwrap();
    session.receive(&request(1, [0, 0, 4, 2])).unwrap();
    session.update(&wider);
    assert_eq!(session.take_output(), [0, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0, 2, 255, 255, 255, 33]);
    session.receive(&request(1, [0, 0, 8, 2])).unwrap();
    session.update(&wider);
    assert_eq!(session.take_output().len(), 16 + 4 * 16);

    let (mut session, _) = talking(4, 2);
    session.receive(&request(1, [0, 0, 4, 2])).unwrap();
    session.update(&lit(&wider, 3));
    let fitted = session.take_output();
    assert_eq!(fitted.len(), 16 + 4 * 8);
    assert_eq!(fitted[16 + 12..16 + 16], [3, 2, 1, 0]);
}

#[test]
fn a_client_is_told_once_that_keys_have_numbers_and_the_pointer_moves() {
    let (mut session, black) = talking(1, 1);
    session.receive(&encodings(&[0, -258, -257])).unwrap();
    session.receive(&request(0, [0, 0, 1, 1])).unwrap();
    session.update(&black);
    let said = session.take_output();
    assert_eq!(said[..4], [0, 0, 0, 3]);
    assert_eq!(said[4..16], [0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 254, 254]);
    assert_eq!(said[16..28], [0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 254, 255]);
    session.receive(&request(0, [0, 0, 1, 1])).unwrap();
    session.update(&black);
    assert_eq!(session.take_output()[..4], [0, 0, 0, 1]);
    let events = session.receive(&[5, 0, 0x80, 0, 0x7f, 0xff]).unwrap();
    assert_eq!(events, [Event::Mouse(Mouse { right: 1, ..Mouse::default() })]);
}

#[test]
fn keys_and_the_mouse_are_heard_and_let_go_at_the_end() {
    let key = |code, extended, pressed| Event::Key(Stroke { key: Key { code, extended }, pressed });
    let (mut session, _) = talking(4, 2);
    let typed = session.receive(b"\x04\x01\0\0\0\0\0a\xff\0\0\x01\0\0\0\0\0\0\0\x9d").unwrap();
    assert_eq!(typed, [key(0x1e, false, true), key(0x1d, true, true)]);
    let clicked = session.receive(&[5, 1, 0, 1, 0, 1]).unwrap();
    assert_eq!(clicked, [Event::Mouse(Mouse { buttons: 1, ..Mouse::default() })]);
    let left = session.left();
    assert_eq!(left.len(), 3);
    assert!(left.contains(&key(0x1e, false, false)) && left.contains(&key(0x1d, true, false)));
    assert!(left.contains(&Event::Mouse(Mouse::default())));

    let mut watcher = Session::new("replay", &Frame::black(4, 2), true);
    let bytes = b"RFB 003.008\n\x01\x01\x04\x01\0\0\0\0\0a\x05\x01\0\x01\0\x01\xff\0\0\x01\0\0\0\0\0\0\0\x9d";
    assert_eq!(watcher.receive(bytes), Ok(vec![]));
    assert_eq!(watcher.left(), []);
}

#[test]
fn a_palette_is_told_to_those_who_want_one() {
    let (mut session, black) = talking(1, 1);
    let events = session.receive(b"\0\0\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0").unwrap();
    assert_eq!(events, []);
    let palette = session.take_output();
    assert_eq!((palette.len(), &palette[..6]), (6 + 256 * 6, &[1, 0, 0, 0, 1, 0][..]));
    session.receive(&request(0, [0, 0, 1, 1])).unwrap();
    session.update(&black);
    assert_eq!(session.take_output().len(), 16 + 1);
}

/// A gigabyte of copied text takes no memory.
#[test]
fn what_a_client_copies_is_let_pass() {
    let (mut session, _) = talking(4, 2);
    session.receive(&[6, 0, 0, 0, 0, 1, 0, 0]).unwrap();
    for _ in 0..16 {
        assert_eq!(session.receive(&[6; 4096]), Ok(vec![]));
        assert!(session.input.len() < 4096);
    }
    assert_eq!(session.receive(&[5, 0, 0, 0, 0, 0]).unwrap().len(), 1);
}
