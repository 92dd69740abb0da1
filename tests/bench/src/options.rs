//! The command line.

use crate::programs::{self, PROGRAMS, Program};
use crate::subject::{Guest, Programs};
use crate::suite::Clock;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

/// What is told to somebody who uses it wrongly.
pub const USAGE: &str = "\
usage: dejavm-bench [OPTION]...
  --rounds N        how often each step runs (default 5)
  --workload NAME   what the guest does: bench busy (default bench)
  --kernel NAME     flavour of the fetched kernel: cloud-amd64 amd64 686-pae (default cloud-amd64)
  --memory MIB      guest memory (default 256)
  --append TEXT     more words for the kernel command line
  --work DIR        where logs and consoles go (default .cache/bench)
  --dejavm PATH     default target/release/dejavm
  --qemu PATH       default qemu-system-x86_64
  --limit SECONDS   a step that takes longer has failed (default 600)
  --only NAMES      with commas: names of programs, or of parts:
                      run          recording and replaying a boot
                      programs     all programs in the guest
                      tiers        a cold boot with and without translation
                      cost         recording beside running without a log
                      debugging    reverse steps, seeks
                      conditions   of breakpoints
                      breakpoints  forward with ten that are never met
                      debug        the last three
                      kvm          recording on KVM, and QEMU on KVM; in the lab: make lab-bench
                      cores        cores of a checkpoint of 4 GiB (12 GB of disk, or of memory for its cache)
  --cpu             programs and tiers by processor time of the emulators: for a machine that has other work
  --json            the result as JSON on standard output; the table goes to standard error
Kernel and initramfs come from $DEJAVM_IMAGES, $DEJAVM_CACHE/images or .cache/images.
Status 0 when every step of every round succeeded, 1 when one failed, 2 for wrong usage.";

/// What the command line asked for.
pub struct Options {
    /// How often each step runs.
    pub rounds: u32,
    /// The machine.
    pub guest: Guest,
    /// Who is measured.
    pub programs: Programs,
    /// For logs and consoles.
    pub work: PathBuf,
    /// For each step.
    pub limit: Duration,
    /// The result as JSON.
    pub json: bool,
    /// What programs and tiers go by.
    pub clock: Clock,
    /// What is measured.
    pub chosen: Chosen,
}

/// A part of the bench, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Recording and replaying a boot.
    Run,
    /// Programs in the guest.
    Programs,
    /// A cold boot with and without translation.
    Tiers,
    /// What recording costs.
    Cost,
    /// Waits of a debugger's.
    Debugging,
    /// Conditions of breakpoints.
    Conditions,
    /// Forward speed with breakpoints.
    Breakpoints,
    /// Recording on KVM beside running on it, ours and QEMU's.
    Kvm,
    /// Cores of a checkpoint, beside a copy of its memory.
    Cores,
}

const PARTS: [Part; 9] = [
    Part::Run,
    Part::Programs,
    Part::Tiers,
    Part::Cost,
    Part::Debugging,
    Part::Conditions,
    Part::Breakpoints,
    Part::Kvm,
    Part::Cores,
];

impl Part {
    /// As the command line and the JSON call it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Run => "run",
            Part::Programs => "programs",
            Part::Tiers => "tiers",
            Part::Cost => "cost",
            Part::Debugging => "debugging",
            Part::Conditions => "conditions",
            Part::Breakpoints => "breakpoints",
            Part::Kvm => "kvm",
            Part::Cores => "cores",
        }
    }
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// These parts.
    pub parts: BTreeSet<Part>,
    /// These programs.
    pub programs: Vec<Program>,
}

impl Chosen {
    fn all() -> Chosen {
        Chosen { parts: PARTS.into(), programs: PROGRAMS.to_vec() }
    }

    /// The parts and programs of a list with commas.
    fn only(names: &str) -> Result<Chosen, String> {
        let mut chosen = Chosen { parts: BTreeSet::new(), programs: Vec::new() };
        for name in names.split(',') {
            if let Some(part) = PARTS.into_iter().find(|part| part.name() == name) {
                chosen.parts.insert(part);
            } else if name == "debug" {
                chosen.parts.extend([Part::Debugging, Part::Conditions, Part::Breakpoints]);
            } else {
                let program = programs::named(name).ok_or_else(|| unknown(name))?;
                if !chosen.programs.contains(&program) {
                    chosen.programs.push(program);
                }
            }
        }
        if chosen.programs.is_empty() {
            chosen.programs = PROGRAMS.to_vec();
        } else {
            chosen.parts.insert(Part::Programs);
        }
        Ok(chosen)
    }
}

fn unknown(name: &str) -> String {
    let parts = PARTS.iter().map(|part| part.name()).chain(["debug"]);
    let known: Vec<&str> = parts.chain(PROGRAMS.iter().map(|program| program.name)).collect();
    format!("--only {name}: known are {}", known.join(", "))
}

/// Reads the command line.
///
/// # Errors
/// What is wrong with it, or which file is missing.
pub fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut rounds, mut memory_mib, mut limit) = (5, 256, 600);
    let (mut workload, mut kernel, mut append) =
        ("bench".to_owned(), "cloud-amd64".to_owned(), String::new());
    let mut work = PathBuf::from(".cache/bench");
    let mut programs = Programs {
        qemu: PathBuf::from("qemu-system-x86_64"),
        dejavm: PathBuf::from("target/release/dejavm"),
    };
    let (mut json, mut clock, mut chosen) = (false, Clock::Wall, Chosen::all());
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => rounds = number(&value()?)?.max(1),
            "--memory" => memory_mib = number(&value()?)?,
            "--limit" => limit = number(&value()?)?,
            "--workload" => workload = value()?,
            "--kernel" => kernel = value()?,
            "--append" => append = format!(" {}", value()?),
            "--work" => work = PathBuf::from(value()?),
            "--dejavm" => programs.dejavm = PathBuf::from(value()?),
            "--qemu" => programs.qemu = PathBuf::from(value()?),
            "--only" => chosen = Chosen::only(&value()?)?,
            "--cpu" => clock = Clock::Cpu,
            "--json" => json = true,
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let arch = if kernel.ends_with("amd64") { "amd64" } else { "i386" };
    let guest = Guest {
        kernel: dejavm_images::fetched(&format!("vmlinuz-{kernel}"))?,
        initrd: dejavm_images::fetched(&format!("initramfs-{arch}.gz"))?,
        append: format!("console=ttyS0 panic=-1 dejavm.workload={workload}{append}"),
        memory_mib,
    };
    let limit = Duration::from_secs(limit.into());
    Ok(Options { rounds, guest, programs, work, limit, json, clock, chosen })
}

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("'{word}' is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_programs_have_one_list() {
        let chosen = Chosen::only("debug,gzip,fib,gzip").unwrap();
        let names: Vec<&str> = chosen.parts.iter().map(|part| part.name()).collect();
        assert_eq!(names, ["programs", "debugging", "conditions", "breakpoints"]);
        let names: Vec<&str> = chosen.programs.iter().map(|program| program.name).collect();
        assert_eq!(names, ["gzip", "fib"]);
        assert_eq!(Chosen::only("run,programs,tiers,cost,debug,kvm,cores"), Ok(Chosen::all()));
        assert!(Chosen::only("run,doom").unwrap_err().contains("--only doom: known are run,"));
    }
}
