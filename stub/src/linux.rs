//! The tasks of a Linux guest as gdb's threads.
//!
//! A thread's number is the task's pid; idle tasks have numbers above all pids. Registers are the CPU's for the task that
//! runs, what it had in user mode for a process that does not, where it was switched out for a thread of the kernel. A
//! breakpoint on a user address belongs to the process whose thread is selected when gdb first sets it.

use crate::target::{Inspect, Vcpu};
use crate::threads::{Cpus, Thread, ThreadId, Threads, View};
use dejavm_cpu::CpuState;
use dejavm_linux::{GuestView, Kernel, Source, Task};
use dejavm_units::{Gpa, Gva, Position};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// The idle task of CPU 0: above `PID_MAX_LIMIT`.
const IDLE: u32 = (4 << 20) + 1;
/// CPU 0 itself, where nobody can tell which task it runs.
const CPU: u32 = 8 << 20;

/// Places of breakpoints that are remembered.
const BOUND_MAX: usize = 1 << 16;

/// A machine as the introspection sees it.
pub(crate) struct Looking<'a>(pub(crate) &'a dyn Inspect);

impl GuestView for Looking<'_> {
    fn vcpus(&self) -> usize {
        self.0.vcpus() as usize
    }

    fn cpu_state(&self, vcpu: usize) -> CpuState {
        self.0.registers(Vcpu(u32::try_from(vcpu).unwrap_or(0)))
    }

    fn read_physical(&self, at: Gpa, into: &mut [u8]) -> bool {
        self.0.read_physical(at, into) == into.len()
    }

    fn ram(&self) -> Vec<Range<u64>> {
        let ranges = self.0.ram().into_iter();
        ranges.map(|(start, bytes)| start.0..start.0.saturating_add(bytes)).collect()
    }
}

/// The process that a breakpoint is bound to: its number, and its page tables when they were seen last.
#[derive(Clone, Copy, Debug)]
struct Bound {
    tgid: u32,
    space: Gpa,
}

/// Threads that are tasks.
pub(crate) struct Tasks {
    kernel: Kernel,
    /// Of processes that do not run, show where they are in the kernel.
    inside_kernel: bool,
    listed: RefCell<Option<(Position, Rc<Vec<Task>>)>>,
    bound: RefCell<BTreeMap<u64, Bound>>,
}

impl Tasks {
    pub(crate) fn new(kernel: Kernel, inside_kernel: bool) -> Tasks {
        let (listed, bound) = (RefCell::new(None), RefCell::new(BTreeMap::new()));
        Tasks { kernel, inside_kernel, listed, bound }
    }

    /// All tasks here, ascending by thread number; none where the list cannot be read.
    fn tasks(&self, machine: &dyn Inspect) -> Rc<Vec<Task>> {
        let here = machine.position();
        if let Some((at, tasks)) = &*self.listed.borrow()
            && *at == here
        {
            return Rc::clone(tasks);
        }
        let mut tasks = self.kernel.tasks(&Looking(machine)).unwrap_or_default();
        tasks.sort_by_key(id);
        let tasks = Rc::new(tasks);
        *self.listed.borrow_mut() = Some((here, Rc::clone(&tasks)));
        tasks
    }

    fn find(&self, machine: &dyn Inspect, wanted: ThreadId) -> Option<Task> {
        self.tasks(machine).iter().find(|task| id(task) == wanted).cloned()
    }

    /// The registers that are shown of a task that does not run. A task that is being made or has ended may have none: zeros.
    fn registers(&self, machine: &dyn Inspect, task: &Task) -> CpuState {
        let looking = Looking(machine);
        let wished =
            if self.inside_kernel && !task.kernel_thread { Source::Kernel } else { Source::User };
        let default = || self.kernel.task_registers(&looking, task).default_source();
        self.kernel
            .task_state(&looking, task, wished)
            .or_else(|| self.kernel.task_state(&looking, task, default()?))
            .unwrap_or_else(|| {
                let mut state = looking.cpu_state(0);
                (state.gpr, state.rip, state.xmm) = ([0; 16], 0, [0; 16]);
                state
            })
    }
}

/// A task's number for gdb.
fn id(task: &Task) -> ThreadId {
    ThreadId(match task.pid {
        0 => IDLE.saturating_add(task.cpu.or(task.running.map(|vcpu| vcpu as u32)).unwrap_or(0)),
        pid => pid,
    })
}

impl Threads for Tasks {
    fn list(&self, machine: &dyn Inspect) -> Vec<Thread> {
        let tasks = self.tasks(machine);
        let mut threads: Vec<Thread> = tasks
            .iter()
            .map(|task| {
                let running = task.running.map(|vcpu| vcpu as u32);
                let process = if task.tgid == task.pid {
                    String::new()
                } else {
                    format!(", of {}", task.tgid)
                };
                let kernel = if task.kernel_thread { ", kernel" } else { "" };
                let on = if running.is_some() { ", on CPU" } else { "" };
                Thread {
                    id: id(task),
                    name: task.comm.clone(),
                    detail: format!("{}{process}{kernel}{on}", task.state),
                    core: running.or(task.cpu),
                }
            })
            .collect();
        for vcpu in
            (0..machine.vcpus()).filter(|vcpu| !tasks.iter().any(|task| runs_on(task, *vcpu)))
        {
            let id = ThreadId(CPU.saturating_add(vcpu));
            threads.push(Thread {
                id,
                name: format!("cpu{vcpu}"),
                detail: "no task is known".to_owned(),
                core: Some(vcpu),
            });
        }
        threads
    }

    fn on(&self, machine: &dyn Inspect, Vcpu(vcpu): Vcpu) -> ThreadId {
        let tasks = self.tasks(machine);
        let running = tasks.iter().find(|task| runs_on(task, vcpu));
        running.map_or(ThreadId(CPU.saturating_add(vcpu)), id)
    }

    fn view(&self, machine: &dyn Inspect, wanted: ThreadId) -> Option<View> {
        if let Some(vcpu) = wanted.0.checked_sub(CPU) {
            return Cpus.view(machine, ThreadId(vcpu.saturating_add(1)));
        }
        let task = self.find(machine, wanted)?;
        if let Some(vcpu) = task.running {
            return Cpus.view(machine, ThreadId((vcpu as u32).saturating_add(1)));
        }
        let space = self.kernel.space_of(&Looking(machine), &task).map(|space| space.root);
        Some(View {
            vcpu: Vcpu(0),
            registers: self.registers(machine, &task),
            space,
            on_cpu: false,
        })
    }

    fn breakpoint_space(&self, machine: &dyn Inspect, wanted: ThreadId, at: Gva) -> Option<Gpa> {
        if self.kernel.is_kernel_address(at) {
            return None;
        }
        let tasks = self.tasks(machine);
        let tables = |tgid: u32| {
            let mut of_process =
                tasks.iter().filter(|task| task.tgid == tgid && task.user_pgd.is_some());
            of_process.next().and_then(|task| task.user_pgd)
        };
        let mut bound = self.bound.borrow_mut();
        if let Some(known) = bound.get_mut(&at.0) {
            // A program that another was executed in has new page tables.
            known.space = tables(known.tgid).unwrap_or(known.space);
            return Some(known.space);
        }
        let selected = tasks.iter().find(|task| id(task) == wanted)?;
        let space = selected.user_pgd?;
        if bound.len() >= BOUND_MAX {
            bound.clear();
        }
        bound.insert(at.0, Bound { tgid: selected.tgid, space });
        Some(space)
    }
}

fn runs_on(task: &Task, vcpu: u32) -> bool {
    task.running == Some(vcpu as usize)
}
