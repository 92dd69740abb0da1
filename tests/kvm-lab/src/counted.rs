//! Landmarks come to by a count of branches, on a real KVM.
//!
//! The lab's host has no counter, so this is a **stand-in**: the engine single-steps the guest and tells it of each instruction, and it counts the
//! conditional branches exactly. Its interrupts it gives as badly as it is asked to: late, later than its skid, never. What is proved is the
//! engine's way from a recorded count to the landmark, with breakpoints, debug registers and going back; no processor's counter.

use crate::TURN_US;
use crate::{boot, config};
use dejavm_cpu::{Bus, Cpu};
use dejavm_kvm::pmu::{Branches, PmuError};
use dejavm_kvm::{Counts, Host, KvmEngine, Ring, Stopping, TrialPlan};
use dejavm_machine::{CpuState, Executor, Landmark, Machine, Output};
use dejavm_memory::GuestRam;
use dejavm_replay::{Moment, Observer, ReplayOptions, Replayer};
use dejavm_scenarios::{Desk, Random, rebuild, tape};
use dejavm_units::{Gpa, Position};
use std::cell::Cell;
use std::io::Cursor;
use std::num::NonZeroU64;
use std::rc::Rc;

/// Where the guest's code is put, behind what the image uses.
const CODE_AT: u64 = 0x9000;
/// In 32-bit code without paging: loops that count in memory and in registers, with branches that depend on both, and now and then an access
/// to a port. Ends with a write of 10H to port F4H.
const CODE: [u8; 44] = [
    0xbe, 5, 0, 0, 0, // mov esi, 5
    // outer:
    0xb9, 150, 0, 0, 0, // mov ecx, 150
    // inner:
    0x01, 0x0d, 0x00, 0xa0, 0, 0, // add [0xa000], ecx
    0xf7, 0xc1, 3, 0, 0, 0, // test ecx, 3
    0x74, 6, // jz skip
    0xff, 0x05, 0x04, 0xa0, 0, 0, // inc dword [0xa004]
    // skip:
    0x49, // dec ecx
    0x75, 0xe9, // jnz inner
    0xe6, 0x80, // out 0x80, al
    0x4e, // dec esi
    0x75, 0xdf, // jnz outer
    0xb0, 0x10, // mov al, 0x10
    0xe6, 0xf4, // out 0xf4, al
    0xeb, 0xfe, // jmp $
];
/// Branches that its interrupts are said to be late at most.
const SKID: u64 = 6;

/// How its interrupts come. Numbers are "once in so many", 0 never.
#[derive(Clone, Copy, Default)]
struct Manners {
    /// Steps between two kicks at most, for a live machine; 0: none.
    kick_max: u64,
    /// Far later than said.
    late_in: u64,
    /// Never.
    lost_in: u64,
    /// Branches that are not counted.
    forgets_in: u64,
}

/// The stand-in.
struct StandIn {
    manners: Manners,
    random: Random,
    branches: u64,
    /// The count at which it interrupts.
    due: Option<u64>,
    /// Steps to the next kick.
    kick: u64,
}

impl StandIn {
    fn new(manners: Manners, seed: u64) -> StandIn {
        let mut random = Random::new(seed);
        let branches = random.below(1000);
        StandIn { manners, random, branches, due: None, kick: 1 }
    }

    fn happens(&mut self, once_in: u64) -> bool {
        once_in != 0 && self.random.below(once_in) == 0
    }
}

impl Branches for StandIn {
    fn begin(&mut self) -> Result<bool, PmuError> {
        Ok(false)
    }
    fn read(&mut self) -> Result<u64, PmuError> {
        Ok(self.branches)
    }
    fn arm(&mut self, after: Option<NonZeroU64>) -> Result<(), PmuError> {
        let (lost, late) = (self.happens(self.manners.lost_in), self.happens(self.manners.late_in));
        let skid = self.random.below(SKID) + if late { 2 * SKID } else { 0 };
        self.due = after.filter(|_| !lost).map(|after| self.branches + after.get() + skid);
        Ok(())
    }
    fn skid(&self) -> u64 {
        SKID
    }
    fn is_told(&self) -> bool {
        true
    }
    fn step(&mut self, is_conditional_branch: bool) -> bool {
        let forgotten = is_conditional_branch && self.happens(self.manners.forgets_in);
        self.branches += u64::from(is_conditional_branch && !forgotten);
        if self.manners.kick_max > 0 {
            self.kick -= 1;
            if self.kick == 0 {
                self.kick = 1 + self.random.below(self.manners.kick_max);
                return true;
            }
        }
        self.due.take_if(|due| *due <= self.branches).is_some()
    }
}

/// An engine whose counts are seen from outside.
struct Watched {
    engine: KvmEngine,
    counts: Rc<Cell<Counts>>,
}

impl Executor for Watched {
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
    fn take_landmark(&mut self) -> Option<(Landmark, u32)> {
        self.engine.take_landmark()
    }
    fn take_counted(&mut self) -> Option<dejavm_cpu::Counted> {
        self.engine.take_counted()
    }
    fn land(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        landmark: &Landmark,
        counted: Option<&dejavm_cpu::Counted>,
    ) -> Result<bool, String> {
        let landed = self.engine.land(cpu, ram, bus, landmark, counted);
        self.counts.set(self.engine.counts());
        landed
    }
}

fn engine(host: &Host, clock: Option<StandIn>) -> Result<KvmEngine, String> {
    let engine = KvmEngine::new(host, config().cpu, 0).map_err(|error| error.to_string())?;
    Ok(match clock {
        Some(clock) => engine.with_clock(Box::new(clock)),
        None => engine,
    })
}

fn put(machine: &mut Machine, engine: KvmEngine) -> Rc<Cell<Counts>> {
    let counts = Rc::<Cell<Counts>>::default();
    let watched = Watched { engine, counts: counts.clone() };
    machine.set_executor(Some(Box::new(watched)));
    counts
}

/// What doctor tries: single steps stop guests in both rings, and a counter is told exact from one that is not.
pub fn check_trials(host: &Host) -> Result<(), String> {
    for ring in [Ring::Kernel, Ring::Programs] {
        engine(host, None)?
            .try_stopping(ring, Stopping::Steps)
            .map_err(|why| format!("single steps in {ring:?}: {why}"))?;
    }
    let period = NonZeroU64::new(40).expect("it is not 0");
    let plan = TrialPlan { runs: 3, branches: 150, period };
    let trial = |forgets_in| {
        let manners = Manners { forgets_in, ..Manners::default() };
        let counter = Box::new(StandIn::new(manners, 7));
        let trial = KvmEngine::try_counter(host, config().cpu, counter, plan);
        trial.map_err(|error| error.to_string())
    };
    let good = trial(0)?;
    println!("a stand-in for a counter: {good}");
    // 150 branches at one interrupt in 40, or a little more, are three a run.
    if !good.is_exact() || good.skids.len() < 6 || good.skid(1000) >= Some(SKID) {
        return Err(format!("a good counter is {good:?}"));
    }
    let bad = trial(50)?;
    println!("a stand-in for a counter: {bad}");
    match bad.is_exact() {
        true => Err(format!("a counter that forgets is {bad:?}")),
        false => Ok(()),
    }
}

/// Records with counts, and replays with clocks good and bad, and without.
pub fn check(host: &Host) -> Result<(), String> {
    let mut retried = 0;
    for seed in 1..=2 {
        let mut machine = boot(dejavm_images::HELLO);
        machine.ram_mut().write(Gpa(CODE_AT), &CODE).expect("there is RAM");
        machine.set_cpu_state(&CpuState { rip: CODE_AT, ..machine.cpu_state() });
        let manners = Manners { kick_max: 700, ..Manners::default() };
        let live = engine(host, Some(StandIn::new(manners, seed)))?
            .leaving_landmarks()
            .kicked_after(TURN_US);
        let counts = put(&mut machine, live);
        let recorded = tape(machine, config(), &mut Desk::new(), 10, None);
        let landmarks = counts.get().landmarks;
        if landmarks < 5 {
            return Err(format!("seed {seed}: only {landmarks} landmarks"));
        }
        let good = Manners::default();
        let bad = Manners { late_in: 3, lost_in: 4, ..good };
        for (name, manners) in [("good", Some(good)), ("bad", Some(bad)), ("no", None)] {
            let clock = manners.map(|manners| StandIn::new(manners, seed + 100));
            let is_clock = clock.is_some();
            let counts = replay(host, &recorded.file, clock)
                .map_err(|error| format!("seed {seed}, with {name} clock: {error}"))?;
            let Counts { landed, missed, .. } = counts;
            retried += counts.retried;
            // A landmark that was not landed on was found by software, and the replay is equal all the same.
            let all = if is_clock { landmarks } else { 0 };
            let least = if name == "bad" { all / 2 } else { all };
            if landed + missed != all || landed < least || name == "good" && counts.retried > 0 {
                return Err(format!(
                    "seed {seed}: {landmarks} landmarks, and with {name} clock {counts:?}"
                ));
            }
            println!(
                "counted, seed {seed}: {landmarks} landmarks, {landed} come to by a stand-in for a counter ({name}: {} attempts too late, \
                 {missed} by software), the replay is equal",
                counts.retried
            );
        }
    }
    match retried {
        0 => Err("no attempt was too late: that is not tried".to_owned()),
        _ => Ok(()),
    }
}

fn replay(host: &Host, file: &[u8], clock: Option<StandIn>) -> Result<Counts, String> {
    struct Nobody;
    impl Observer for Nobody {
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _at: Moment) -> bool {
            true
        }
    }
    let mut replayer = Replayer::open(Cursor::new(file)).map_err(|error| error.to_string())?;
    let mut machine = rebuild(&mut replayer).map_err(|error| error.to_string())?;
    let counts = put(&mut machine, engine(host, clock)?);
    replayer
        .run(&mut machine, &ReplayOptions::default(), &mut Nobody)
        .map_err(|error| error.to_string())?;
    Ok(counts.get())
}
