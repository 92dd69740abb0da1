//! A double of engines that cannot count instructions: the software CPU, whose positions are exits, stopped at random instants.
//! The real one runs in the lab; this one anywhere, and as its instants are chosen, it says more about landmarks.

use crate::random::Random;
use dejavm_cpu::{Bus, Cpu, CpuState, Executor, Landmark, Stop};
use dejavm_memory::GuestRam;
use dejavm_units::{Gpa, Position};

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
            let stop = cpu.run_until(
                ram,
                &mut UntilExit { bus: &mut *bus, exits },
                Position(before.0 + turn),
            );
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

/// A bus that wants control as soon as there was an exit.
struct UntilExit<'a> {
    bus: &'a mut dyn Bus,
    exits: u64,
}

impl Bus for UntilExit<'_> {
    fn port_in(&mut self, port: u16, size: u8, at: Position) -> u32 {
        self.bus.port_in(port, size, at)
    }
    fn port_out(&mut self, port: u16, size: u8, value: u32, at: Position) {
        self.bus.port_out(port, size, value, at);
    }
    fn mmio_read(&mut self, gpa: Gpa, size: u8, at: Position) -> u64 {
        self.bus.mmio_read(gpa, size, at)
    }
    fn mmio_write(&mut self, gpa: Gpa, size: u8, value: u64, at: Position) {
        self.bus.mmio_write(gpa, size, value, at);
    }
    fn tsc(&mut self, at: Position) -> u64 {
        self.bus.tsc(at)
    }
    fn tsc_ahead(&self) -> Option<u64> {
        self.bus.tsc_ahead()
    }
    fn msr_read(&mut self, msr: u32, at: Position) -> Option<u64> {
        self.bus.msr_read(msr, at)
    }
    fn msr_write(&mut self, msr: u32, value: u64, at: Position) -> bool {
        self.bus.msr_write(msr, value, at)
    }
    fn cr8(&mut self) -> u8 {
        self.bus.cr8()
    }
    fn set_cr8(&mut self, priority: u8, at: Position) {
        self.bus.set_cr8(priority, at);
    }
    fn halts(&mut self, at: Position) {
        self.bus.halts(at);
    }
    fn exits(&self) -> u64 {
        self.bus.exits()
    }
    fn interrupt_pending(&self) -> bool {
        self.bus.interrupt_pending()
    }
    fn acknowledge_interrupt(&mut self, at: Position) -> u8 {
        self.bus.acknowledge_interrupt(at)
    }
    fn take_nmi(&mut self) -> bool {
        self.bus.take_nmi()
    }
    fn wants_control(&self) -> bool {
        self.bus.wants_control() || self.bus.exits() != self.exits
    }
    fn a20_enabled(&self) -> bool {
        self.bus.a20_enabled()
    }
}
