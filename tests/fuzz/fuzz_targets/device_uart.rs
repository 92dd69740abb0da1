//! What a guest and the world do to a serial port.
#![no_main]

use dejavm_hostile::devices::{SerialPort, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<SerialPort>(script);
});
