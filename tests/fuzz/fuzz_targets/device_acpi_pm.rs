//! What a guest and the world do to ACPI's fixed hardware.
#![no_main]

use dejavm_hostile::devices::{AcpiBlock, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<AcpiBlock>(script);
});
