//! What a guest and the world do to ports 0x92 and 0xcf9.
#![no_main]

use dejavm_hostile::devices::{SystemPorts, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<SystemPorts>(script);
});
