//! The software CPU in KVM's place, for stops that debug registers cannot hold.

use crate::engine::{KvmEngine, time_stamp_counter};
use crate::error::KvmError;
use crate::kick::Kicker;
use dejavm_cpu::{Bus, Cpu, CpuState, Stop, UntilExit};
use dejavm_memory::GuestRam;
use dejavm_units::Position;

/// Instructions between two looks whether the guest was kicked.
const SLICE: u64 = 100_000;

impl KvmEngine {
    /// As [`KvmEngine::run_until`], by the software CPU alone, whose home the state is.
    pub(crate) fn run_by_software(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, KvmError> {
        let ahead = cpu.position().0.wrapping_sub(bus.exits());
        let (mut kicks, mut at_kick) = (Kicker::count(), bus.exits());
        loop {
            let start = cpu.position();
            let count = if start >= limit { 0 } else { SLICE };
            let turn = Position(start.0.saturating_add(count));
            let counter = || time_stamp_counter(&self.vcpu);
            let stop = cpu.run_until(ram, &mut UntilExit::counting(bus, &counter), turn);
            let executed = cpu.position().0 - start.0;
            self.counts.by_software += executed;
            if executed > 0 {
                cpu.forget_passed();
            }
            let position = Position(bus.exits().wrapping_add(ahead));
            cpu.set_state(&CpuState { position, deliveries: 0, ..cpu.state() });
            match stop {
                // There was an exit.
                Stop::Board if !bus.wants_control() => {}
                Stop::Limit if count == 0 => return Ok(stop),
                Stop::Limit => {
                    let kicked = std::mem::replace(&mut kicks, Kicker::count()) != kicks;
                    let exits = bus.exits();
                    if !self.leaves_landmarks
                        || !kicked
                        || std::mem::replace(&mut at_kick, exits) != exits
                    {
                        continue;
                    }
                    let stop = cpu.run_to_landmark(ram, bus);
                    let position = Position(bus.exits().wrapping_add(ahead));
                    cpu.set_state(&CpuState { position, deliveries: 0, ..cpu.state() });
                    match stop {
                        None => {
                            self.leave_landmark(cpu, ram);
                            return Ok(Stop::Board);
                        }
                        Some(Stop::Limit | Stop::Halted) => {}
                        Some(Stop::Board) if !bus.wants_control() => {}
                        Some(stop) => return Ok(stop),
                    }
                }
                stop => return Ok(stop),
            }
        }
    }
}
