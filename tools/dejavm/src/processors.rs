//! How many processors a machine has, and how they take turns.

use crate::exit::{Exit, Failure};
use clap::Args;
use dejavm_machine::Hardware;

/// Options of commands that make a machine.
#[derive(Clone, Debug, Default, Args)]
pub struct Processors {
    /// Virtual CPUs, 1 to 8, which take turns on one thread [default: 1]
    #[arg(long, value_name = "N", value_parser = count)]
    pub smp: Option<u8>,
    /// How they take turns
    #[command(flatten)]
    pub schedule: Schedule,
}

/// How processors take turns. It is part of a recording.
#[derive(Clone, Debug, Default, Args)]
pub struct Schedule {
    /// Instructions of a virtual CPU's turn, if there are several [default: 50000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub slice: Option<u32>,
    /// Deal turns by a number: of odd lengths and in odd orders, other ones for each number, to find what
    /// goes wrong between CPUs
    #[arg(long, value_name = "N")]
    pub schedule_seed: Option<u64>,
}

fn count(text: &str) -> Result<u8, String> {
    let max = Hardware::PROCESSORS_MAX;
    match text.parse() {
        Ok(count) if (1..=max).contains(&count) => Ok(count),
        Ok(_) => Err(format!("machines have 1 to {max} virtual CPUs")),
        Err(_) => Err("not a number of CPUs".into()),
    }
}

impl Processors {
    /// Takes what these options say into a machine's description.
    pub fn fill(&self, hardware: &mut Hardware) {
        hardware.processors = self.smp.unwrap_or(hardware.processors);
        self.schedule.fill(hardware);
    }

    /// Refuses several processors on KVM.
    pub fn only_one_on_kvm(&self) -> Result<(), Failure> {
        match self.smp {
            None | Some(1) => Ok(()),
            Some(count) => {
                let sentence = format!(
                    "--engine kvm: machines of {count} CPUs run by software only; leave out the option, or use --smp 1"
                );
                Err(Failure::new(Exit::Usage, sentence))
            }
        }
    }
}

impl Schedule {
    /// See [`Processors::fill`].
    pub fn fill(&self, hardware: &mut Hardware) {
        hardware.slice = self.slice.unwrap_or(hardware.slice);
        hardware.schedule_seed = self.schedule_seed.or(hardware.schedule_seed);
    }
}

/// What there is to say of a machine's processors: nothing of one.
pub fn described(hardware: &Hardware) -> Option<String> {
    let Hardware { processors, slice, schedule_seed, .. } = hardware;
    if *processors == 1 {
        return None;
    }
    let turns = match schedule_seed {
        None => format!("turns of {slice} instructions"),
        Some(seed) => format!("turns of about {slice} instructions by seed {seed}"),
    };
    Some(format!("{processors}, {turns}"))
}
