//! Random bytes run as guest code: the guest may die as it likes, the program may not.

use dejavm_hostile::{Mode, Random, guest_code, translated_code};

const PROGRAMS: u64 = 500;
const INSTRUCTIONS: u64 = 2000;

/// Opcodes that random bytes rarely hit: each is a way into the privileged and the odd.
const RARE: &[&[u8]] = &[
    b"\x0f\x01",
    b"\x0f\x00",
    b"\x0f\x20",
    b"\x0f\x22",
    b"\x0f\x23",
    b"\x0f\x30",
    b"\x0f\x32",
    b"\x0f\xae",
    b"\x0f\xc7",
    b"\x0f\x38",
    b"\x0f\x3a",
    b"\x0f\x05",
    b"\x0f\x07",
    b"\x0f\x34",
    b"\x0f\x35",
    b"\x66\x0f",
    b"\xf3\x0f",
    b"\xf2\x0f",
    b"\x48\x0f",
    b"\xf0\x0f",
    b"\xc4\xe2",
    b"\xc5\xf8",
    b"\xd9",
    b"\xdb",
    b"\xdd",
    b"\xdf",
    b"\xf3\xa4",
    b"\xf3\xab",
    b"\xf2\xae",
    b"\xcd",
    b"\xcf",
    b"\x9a",
    b"\xea",
    b"\xff\x28",
    b"\xc8",
    b"\x8e",
    b"\x0f\xb2",
    b"\xe6\xf4",
    b"\xee",
    b"\xfb\xf4",
    b"\xf4",
    b"\x9d",
    b"\x0f\x1f",
    b"\xe8",
    b"\x0f\x09",
    b"\x0f\xa2",
    b"\x0f\x31",
];

fn random_code(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut code: Vec<u8> = (0..64 + random.below(1500)).map(|_| random.next_u64() as u8).collect();
    for _ in 0..random.below(60) {
        let piece = RARE[random.below(RARE.len())];
        let at = random.below(code.len() - piece.len());
        code[at..at + piece.len()].copy_from_slice(piece);
    }
    code
}

/// Half of them in 64-bit mode.
#[test]
fn translations_do_what_the_reference_semantics_do() {
    let seed = 0x7472_616e;
    let mut executed = 0;
    for program in 0..300 {
        let code = random_code(seed + program);
        let mode =
            if program % 2 == 0 { Mode::Long } else { Mode::ALL[(program / 2 % 4) as usize] };
        eprintln!("seed {seed:#x}, program {program}, {mode:?}");
        executed += translated_code(mode, &code, INSTRUCTIONS);
    }
    assert!(executed > 300 * 50, "{executed}");
}

#[test]
fn no_program_harms_the_host() {
    let seed = 0x6465_6a61;
    let mut executed = [0u64; 4];
    for program in 0..PROGRAMS {
        let code = random_code(seed + program);
        let which = (program % 4) as usize;
        eprintln!("seed {seed:#x}, program {program}, {:?}", Mode::ALL[which]);
        executed[which] += guest_code(Mode::ALL[which], &code, INSTRUCTIONS);
    }
    // Handlers go on behind what faults, so that random code comes far, in any mode.
    let least = PROGRAMS / 4 * 50;
    assert!(executed.iter().all(|&count| count > least), "{executed:?}");
}
