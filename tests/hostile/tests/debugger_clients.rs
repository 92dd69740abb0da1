//! Clients that are no debuggers: whatever they send, the stub and the machine survive.

use dejavm_hostile::{Random, debugger_bytes, debugger_packets};

const CLIENTS: u64 = 150;

/// What packets are made of.
const WORDS: &[&str] = &[
    "qSupported",
    ":",
    ";",
    ",",
    "?",
    "g",
    "G",
    "m",
    "M",
    "x",
    "X",
    "p",
    "P",
    "=",
    "Z0,",
    "Z1,",
    "Z2,",
    "Z3,",
    "Z4,",
    "z0,",
    "z2,",
    "10005a",
    "100000",
    "106800",
    "0",
    "1",
    "4",
    "ffffffffffffffff",
    "fee00000",
    "vCont;",
    "vCont?",
    "c",
    "s",
    "r",
    "bs",
    "bc",
    ":1",
    "Hg",
    "Hc",
    "-1",
    "T",
    "qC",
    "qfThreadInfo",
    "qsThreadInfo",
    "qThreadExtraInfo,",
    "qXfer:",
    "threads:read::",
    "features:read:target.xml:",
    "qRcmd,",
    "676f746f202b35",
    "676f746f20737461727420",
    "68656c70",
    "73746f706174202d35",
    "6c6173742d7772697465203078313036376638",
    "70687973",
    "696e666f",
    "6d61726b2061",
    "6c61796f757420363420",
    "X3,220127",
    "X8,2601002200132700",
    "X2,2100",
    "#",
    "$",
    "}",
    "*",
    "\u{3}",
    "QStartNoAckMode",
    "vFile:",
    "Qqemu.PhyMemMode:1",
    "qOffsets",
    "vKil",
    "vMustReplyEmpty",
];

fn payload(random: &mut Random) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..1 + random.below(6) {
        payload.extend(WORDS[random.below(WORDS.len())].bytes());
    }
    if random.below(8) == 0 {
        let at = random.below(payload.len());
        payload[at] = random.next_u64() as u8;
    }
    payload
}

#[test]
fn packets_of_odd_words() {
    let seed = 0x6764_6221;
    let mut answered = 0;
    for client in 0..CLIENTS {
        let mut random = Random::new(seed + client);
        let mut bytes = vec![client as u8];
        for _ in 0..60 {
            bytes.extend(payload(&mut random));
            bytes.push(b'\n');
        }
        eprintln!("seed {seed:#x}, client {client}");
        answered += debugger_packets(&bytes);
    }
    // Most are answered, if only by an error.
    assert!(answered > CLIENTS as usize * 30, "{answered}");
}

#[test]
fn bytes_in_odd_pieces() {
    let seed = 0x6764_6222;
    for client in 0..CLIENTS {
        let mut random = Random::new(seed + client);
        let mut bytes = vec![random.next_u64() as u8];
        for _ in 0..40 {
            let payload = payload(&mut random);
            let sum = payload.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            match random.below(10) {
                // Broken off, without a beginning, with a wrong sum, with more around it.
                0 => bytes.extend(&payload),
                1 => bytes.extend([&b"$"[..], &payload].concat()),
                2 => bytes.extend([&b"$"[..], &payload, b"#00"].concat()),
                3 => bytes.extend([&b"+-\x03"[..], &payload, b"#"].concat()),
                4 => bytes.extend((0..random.below(3000)).map(|_| random.next_u64() as u8)),
                _ => {
                    bytes.push(b'$');
                    bytes.extend(&payload);
                    bytes.extend(format!("#{sum:02x}").bytes());
                }
            }
        }
        eprintln!("seed {seed:#x}, client {client}");
        debugger_bytes(&bytes);
    }
}

/// A length that no memory could hold, a packet that never ends.
#[test]
fn huge_lengths() {
    let huge = [&b"\0$m0,"[..], &b"f".repeat(3 << 20), b"#00$qC#b4"].concat();
    assert_eq!(debugger_bytes(&huge), 1);
    let lines =
        b"\0m0,ffffffffffffffff\nx0,ffffffffffffffff\nqXfer:threads:read::0,ffffffffffffffff\n\
                  Z0,10005a,1;Xffffffffffffffff,22\nZ2,0,ffffffffffffffff\nM0,ffffffffffffffff:00\n\
                  X0,ffffffffffffffff:0";
    assert_eq!(debugger_packets(lines), 7);
}
