//! Arbitrary changes of a Windows guest, which is made into a crash dump.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    dejavm_hostile::windows_guest(bytes);
});
