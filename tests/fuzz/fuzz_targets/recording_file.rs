//! Arbitrary bytes as a recording. Checksums are made right first: else nothing behind them is reached.
#![no_main]

use dejavm_hostile::{recording_file, repair, timeline};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = b"\x89DVR\r\n\x1a\n\x01\0\x01\0".to_vec();
    file.extend_from_slice(&[0x01, 0x11, 0x56, 0x85]);
    let mut at = file.len();
    file.extend_from_slice(bytes);
    while at + 24 <= file.len() {
        file[at..at + 4].copy_from_slice(b"DVck");
        repair(&mut file, at);
        at += 24 + u32::from_le_bytes(file[at + 8..at + 12].try_into().expect("four bytes")) as usize;
    }
    recording_file(&file);
    timeline(&file);
});
