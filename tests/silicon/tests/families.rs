//! Every family of instructions, in the software CPU and on the host's processor.
//!
//! The same cases each time, so that a failure tells of the change under test. `make silicon` wanders:
//! other cases in every run, and ten times as many. `DEJAVM_SILICON_CASES` sets the number of cases per
//! family, `DEJAVM_SILICON_SEED` the seed.

use dejavm_silicon::campaign::{self, Plan, Report};
use dejavm_silicon::catalogue::Catalogue;
use dejavm_silicon::{Family, Step};
use std::sync::Mutex;

/// One family at a time: each takes all processors.
static TURN: Mutex<()> = Mutex::new(());

/// The seed of a run that is told none.
const SEED_DEFAULT: u64 = 20_261_122;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

fn agree(family: Family, cases: u64, step: Step) {
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let plan = Plan {
        family,
        seed: setting("DEJAVM_SILICON_SEED").unwrap_or(SEED_DEFAULT),
        cases: setting("DEJAVM_SILICON_CASES").unwrap_or(cases),
        only_batch: None,
        only_case: None,
        workers: std::thread::available_parallelism().map_or(1, usize::from),
        program: env!("CARGO_BIN_EXE_silicon").into(),
        step,
        mismatches_max: 100,
    };
    println!("{family}: seed {} (DEJAVM_SILICON_SEED)", plan.seed);
    let catalogue = Catalogue::new(family);
    let report = campaign::run(&plan, &catalogue);
    drop(turn);
    judge(&plan, &catalogue, &report);
}

fn judge(plan: &Plan, catalogue: &Catalogue, report: &Report) {
    let exceptions: u64 = report.tallies.values().map(|tally| tally.exceptions).sum();
    println!("{}: {} cases, {exceptions} exceptions", plan.family, report.cases);
    for (mnemonic, tally) in report.examples() {
        println!("{mnemonic:?}: {} of {} cases differ", tally.mismatches, tally.cases);
        if let Some((_, _, text)) = &tally.first {
            println!("{text}");
        }
    }
    if let Some(broken) = &report.broken {
        panic!("{} (seed {}): {broken}", plan.family, plan.seed);
    }
    assert_eq!(report.mismatches, 0, "{}: seed {}", plan.family, plan.seed);
    assert!(report.cases >= plan.cases);
    let missed = report.missed(catalogue);
    // Every form comes up once in a few thousand cases.
    assert!(plan.cases < 1_000_000 || missed.is_empty(), "forms without a test: {missed:?}");
}

#[test]
fn integer_64() {
    agree(Family::Integer64, 10_000_000, Step::Reference);
}

#[test]
fn integer_32() {
    agree(Family::Integer32, 10_000_000, Step::Reference);
}

#[test]
fn x87_and_mmx_64() {
    agree(Family::X87Mmx64, 10_000_000, Step::Reference);
}

#[test]
fn x87_and_mmx_32() {
    agree(Family::X87Mmx32, 10_000_000, Step::Reference);
}

#[test]
fn sse_64() {
    agree(Family::Sse64, 10_000_000, Step::Reference);
}

#[test]
fn sse_32() {
    agree(Family::Sse32, 10_000_000, Step::Reference);
}

#[test]
fn decoded_blocks_integer_64() {
    agree(Family::Integer64, 2_000_000, Step::Decoded);
}

#[test]
fn decoded_blocks_integer_32() {
    agree(Family::Integer32, 2_000_000, Step::Decoded);
}

#[test]
fn decoded_blocks_sse_64() {
    agree(Family::Sse64, 1_000_000, Step::Decoded);
}

#[test]
fn decoded_blocks_sse_32() {
    agree(Family::Sse32, 1_000_000, Step::Decoded);
}

#[test]
fn translations_integer_64() {
    agree(Family::Integer64, 4_000_000, Step::Translated);
}

#[test]
fn translations_x87_and_mmx_64() {
    agree(Family::X87Mmx64, 500_000, Step::Translated);
}

#[test]
fn translations_sse_64() {
    agree(Family::Sse64, 3_000_000, Step::Translated);
}
