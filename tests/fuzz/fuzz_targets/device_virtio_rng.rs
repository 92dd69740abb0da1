//! What a guest and the world do to a virtio source of random bytes.
#![no_main]

use dejavm_hostile::devices::{VirtioRng, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<VirtioRng>(script);
});
