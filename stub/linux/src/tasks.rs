//! The kernel's list of tasks, and who runs where.

use crate::image::spaces;
use crate::kernel::{Confidence, Kernel, Reason};
use crate::paging::{Paging, Space};
use crate::reader::Reader;
use crate::view::GuestView;
use dejavm_units::{Gpa, Gva};
use std::collections::BTreeSet;

/// More tasks than this are not listed.
const TASKS_MAX: usize = 1 << 15;
/// Page reads that listing them may take.
const TASKS_PAGES_MAX: u64 = 8 << 20;
/// `PID_MAX_LIMIT` (`include/linux/threads.h`).
const PID_MAX: u32 = 4 << 20;
/// `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;
/// `TASK_COMM_LEN` since ever.
const COMM_BYTES: u64 = 16;

/// A task: a thread of a process, or of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its `task_struct`.
    pub address: Gva,
    /// Its own number: what gdb calls the thread.
    pub pid: u32,
    /// Its process's number.
    pub tgid: u32,
    /// Its name; what cannot be shown is `?`.
    pub comm: String,
    /// R, S, D, T, t, X, Z, P or I, as in `/proc/PID/stat`; `?` if it cannot be read.
    pub state: char,
    /// The CPU that it runs on or last ran on.
    pub cpu: Option<u32>,
    /// The vCPU whose `current` it is.
    pub running: Option<usize>,
    /// A thread of the kernel's own, which never runs in user mode.
    pub kernel_thread: bool,
    /// Its `mm_struct`; `None` for a thread of the kernel and for a process that has given its memory back and ends.
    pub mm: Option<Gva>,
    /// The page tables of its `mm`.
    pub pgd: Option<Gpa>,
    /// The page tables that user mode runs on: `pgd`, or its user half where the kernel isolates page tables. This is CR3's
    /// base in user mode, `pgd` that in kernel mode.
    pub user_pgd: Option<Gpa>,
    /// The lowest address of its kernel stack.
    pub stack: Option<Gva>,
}

impl Kernel {
    /// Every task, in the kernel's order: `init_task` (pid 0) first, each process's threads together.
    ///
    /// # Errors
    /// The position is one where no list can be read, such as one before the kernel made it.
    pub fn tasks(&self, view: &dyn GuestView) -> Result<Vec<Task>, Reason> {
        let reader = self.task_reader(view)?;
        let currents = self.currents_with(view, &reader);
        let leaders = self.leaders(&reader, &currents)?;
        let mut seen = BTreeSet::new();
        let mut tasks = Vec::new();
        for leader in leaders {
            for address in self.threads(&reader, leader) {
                if tasks.len() < TASKS_MAX
                    && seen.insert(address)
                    && let Some(task) = self.task(&reader, address, &currents)
                {
                    tasks.push(task);
                }
            }
        }
        // The idle tasks of other CPUs are in no list.
        for address in currents.iter().copied().flatten() {
            if seen.insert(address)
                && let Some(task) = self.task(&reader, address, &currents)
            {
                tasks.push(task);
            }
        }
        Ok(tasks)
    }

    /// One task by its address, such as one that [`Kernel::current`] gave. `None` if no task is there.
    pub fn task_at(&self, view: &dyn GuestView, address: Gva) -> Option<Task> {
        let reader = self.task_reader(view).ok()?;
        let currents = self.currents_with(view, &reader);
        self.looks_like_task(&reader, address).then(|| self.task(&reader, address, &currents))?
    }

    pub(crate) fn task_reader<'a>(&self, view: &'a dyn GuestView) -> Result<Reader<'a>, Reason> {
        if let Some(field) = self.layout.missing() {
            return Err(Reason::NoLayout(field));
        }
        self.reader(view, TASKS_PAGES_MAX).ok_or(Reason::NoTasks("the kernel is not mapped"))
    }

    /// The processes' first threads, from the ring that `tasks` links (or `next_task` of 2.4).
    pub(crate) fn leaders(
        &self,
        reader: &Reader<'_>,
        currents: &[Option<Gva>],
    ) -> Result<Vec<Gva>, Reason> {
        let start = self
            .init_task
            .filter(|&task| self.looks_like_task(reader, task))
            .or_else(|| currents.iter().copied().flatten().next())
            .ok_or(Reason::NoTasks("neither init_task nor a running task is there"))?;
        let mut leaders = vec![start];
        let mut seen = BTreeSet::from([start]);
        let mut at = start;
        while leaders.len() < TASKS_MAX {
            let next = match self.next_leader(reader, at) {
                Some(next) if next == start => {
                    // From a task other than init_task: that one comes first all the same.
                    if let Some(idle) =
                        leaders.iter().position(|&task| self.pid(reader, task) == Some(0))
                    {
                        leaders.rotate_left(idle);
                    }
                    return Ok(leaders);
                }
                Some(next) => next,
                None => return Err(Reason::NoTasks("the list of tasks is broken")),
            };
            if !seen.insert(next) {
                return Err(Reason::NoTasks("the list of tasks does not close"));
            }
            leaders.push(next);
            at = next;
        }
        Ok(leaders)
    }

    pub(crate) fn next_leader(&self, reader: &Reader<'_>, task: Gva) -> Option<Gva> {
        let Some(tasks) = self.layout.tasks else {
            return reader.pointer_at(task, self.layout.next_task?);
        };
        let node = reader.offset(task, tasks);
        let next = reader.pointer_at(node, 0)?;
        // Each neighbour's `prev` points back.
        let back = reader.word_at(next, reader.word_bytes())?;
        (back == node.0).then(|| reader.offset(next, tasks.wrapping_neg()))
    }

    /// The threads of a process, first the leader.
    pub(crate) fn threads(&self, reader: &Reader<'_>, leader: Gva) -> Vec<Gva> {
        let layout = &self.layout;
        let mut threads = vec![leader];
        let (start, node_offset) =
            match (layout.signal, layout.thread_head, layout.thread_node, layout.thread_group) {
                (Some(signal), Some(head), Some(node), _) => {
                    let Some(signal) = reader.pointer_at(leader, signal) else { return threads };
                    (reader.offset(signal, head), node)
                }
                (_, _, _, Some(group)) => (reader.offset(leader, group), group),
                _ => return threads,
            };
        let mut node = start;
        while threads.len() < TASKS_MAX {
            match reader.pointer_at(node, 0) {
                Some(next) if next != start => node = next,
                _ => break,
            }
            let thread = reader.offset(node, node_offset.wrapping_neg());
            if thread != leader {
                if threads.contains(&thread) {
                    break;
                }
                threads.push(thread);
            }
        }
        threads
    }

    fn pid(&self, reader: &Reader<'_>, task: Gva) -> Option<u32> {
        reader.u32(reader.offset(task, self.layout.pid?)).filter(|&pid| pid <= PID_MAX)
    }

    fn comm(&self, reader: &Reader<'_>, task: Gva) -> Option<String> {
        let bytes = self.layout.comm_bytes.unwrap_or(COMM_BYTES).clamp(1, 64);
        reader.text(reader.offset(task, self.layout.comm?), bytes as usize)
    }

    /// A plausible `task_struct`: for what a register or a per-CPU word is said to hold.
    pub(crate) fn looks_like_task(&self, reader: &Reader<'_>, task: Gva) -> bool {
        if !reader.is_kernel_pointer(task) {
            return false;
        }
        let (Some(pid), Some(comm)) = (self.pid(reader, task), self.comm(reader, task)) else {
            return false;
        };
        if comm.is_empty() || comm.contains('?') && pid == 0 {
            return false;
        }
        if pid == 0 {
            return comm.starts_with("swapper");
        }
        // Only leaders are in the ring.
        let leader = match self.layout.group_leader {
            Some(offset) => reader.pointer_at(task, offset),
            None => Some(task),
        };
        leader.is_some_and(|leader| self.next_leader(reader, leader).is_some())
    }

    fn task(&self, reader: &Reader<'_>, address: Gva, currents: &[Option<Gva>]) -> Option<Task> {
        let layout = &self.layout;
        let pid = self.pid(reader, address)?;
        let mm =
            reader.word_at(address, layout.mm?).map(Gva).filter(|mm| reader.is_kernel_pointer(*mm));
        let pgd = mm.and_then(|mm| self.pgd(reader, mm));
        Some(Task {
            address,
            pid,
            tgid: layout
                .tgid
                .and_then(|tgid| reader.u32(reader.offset(address, tgid)))
                .unwrap_or(pid),
            comm: self.comm(reader, address)?,
            state: self.state(reader, address),
            cpu: layout
                .cpu
                .and_then(|cpu| reader.u32(reader.offset(address, cpu)))
                .filter(|&cpu| cpu < 8192),
            running: currents.iter().position(|&current| current == Some(address)),
            kernel_thread: match layout.flags {
                Some(flags) => {
                    reader.u32(reader.offset(address, flags))? & PF_KTHREAD != 0 || pid == 0
                }
                None => mm.is_none(),
            },
            mm,
            pgd,
            user_pgd: pgd.map(|pgd| user_half(reader.view, self.paging, pgd)),
            stack: layout.stack.and_then(|stack| reader.pointer_at(address, stack)),
        })
    }

    pub(crate) fn pgd(&self, reader: &Reader<'_>, mm: Gva) -> Option<Gpa> {
        reader.translate(reader.pointer_at(mm, self.layout.pgd?)?)
    }

    /// The letter of `/proc/PID/stat` (`fs/proc/array.c`, `get_task_state`).
    fn state(&self, reader: &Reader<'_>, task: Gva) -> char {
        const IDLE: u32 = 0x402;
        let read = |offset: Option<u64>| reader.u32(reader.offset(task, offset?));
        let (Some(state), exit) =
            (read(self.layout.state), read(self.layout.exit_state).unwrap_or(0))
        else {
            return '?';
        };
        if exit & 0x20 != 0 {
            return 'Z';
        }
        if exit & 0x10 != 0 {
            return 'X';
        }
        if state & IDLE == IDLE {
            return 'I';
        }
        match state & 0x4f {
            0 => 'R',
            bits if bits & 0x40 != 0 => 'P',
            bits if bits & 8 != 0 => 't',
            bits if bits & 4 != 0 => 'T',
            bits if bits & 2 != 0 => 'D',
            _ => 'S',
        }
    }

    /// Checks everything against the machine and says how that went.
    pub(crate) fn check(&mut self, view: &dyn GuestView) {
        self.confidence = match self.complaints(view) {
            complaints if complaints.is_empty() => Confidence::Verified,
            complaints => Confidence::Partial(complaints.join("; ")),
        };
    }

    fn complaints(&self, view: &dyn GuestView) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut unless = |holds: bool, text: &str| {
            if !holds {
                complaints.push(text.to_owned());
            }
        };
        unless(self.symbols.is_some(), "no symbol table (kallsyms) was found");
        unless(
            self.candidates.is_none() || self.layout.thread_group.is_some(),
            "the place of thread_group is not known: of each process only the first thread is listed",
        );
        let tasks = match self.tasks(view) {
            Ok(tasks) => tasks,
            Err(reason) => {
                unless(false, &reason.to_string());
                return complaints;
            }
        };
        let first = tasks.first();
        unless(
            first.is_some_and(|task| {
                task.pid == 0 && task.comm.starts_with("swapper") && task.mm.is_none()
            }),
            "the list of tasks does not begin with the idle task",
        );
        let pid_1 = tasks.iter().any(|task| task.pid == 1 && task.tgid == 1);
        unless(pid_1, "no task has pid 1 yet");
        let kthreadd =
            tasks.iter().any(|task| task.pid == 2 && task.comm == "kthreadd" && task.mm.is_none());
        unless(kthreadd, "there is no kthreadd yet");
        for vcpu in 0..view.vcpus() {
            let Some(task) = tasks.iter().find(|task| task.running == Some(vcpu)) else {
                unless(false, &format!("the task that vCPU {vcpu} runs cannot be told"));
                continue;
            };
            // A thread of the kernel runs on the page tables of whoever ran before.
            if let (Some(pgd), Some(user_pgd)) = (task.pgd, task.user_pgd) {
                let observed = self.paging.root(view.cpu_state(vcpu).cr3);
                unless(
                    observed == pgd || observed == user_pgd,
                    &format!(
                        "vCPU {vcpu} does not run on the page tables of its task {}",
                        task.pid
                    ),
                );
            }
        }
        complaints
    }
}

/// With isolated page tables, the user half is the page after the kernel half: it maps the same user memory.
fn user_half(view: &dyn GuestView, paging: Paging, pgd: Gpa) -> Gpa {
    if !matches!(paging, Paging::FourLevel | Paging::FiveLevel) || pgd.0 & 0x1000 != 0 {
        return pgd;
    }
    let other = pgd.wrapping_add(0x1000);
    let (mut kernel, mut user) = ([0; 0x800], [0; 0x800]);
    if !view.read_physical(pgd, &mut kernel) || !view.read_physical(other, &mut user) {
        return pgd;
    }
    // The kernel half's user entries are the user half's with no-execute set: a kernel that forgets to switch must not run user code.
    let entry = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let pairs = || {
        kernel.chunks_exact(8).zip(user.chunks_exact(8)).map(|(one, two)| (entry(one), entry(two)))
    };
    const NO_EXECUTE: u64 = 1 << 63;
    // Accessed bits differ.
    const ACCESSED: u64 = 1 << 5;
    let same =
        pairs().all(|(one, two)| (one & !NO_EXECUTE | ACCESSED) == (two & !NO_EXECUTE | ACCESSED));
    let any = pairs().any(|(one, _)| one & 1 != 0);
    if same && any { other } else { pgd }
}

impl Kernel {
    /// The address space that a task's memory is read through: its own, or the kernel's for a thread of the kernel. For a
    /// running task of the kernel that is CR3 as it stands.
    pub fn space_of(&self, view: &dyn GuestView, task: &Task) -> Option<Space> {
        if let Some(root) = task.pgd {
            return Some(Space { root, paging: self.paging });
        }
        let running = task.running.filter(|&vcpu| vcpu < view.vcpus());
        running
            .and_then(|vcpu| spaces(&view.cpu_state(vcpu)).into_iter().next())
            .or_else(|| self.kernel_space(view))
    }
}
