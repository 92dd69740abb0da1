//! What a guest and the world do to the IDE function, with disks and CD-ROM drives.
#![no_main]

use dejavm_hostile::devices::{IdeFunction, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<IdeFunction>(script);
});
