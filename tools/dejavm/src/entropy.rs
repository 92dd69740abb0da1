//! A source of random bytes for the guest, whose seed is in the recording.

use crate::exit::{Exit, Failure};
use clap::Args;
use dejavm_machine::{Card, Hardware};
use std::fs::File;
use std::io::Read;

/// Whether a machine has one.
#[derive(Clone, Debug, Args)]
pub struct EntropyOptions {
    /// Give the guest a virtio source of random bytes, with a seed that the host chooses and the recording holds
    #[arg(long)]
    pub rng: bool,
    /// The same, with this seed
    #[arg(long, value_name = "N")]
    pub rng_seed: Option<u64>,
}

impl EntropyOptions {
    /// Gives a new machine the card.
    pub fn attach(&self, hardware: &mut Hardware) -> Result<(), Failure> {
        let seed = match (self.rng_seed, self.rng) {
            (Some(seed), _) => seed,
            (None, true) => drawn()?,
            (None, false) => return Ok(()),
        };
        hardware.cards.push(Card::VirtioRng { seed });
        Ok(())
    }
}

fn drawn() -> Result<u64, Failure> {
    let mut seed = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut seed));
    read.map_err(|error| {
        let sentence = format!("/dev/urandom gives no seed: {error}; choose one with --rng-seed");
        Failure::new(Exit::Environment, sentence)
    })?;
    Ok(u64::from_le_bytes(seed))
}
