//! What a guest and the world do to a local APIC.
#![no_main]

use dejavm_hostile::devices::{LocalApic, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<LocalApic>(script);
});
