//! More rounds of `tests/mutated_checkpoints.rs` than a test has time for, or rounds of one guest: a checkpoint `X.vmss` in
//! `FOLDER/in` with its `X.vmem`. Numbers are decimal.

use dejavm_hostile::{Seed, checkpoint_rounds, rounds_of};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().take(2).filter_map(|word| word.parse().ok()).collect();
    let tally = match (&numbers[..], words.get(2)) {
        (&[first, count], None) => checkpoint_rounds(first..first + count),
        (&[first, count], Some(folder)) => {
            rounds_of(&Seed::new(folder.into(), "X.vmss", &["X.vmem"]), first..first + count)
        }
        _ => {
            eprintln!("usage: checkpoint_rounds FIRST COUNT [FOLDER]");
            std::process::exit(2);
        }
    };
    println!("{tally:?}");
}
