//! What a guest and the world do to an e1000.
#![no_main]

use dejavm_hostile::devices::{E1000Card, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<E1000Card>(script);
});
