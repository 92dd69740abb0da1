//! What a guest and the world do to the real-time clock.
#![no_main]

use dejavm_hostile::devices::{RealTimeClock, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<RealTimeClock>(script);
});
