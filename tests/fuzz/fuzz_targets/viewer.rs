//! Arbitrary bytes as a VNC viewer.
#![no_main]

use dejavm_hostile::viewer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    viewer(bytes);
});
