//! A live machine that began where a replay stood. Nothing enters it but what the debugger writes; it is not
//! recorded.

use crate::target::{Interrupted, Judge, Refusal, Resume, Stopped};
use dejavm_cpu::{CpuState, Stops};
use dejavm_machine::{End, Idle, Input, Machine, Stop, register_writes};
use dejavm_units::{Gpa, Gva, PAGE_SIZE, Position};

/// Instructions between two looks at the client: some milliseconds.
const SLICE: u64 = 2 << 20;
/// Idle stretches between two looks.
const IDLES_UNATTENDED: u32 = 1000;

/// See the module's documentation.
pub(crate) struct Branch {
    pub(crate) machine: Machine,
    /// Where it began.
    pub(crate) from: Position,
}

impl Branch {
    pub(crate) fn new(machine: Machine) -> Branch {
        let from = machine.position();
        Branch { machine, from }
    }

    /// Runs forwards. Idle time is skipped.
    pub(crate) fn run(
        &mut self,
        resume: &Resume<'_>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Stopped {
        self.machine.set_stops(resume.stops);
        let stopped = self.run_to_stop(resume.until, judge, interrupted);
        self.machine.set_stops(&Stops::default());
        stopped
    }

    fn run_to_stop(
        &mut self,
        until: Option<Position>,
        judge: &mut Judge<'_>,
        interrupted: &mut Interrupted<'_>,
    ) -> Stopped {
        let until = until.unwrap_or(Position(u64::MAX));
        let mut idles = 0;
        loop {
            let here = self.machine.position();
            let slice = Position(here.0.saturating_add(SLICE)).min(until);
            let stop = self.machine.run(slice);
            // Nobody listens to it.
            self.machine.take_output();
            let arrived = self.machine.position() >= until;
            match stop {
                Stop::Limit | Stop::Idle { .. } | Stop::End(_) if arrived => return Stopped::Until,
                Stop::Limit => {
                    if interrupted() {
                        return Stopped::Interrupted;
                    }
                }
                Stop::Idle { wake: Some(wake) } => {
                    let (Idle::Runnable | Idle::Waiting) = self.machine.idle_until(wake);
                    idles += 1;
                    if idles % IDLES_UNATTENDED == 0 && interrupted() {
                        return Stopped::Interrupted;
                    }
                }
                Stop::Idle { wake: None } => {
                    let how = "the guest waits for input, and in a branch none comes";
                    return Stopped::End(how.to_owned());
                }
                Stop::End(end) => return Stopped::End(ended(end)),
                Stop::Breakpoint { at } => {
                    let stopped = Stopped::Breakpoint { at };
                    if judge(&self.machine, &stopped) {
                        return stopped;
                    }
                }
                Stop::Watchpoint { index, address, kind } => {
                    let stopped = Stopped::Watchpoint { index, address, kind };
                    if judge(&self.machine, &stopped) {
                        return stopped;
                    }
                }
            }
        }
    }

    pub(crate) fn set_registers(&mut self, state: &CpuState) -> Result<(), Refusal> {
        let values = register_writes(&self.machine.cpu_state(), state)
            .map_err(|refused| Refusal::Unsupported(refused.to_string()))?;
        self.machine.apply(&Input::WriteRegisters { values });
        Ok(())
    }

    pub(crate) fn write_virtual(&mut self, at: Gva, space: Option<Gpa>, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(to) = at.0.checked_add(done as u64) else { break };
            let Some(physical) = self.machine.translate(Gva(to), space) else { break };
            let in_page = (PAGE_SIZE - Gva(to).page_offset()) as usize;
            let end = bytes.len().min(done + in_page);
            let written = self.write_physical(physical, &bytes[done..end]);
            done += written;
            if done < end {
                break;
            }
        }
        done
    }

    pub(crate) fn write_physical(&mut self, at: Gpa, bytes: &[u8]) -> usize {
        let mut probe = vec![0; bytes.len()];
        let there = crate::target::Inspect::read_physical(&self.machine, at, &mut probe);
        let bytes = bytes[..there].to_vec();
        self.machine.apply(&Input::WriteMemory { at, bytes });
        there
    }
}

fn ended(end: End) -> String {
    match end {
        End::PowerOff => "the guest switched the power off".to_owned(),
        End::Reset => "the guest asked for a reset".to_owned(),
        End::DebugExit(value) => format!("the guest left by the debug exit port with {value:#x}"),
        End::TripleFault => "the guest died of a triple fault".to_owned(),
        End::Livelock => "the guest takes exceptions without end".to_owned(),
        End::HaltedForever => "the guest halted with interrupts off".to_owned(),
    }
}
