//! The simplest target that runs backwards: it starts its guest anew and runs it up to where it wants
//! to be. An oracle for whatever is faster; for guests of some thousand instructions.

use dejavm_cpu::Stops;
use dejavm_machine::{Boot, Hardware, Idle, Machine, MachineConfig, Stop};
use dejavm_memory::RamLayout;
use dejavm_stub::{
    Capabilities, Direction, Inspect, Interrupted, Judge, Refusal, Resume, Stopped, Target,
};
use dejavm_units::{Gpa, Gva, Position};

/// RAM of such guests.
const RAM_BYTES: u64 = 16 << 20;

/// See the module's documentation.
pub struct Rerun {
    image: &'static [u8],
    processors: u8,
    machine: Machine,
    capabilities: Capabilities,
    end: Position,
    console: Vec<u8>,
}

/// A stop, and where it was.
type Found = (Position, Stopped);

impl Rerun {
    /// A replay of a guest that gets no input.
    pub fn replay(image: &'static [u8]) -> Rerun {
        let capabilities = Capabilities { replay: true, reverse: true, writable: false };
        Rerun::new(image, 1, capabilities)
    }

    /// As [`Rerun::replay`], on so many processors that take short turns.
    pub fn replay_on(image: &'static [u8], processors: u8) -> Rerun {
        let capabilities = Capabilities { replay: true, reverse: true, writable: false };
        Rerun::new(image, processors, capabilities)
    }

    /// A live machine: it runs forwards only, and can be written.
    pub fn live(image: &'static [u8]) -> Rerun {
        let capabilities = Capabilities { replay: false, reverse: false, writable: true };
        Rerun::new(image, 1, capabilities)
    }

    fn new(image: &'static [u8], processors: u8, capabilities: Capabilities) -> Rerun {
        let mut machine = boot(image, processors);
        let (stopped, _) =
            advance(&mut machine, Position(u64::MAX), &mut |_, _| true, &mut || false);
        assert!(matches!(stopped, Stopped::End(_)), "the guest ends by itself: {stopped:?}");
        let end = machine.position();
        let machine = boot(image, processors);
        Rerun { image, processors, machine, capabilities, end, console: Vec::new() }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The last position.
    pub fn end(&self) -> Position {
        self.end
    }

    /// What the guest printed on its debug console on the way here, the way back not deducted.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.console).into_owned()
    }

    fn restart(&mut self, at: Position) {
        self.machine = boot(self.image, self.processors);
        advance(&mut self.machine, at, &mut |_, _| true, &mut || false);
        assert_eq!(self.machine.position(), at);
    }

    fn backward(&mut self, resume: &Resume<'_>, judge: &mut Judge<'_>) -> Stopped {
        let now = self.machine.position();
        let from = resume.until.unwrap_or(Position(0));
        if from >= now {
            return if resume.until.is_none() { Stopped::Start } else { Stopped::Until };
        }
        // The last stop that counts, breakpoints at `from` included.
        let mut found: Option<Found> = None;
        self.restart(from);
        self.machine.set_stops(resume.stops);
        if let Some(at) = self.machine.breakpoint_here()
            && from > Position(0)
        {
            let stopped = Stopped::Breakpoint { at };
            if judge(&self.machine, &stopped) {
                found = Some((from, stopped));
            }
        }
        let mut at_accesses = |machine: &dyn Inspect, stopped: &Stopped| {
            let at = match stopped {
                Stopped::Watchpoint { .. } => Position(machine.position().0 - 1),
                _ => machine.position(),
            };
            if at < now && judge(machine, stopped) {
                found = Some((at, stopped.clone()));
            }
            false
        };
        advance(&mut self.machine, now, &mut at_accesses, &mut || false);
        let (at, stopped) = match found {
            Some(found) => found,
            None if resume.until.is_none() => (from, Stopped::Start),
            None => (from, Stopped::Until),
        };
        self.restart(at);
        stopped
    }
}

fn boot(image: &'static [u8], processors: u8) -> Machine {
    let ram = RamLayout::new(RAM_BYTES).expect("a constant that fits");
    let hardware = Hardware { processors, slice: 100, ..Hardware::default() };
    let config = MachineConfig { hardware, ..MachineConfig::new(ram) };
    let boot = Boot { image, initrd: None, cmdline: "" };
    Machine::boot(&config, &boot).expect("our own guests boot")
}

/// Runs forwards.
fn advance(
    machine: &mut Machine,
    until: Position,
    judge: &mut Judge<'_>,
    interrupted: &mut Interrupted<'_>,
) -> (Stopped, Vec<u8>) {
    let mut console = Vec::new();
    let stopped = loop {
        if interrupted() {
            break Stopped::Interrupted;
        }
        let slice = Position(machine.position().0.saturating_add(1 << 20)).min(until);
        let stop = machine.run(slice);
        for output in machine.take_output() {
            if let dejavm_machine::Output::DebugConsole { bytes } = output {
                console.extend(bytes);
            }
        }
        match stop {
            Stop::Limit if machine.position() >= until => break Stopped::Until,
            Stop::Limit => {}
            Stop::Idle { .. } if machine.position() >= until => break Stopped::Until,
            Stop::Idle { wake: Some(wake) } => {
                let (Idle::Runnable | Idle::Waiting) = machine.idle_until(wake);
            }
            Stop::Idle { wake: None } => break Stopped::End("the guest waits for ever".into()),
            Stop::End(_) if machine.position() >= until => break Stopped::Until,
            Stop::End(end) => break Stopped::End(format!("the guest ended: {end:?}")),
            Stop::Breakpoint { at } => {
                let stopped = Stopped::Breakpoint { at };
                if judge(machine, &stopped) {
                    break stopped;
                }
            }
            Stop::Watchpoint { index, address, kind } => {
                let stopped = Stopped::Watchpoint { index, address, kind };
                if judge(machine, &stopped) {
                    break stopped;
                }
            }
        }
    };
    (stopped, console)
}

impl Target for Rerun {
    fn inspect(&self) -> &dyn Inspect {
        &self.machine
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn extent(&self) -> (Position, Position) {
        (Position(0), self.end)
    }

    fn is_64_bit(&self) -> bool {
        false
    }

    fn resume(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Result<Stopped, Refusal> {
        match resume.direction {
            Direction::Backward => Ok(self.backward(resume, judge)),
            Direction::Forward => {
                self.machine.set_stops(resume.stops);
                let until = resume.until.unwrap_or(Position(u64::MAX));
                let (stopped, console) = advance(&mut self.machine, until, judge, interrupted);
                self.machine.set_stops(&Stops::default());
                self.console.extend(console);
                Ok(stopped)
            }
        }
    }

    fn seek(&mut self, to: Position, _: &mut Interrupted<'_>) -> Result<Position, Refusal> {
        if to > self.end {
            return Refusal::unsupported("the recording ends before");
        }
        self.restart(to);
        Ok(to)
    }

    fn set_registers(
        &mut self,
        _: dejavm_stub::Vcpu,
        state: &dejavm_cpu::CpuState,
    ) -> Result<(), Refusal> {
        if !self.capabilities.writable {
            return Err(Refusal::ReplayIsSettled);
        }
        self.machine.set_cpu_state(state);
        Ok(())
    }

    fn write_virtual(
        &mut self,
        _: dejavm_stub::Vcpu,
        at: Gva,
        space: Option<Gpa>,
        bytes: &[u8],
    ) -> Result<usize, Refusal> {
        if !self.capabilities.writable {
            return Err(Refusal::ReplayIsSettled);
        }
        Ok(self.machine.write_virtual(at, space, bytes))
    }
}
