//! What a guest and the world do to the display.
#![no_main]

use dejavm_hostile::devices::{VgaCard, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<VgaCard>(script);
});
