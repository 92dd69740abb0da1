//! More rounds of `tests/mutated_checkpoints.rs` than a test has time for: `checkpoint_rounds FIRST COUNT`, both decimal.

use dejavm_hostile::checkpoint_rounds;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
        eprintln!("usage: checkpoint_rounds FIRST COUNT");
        std::process::exit(2);
    };
    println!("{:?}", checkpoint_rounds(first..first + count));
}
