//! What a guest and the world do to the PCI bridges.
#![no_main]

use dejavm_hostile::devices::{PciBridges, run};

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    run::<PciBridges>(script);
});
