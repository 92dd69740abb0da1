//! KVM by single steps: positions are instructions, exactly those of the software CPU. So what one records the other replays, digest by
//! digest.

use dejavm_cpu::{Bus, Cpu, Tuning};
use dejavm_kvm::{Counts, Host, KvmEngine};
use dejavm_machine::{Boot, Executor, Machine, MachineConfig, Output};
use dejavm_memory::{GuestRam, RamLayout};
use dejavm_replay::{Moment, Observer, ReplayOptions, Replayer};
use dejavm_scenarios::{Desk, rebuild, tape};
use dejavm_units::Position;
use std::cell::Cell;
use std::io::Cursor;
use std::rc::Rc;

/// Guests, with the instructions that are recorded of each: a step takes some 100 us in the lab.
const GUESTS: [(&str, &[u8], u64); 6] = [
    ("hello", dejavm_images::HELLO, 4_000),
    ("paging", dejavm_images::PAGING, 12_000),
    ("priority", dejavm_images::PRIORITY, 4_000),
    ("smc", dejavm_images::SMC, 4_000),
    ("timer", dejavm_images::TIMER, 4_000),
    ("counter", dejavm_images::COUNTER, 8_000),
];
/// Instructions between two digests.
const DIGEST_INTERVAL: u64 = 500;

/// Both ways, all guests; what was done.
pub fn check(host: &Host) -> Result<String, String> {
    let (mut stepped, mut by_software) = (0, 0);
    for (name, image, instructions) in GUESTS {
        let counts = both_ways(host, image, Position(instructions))
            .map_err(|sentence| format!("{name}: {sentence}"))?;
        stepped += counts.stepped;
        by_software += counts.by_software;
    }
    Ok(format!(
        "{stepped} steps, and {by_software} instructions by software between; equal digests both ways"
    ))
}

/// An engine whose counts can be seen.
struct Seen {
    engine: KvmEngine,
    counts: Rc<Cell<Counts>>,
}

impl Executor for Seen {
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<dejavm_cpu::Stop, String> {
        let stop = Executor::run_until(&mut self.engine, cpu, ram, bus, limit);
        self.counts.set(self.engine.counts());
        stop
    }

    fn counts_instructions(&self) -> bool {
        self.engine.counts_instructions()
    }
}

fn config() -> MachineConfig {
    MachineConfig::new(RamLayout::new(2 << 20).expect("a size that can be"))
}

fn boot(image: &[u8]) -> Machine {
    let boot = Boot { image, initrd: None, cmdline: "" };
    Machine::boot(&config(), &boot).expect("our own guests boot")
}

fn stepped(host: &Host, mut machine: Machine) -> Result<(Machine, Rc<Cell<Counts>>), String> {
    let engine = KvmEngine::new_unchecked(host, config().cpu, 0);
    let engine = engine.map_err(|error| error.to_string())?.counting_instructions();
    let counts = Rc::new(Cell::new(Counts::default()));
    machine.set_executor(Some(Box::new(Seen { engine, counts: Rc::clone(&counts) })));
    Ok((machine, counts))
}

fn both_ways(host: &Host, image: &[u8], until: Position) -> Result<Counts, String> {
    struct Nobody;
    impl Observer for Nobody {
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _at: Moment) -> bool {
            true
        }
    }
    let soft = tape(boot(image), config(), &mut Desk::new(), DIGEST_INTERVAL, Some(until));
    let mut replayer =
        Replayer::open(Cursor::new(&soft.file)).map_err(|error| error.to_string())?;
    let machine = rebuild(&mut replayer).map_err(|error| error.to_string())?;
    let (mut machine, counts) = stepped(host, machine)?;
    let replayed = replayer
        .run(&mut machine, &ReplayOptions::default(), &mut Nobody)
        .map_err(|error| format!("a recording of the software CPU's, on KVM: {error}"))?;
    if replayed.digests == 0 || replayed.last_digest != Some(soft.recorded.digest.clone()) {
        return Err("another last digest".to_owned());
    }
    let (machine, _) = stepped(host, boot(image))?;
    let kvm = tape(machine, config(), &mut Desk::new(), DIGEST_INTERVAL, Some(until));
    if kvm.recorded.digest != soft.recorded.digest || kvm.file.len() != soft.file.len() {
        return Err("KVM records something else".to_owned());
    }
    dejavm_scenarios::replay(&kvm.file, Tuning::default(), &ReplayOptions::default())
        .map_err(|error| format!("a recording of KVM's, by software: {error}"))?;
    Ok(counts.get())
}
