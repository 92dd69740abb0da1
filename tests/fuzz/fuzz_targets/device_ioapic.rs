//! What a guest and the world do to the I/O APIC.
#![no_main]

use dejavm_hostile::devices::{IoApicChip, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<IoApicChip>(script);
});
