//! What a guest and the world do to a virtio network card.
#![no_main]

use dejavm_hostile::devices::{VirtioNet, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<VirtioNet>(script);
});
