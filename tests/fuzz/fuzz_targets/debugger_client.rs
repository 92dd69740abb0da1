//! Arbitrary bytes as a debugger's client; the first byte's top bit chooses bytes or packets.
#![no_main]

use dejavm_hostile::{debugger_bytes, debugger_packets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => debugger_bytes(bytes),
        _ => debugger_packets(bytes),
    };
});
