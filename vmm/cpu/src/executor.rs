//! Another engine in place of this CPU's run loop.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::landmark::{Counted, Landmark};
use crate::run::Stop;
use crate::state::CpuState;
use dejavm_memory::GuestRam;
use dejavm_units::Position;

/// What executes instructions in place of [`Cpu::run_until`]. The CPU stays the home of the state between runs: an executor takes
/// it from there and puts it back, and what it cannot do it leaves to the CPU. The CPU is also where it finds what a debugger wants
/// ([`Cpu::stops`]): runs end there as the CPU's own do, and one that starts at a breakpoint is not stopped by it
/// ([`Cpu::pass_stop`]).
pub trait Executor {
    /// Runs until a position that is not before `limit`, or until something needs the board, or a debugger.
    ///
    /// # Errors
    /// If the host refuses to go on: a sentence for the user.
    fn run_until(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
        limit: Position,
    ) -> Result<Stop, String>;

    /// Whether its positions are the software CPU's: instructions, counted as that counts them, in a machine whose guest time passes by
    /// them. Else they are exits.
    fn counts_instructions(&self) -> bool {
        false
    }

    /// Runs until one instruction has completed, wherever its position is, and takes the interrupts that are taken there then:
    /// [`Stop::Limit`]. [`Cpu::deliveries`] tells how many. What comes before an instruction can, ends it as it ends other runs. By default the software CPU executes it.
    ///
    /// # Errors
    /// As [`Executor::run_until`].
    fn step(
        &mut self,
        cpu: &mut Cpu,
        ram: &mut GuestRam,
        bus: &mut dyn Bus,
    ) -> Result<Stop, String> {
        Ok(step_by_software(cpu, ram, bus))
    }

    /// The last run ended with [`Stop::Board`] because the guest executed for so many microseconds without an exit: where
    /// it was stopped, and the time. Told once.
    fn take_landmark(&mut self) -> Option<(Landmark, u32)> {
        None
    }

    /// Where that landmark is by the executor's count of branches, if it keeps one. Told once.
    fn take_counted(&mut self) -> Option<Counted> {
        None
    }

    /// Goes on to a landmark, if it can: `false` where it cannot, and then the machine is what it was. `counted` is what another
    /// run of it said. Told of each landmark that a machine is to come to, so that what is counted for the next begins there.
    ///
    /// # Errors
    /// As [`Executor::run_until`].
    fn land(
        &mut self,
        _cpu: &mut Cpu,
        _ram: &mut GuestRam,
        _bus: &mut dyn Bus,
        _landmark: &Landmark,
        _counted: Option<&Counted>,
    ) -> Result<bool, String> {
        Ok(false)
    }
}

/// [`Executor::step`] of one whose positions are exits.
pub fn step_by_software(cpu: &mut Cpu, ram: &mut GuestRam, bus: &mut dyn Bus) -> Stop {
    let start = cpu.position();
    let ahead = start.0.wrapping_sub(bus.exits());
    let stop = cpu.run_until(ram, bus, Position(start.0.saturating_add(1)));
    let completed = cpu.position() > start;
    let position = Position(bus.exits().wrapping_add(ahead));
    cpu.set_state(&CpuState { position, ..cpu.state() });
    match stop {
        Stop::Board | Stop::Halted if completed => Stop::Limit,
        stop => stop,
    }
}
