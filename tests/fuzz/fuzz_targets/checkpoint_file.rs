//! Arbitrary bytes as the files of a guest, and what vmss2core makes of them; the first byte says which files.
#![no_main]

use dejavm_hostile::checkpoint_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    checkpoint_bytes(folder.path(), bytes);
});
