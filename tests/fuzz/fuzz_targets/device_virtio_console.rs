//! What a guest and the world do to a virtio console.
#![no_main]

use dejavm_hostile::devices::{VirtioConsole, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<VirtioConsole>(script);
});
