//! Machines on KVM as the lab's programs want them: with somebody who loses his patience, and sees what the engine did.

use dejavm_cpu::{Bus, Cpu, Landmark, Model};
use dejavm_kvm::{Counts, Host, KvmEngine};
use dejavm_machine::{Executor, Machine, Output};
use dejavm_memory::GuestRam;
use dejavm_replay::{Moment, Observer, ReplayError, ReplayOptions, Replayed, Replayer};
use dejavm_scenarios::rebuild;
use dejavm_units::Position;
use std::cell::Cell;
use std::io::Cursor;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A boot takes 10 s in the lab on the reference machine, and one of several dozen times that where others keep its cores busy.
const PATIENCE: Duration = Duration::from_secs(900);

/// An engine that loses its patience, and whose counts are seen from outside.
struct Watched {
    engine: KvmEngine,
    watch: Rc<Watch>,
}

pub struct Watch {
    begun: Instant,
    counts: Cell<Counts>,
}

impl std::fmt::Display for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { exits, by_software, landmarks, .. } = self.counts.get();
        let seconds = self.begun.elapsed().as_secs_f64();
        write!(
            f,
            "{seconds:.1} s, {exits} exits, {by_software} instructions by software, {landmarks} landmarks"
        )
    }
}

impl Executor for Watched {
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<dejavm_cpu::Stop, String> {
        if self.watch.begun.elapsed() > PATIENCE {
            return Err(format!("no end after {PATIENCE:?}, at {:#x}", cpu.state().rip));
        }
        let stop = Executor::run_until(&mut self.engine, cpu, ram, bus, limit);
        self.watch.counts.set(self.engine.counts());
        stop
    }

    fn take_landmark(&mut self) -> Option<(Landmark, u32)> {
        self.engine.take_landmark()
    }
}

/// Who executes on KVM.
#[derive(Clone, Copy, Debug)]
pub enum Runs {
    /// A live machine, kicked when it executes for so many microseconds without an exit.
    Live(u32),
    /// One that replays.
    Replaying,
}

/// A machine on KVM.
pub fn on_kvm(
    host: &Host,
    mut machine: Machine,
    model: Model,
    runs: Runs,
) -> Result<(Machine, Rc<Watch>), String> {
    let engine = KvmEngine::new(host, model, 0).map_err(|error| error.to_string())?;
    let engine = match runs {
        Runs::Live(turn_us) => engine.leaving_landmarks().kicked_after(turn_us),
        Runs::Replaying => engine,
    };
    let watch = Rc::new(Watch { begun: Instant::now(), counts: Cell::default() });
    machine.set_executor(Some(Box::new(Watched { engine, watch: watch.clone() })));
    Ok((machine, watch))
}

/// Replays a recording on KVM.
pub fn replay(
    host: &Host,
    file: &[u8],
) -> Result<(Result<Replayed, ReplayError>, Rc<Watch>), String> {
    struct Nobody;
    impl Observer for Nobody {
        fn output(&mut self, _output: &[Output]) {}
        fn progress(&mut self, _at: Moment) -> bool {
            true
        }
    }
    let mut replayer = Replayer::open(Cursor::new(file)).map_err(|error| error.to_string())?;
    let model = replayer.header().config.cpu;
    let machine = rebuild(&mut replayer).map_err(|error| error.to_string())?;
    let (mut machine, watch) = on_kvm(host, machine, model, Runs::Replaying)?;
    let result = replayer.run(&mut machine, &ReplayOptions::default(), &mut Nobody);
    Ok((result, watch))
}

/// A file of the lab's.
pub fn read(path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{path}: {error}"))
}
