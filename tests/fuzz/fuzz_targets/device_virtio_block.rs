//! What a guest and the world do to a virtio disk.
#![no_main]

use dejavm_hostile::devices::{VirtioBlock, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<VirtioBlock>(script);
});
