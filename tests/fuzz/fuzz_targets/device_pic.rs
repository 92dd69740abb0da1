//! What a guest and the world do to the 8259 pair.
#![no_main]

use dejavm_hostile::devices::{Pics, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<Pics>(script);
});
