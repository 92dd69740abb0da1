//! Arbitrary bytes as guest code, by the translator and by the reference semantics; the first byte chooses the
//! mode.
#![no_main]

use dejavm_hostile::{Mode, translated_code};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some((&first, code)) = bytes.split_first() {
        translated_code(Mode::ALL[usize::from(first) % Mode::ALL.len()], code, 5000);
    }
});
