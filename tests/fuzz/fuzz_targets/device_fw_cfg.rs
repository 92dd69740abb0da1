//! What a guest and the world do to the configuration device.
#![no_main]

use dejavm_hostile::devices::{FirmwareConfig, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<FirmwareConfig>(script);
});
