//! Another engine in place of this CPU's run loop.

use crate::bus::Bus;
use crate::cpu::Cpu;
use crate::landmark::{Counted, Landmark};
use crate::run::Stop;
use dejavm_memory::GuestRam;
use dejavm_units::Position;

/// What executes instructions in place of [`Cpu::run_until`]. The CPU stays the home of the state between runs: an executor takes
/// it from there and puts it back, and what it cannot do it leaves to the CPU.
pub trait Executor {
    /// Runs until a position that is not before `limit`, or until something needs the board.
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
