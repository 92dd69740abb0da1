//! Our own guests, whole.

use dejavm_cpu::{Engine, Tuning};
use dejavm_lockstep::Twins;
use dejavm_machine::Boot;

/// Instructions of a guest compared at most: the long ones repeat themselves.
const INSTRUCTIONS: u64 = 12_000_000;

fn compare_all(seed: u64, right: Tuning) {
    for (name, image) in dejavm_images::ALL {
        let boot = Boot { image, initrd: None, cmdline: "" };
        let mut twins = Twins::boot(16, &boot, [Tuning::default(), right], seed);
        let report = twins.run(INSTRUCTIONS);
        println!("{name}: {report:?}");
        assert!(report.position.0 > 100, "{name} runs");
    }
}

#[test]
fn blocks_do_what_the_reference_semantics_do() {
    compare_all(1, Tuning { engine: Engine::Reference, ..Tuning::default() });
}

#[test]
fn the_tlb_is_invisible() {
    compare_all(2, Tuning { tlb_slots: 1, flush_seed: Some(7), ..Tuning::default() });
    compare_all(3, Tuning { tlb_slots: 64, flush_seed: Some(8), ..Tuning::default() });
}
