//! What a guest and the world do to the keyboard controller.
#![no_main]

use dejavm_hostile::devices::{Keyboard, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<Keyboard>(script);
});
