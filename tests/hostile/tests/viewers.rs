//! Viewers that are none: whatever they send, the session survives and keeps within its bounds.

use dejavm_hostile::{Random, viewer};

const VIEWERS: u64 = 3000;

/// What conversations are made of.
const WORDS: &[&[u8]] = &[
    b"RFB 003.003\n",
    b"RFB 003.007\n",
    b"RFB 003.008\n",
    b"\x01",
    b"\x00",
    b"\x00\0\0\0\x20\x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0",
    b"\x00\0\0\0\x10\x10\x01\x01\0\x1f\0\x3f\0\x1f\x0b\x05\0\0\0\0",
    b"\x00\0\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x02\0\0\x03\0\0\0\x10\xff\xff\xff\x21\xff\xff\xfe\xfe",
    b"\x02\0\0\x01\0\0\0\x05",
    b"\x02\0\0\x02\0\0\0\x06\xff\xff\xfe\xff",
    b"\x02\0\xff\xff",
    b"\x03\0\0\0\0\0\xff\xff\xff\xff",
    b"\x03\x01\0\0\0\0\xff\xff\xff\xff",
    b"\x03\x00\0\x05\0\x05\0\x0a\0\x0a",
    b"\x03\x00\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x04\x01\0\0\0\0\0A",
    b"\x04\x00\0\0\0\0\0A",
    b"\x04\x01\0\0\0\0\xff\xe1",
    b"\x05\x07\0\x10\0\x20",
    b"\x05\xff\xff\xff\xff\xff",
    b"\x06\0\0\0\0\0\0\x02hi",
    b"\x06\0\0\0\xff\xff\xff\xff",
    b"\xff\0\0\x01\0\0\0\0\0\0\0\x9d",
    b"\xff\0\0\x00\xff\xff\xff\xff\xff\xff\xff\xff",
];

fn conversation(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = vec![random.below(256) as u8];
    if bytes[0] & 2 == 0 {
        bytes.extend(b"RFB 003.008\n\x01\x01");
    }
    for _ in 0..random.below(60) {
        bytes.extend(WORDS[random.below(WORDS.len())]);
    }
    // Most are left whole for long.
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len());
        bytes[at] = random.below(256) as u8;
    }
    bytes
}

#[test]
fn sessions_survive_viewers() {
    let mut events = 0;
    for seed in 0..VIEWERS {
        let bytes = conversation(seed);
        let heard = std::panic::catch_unwind(|| viewer(&bytes));
        events += heard.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(events > 1_000, "{events}: some are understood");
}
