//! What gdb sees as threads. By default each virtual CPU is one; a view of the guest's own tasks can
//! take their place.

use crate::breakpoints::space;
use crate::target::{Inspect, Vcpu};
use dejavm_cpu::CpuState;
use dejavm_units::{Gpa, Gva};

/// A thread's number as gdb has it: not 0, which means "any" in the protocol, and positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ThreadId(pub u32);

/// A thread, as `info threads` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub id: ThreadId,
    /// Its name.
    pub name: String,
    /// What else there is to say of it, in a few words.
    pub detail: String,
    /// The CPU that it is on.
    pub core: Option<u32>,
}

/// Where a thread's registers and memory are.
#[derive(Clone, Debug)]
pub struct View {
    /// The virtual CPU through which its memory is seen.
    pub vcpu: Vcpu,
    /// Its registers.
    pub registers: CpuState,
    /// The page tables that its memory is seen through; `None`: those in use on `vcpu`.
    pub space: Option<Gpa>,
    /// Whether these are the CPU's own registers, which can be written.
    pub on_cpu: bool,
}

/// Makes threads of a machine.
pub trait Threads {
    /// All, ascending by number.
    fn list(&self, machine: &dyn Inspect) -> Vec<Thread>;
    /// The one that a virtual CPU executes.
    fn on(&self, machine: &dyn Inspect, vcpu: Vcpu) -> ThreadId;
    /// The one that a stop is reported for.
    fn current(&self, machine: &dyn Inspect) -> ThreadId {
        self.on(machine, machine.current_vcpu())
    }
    /// One of them; `None` if it does not exist (any more).
    fn view(&self, machine: &dyn Inspect, id: ThreadId) -> Option<View>;
    /// The page tables to which a breakpoint or watchpoint at `at` is bound that gdb sets while `id` is
    /// selected; `None`: it is bound to none. gdb sets them anew whenever it lets the machine go, whoever
    /// is selected then: it is up to this to remember.
    fn breakpoint_space(&self, machine: &dyn Inspect, id: ThreadId, at: Gva) -> Option<Gpa>;
}

/// A thread for each virtual CPU: CPU 0 is thread 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpus;

impl Threads for Cpus {
    fn list(&self, machine: &dyn Inspect) -> Vec<Thread> {
        (0..machine.vcpus())
            .map(|number| {
                let state = machine.registers(Vcpu(number));
                let detail = match (state.halted, state.cpl) {
                    (true, _) => "halted".to_owned(),
                    (false, 0) => format!("kernel, {:#x}", space(&state).0),
                    (false, level) => format!("user, ring {level}, {:#x}", space(&state).0),
                };
                let id = ThreadId(number.saturating_add(1));
                Thread { id, name: format!("cpu{number}"), detail, core: Some(number) }
            })
            .collect()
    }

    fn on(&self, _: &dyn Inspect, vcpu: Vcpu) -> ThreadId {
        ThreadId(vcpu.0.saturating_add(1))
    }

    fn view(&self, machine: &dyn Inspect, id: ThreadId) -> Option<View> {
        let vcpu = Vcpu(id.0.checked_sub(1).filter(|number| *number < machine.vcpus())?);
        Some(View { vcpu, registers: machine.registers(vcpu), space: None, on_cpu: true })
    }

    fn breakpoint_space(&self, _: &dyn Inspect, _: ThreadId, _: Gva) -> Option<Gpa> {
        None
    }
}
