//! What a guest and the world do to the 8254.
#![no_main]

use dejavm_hostile::devices::{Timer, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<Timer>(script);
});
