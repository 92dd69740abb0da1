//! A double of engines that cannot count instructions: the software CPU, whose positions are exits, stopped at random instants.
//! The real one runs in the lab; this one anywhere, and as its instants are chosen, it says more about landmarks.

use crate::random::Random;
use dejavm_cpu::{Bus, Cpu, CpuState, Executor, Landmark, Stop, UntilExit};
use dejavm_memory::GuestRam;
use dejavm_units::Position;

/// See the module's documentation.
pub struct ByExits {
    /// Chooses after how many instructions at most without an exit it stops; `None`: never.
    random: Option<(Random, u64)>,
    landmark: Option<(Landmark, u32)>,
}

/// Microseconds that pass at a landmark.
const LANDMARK_US: u32 = 3_000;

impl ByExits {
    /// One that leaves landmarks after at most so many instructions.
    pub fn live(seed: u64, instructions: u64) -> ByExits {
        ByExits { random: Some((Random::new(seed), instructions)), landmark: None }
    }

    /// One that leaves none.
    pub fn replaying() -> ByExits {
        ByExits { random: None, landmark: None }
    }
}

impl Executor for ByExits {
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, String> {
        let ahead = cpu.position().0 - bus.exits();
        loop {
            let before = cpu.position();
            let turn = match &mut self.random {
                _ if before >= limit => 0,
                Some((random, max)) => 1 + random.below(*max),
                None => 1 << 40,
            };
            // Pages that are dirty already would be missing from a landmark: all are in it.
            let exits = bus.exits();
            let stop =
                cpu.run_until(ram, &mut UntilExit::new(&mut *bus), Position(before.0 + turn));
            let position = Position(ahead + bus.exits());
            let has_run = cpu.position() > before;
            cpu.set_state(&CpuState { position, deliveries: 0, ..cpu.state() });
            if bus.exits() != exits && !cpu.is_halted() && !bus.wants_control() {
                continue;
            }
            return Ok(match stop {
                Stop::Limit if has_run && bus.exits() == exits => {
                    let pages: Vec<_> = ram.pages().collect();
                    let landmark = Landmark::of(&cpu.state(), ram, pages.into_iter());
                    self.landmark = Some((landmark, LANDMARK_US));
                    Stop::Board
                }
                stop => stop,
            });
        }
    }

    fn take_landmark(&mut self) -> Option<(Landmark, u32)> {
        self.landmark.take()
    }
}
