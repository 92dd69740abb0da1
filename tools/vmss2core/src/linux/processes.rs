//! The processes of a Linux guest.

use super::kernel;
use crate::arguments::LinuxOptions;
use crate::error::Error;
use crate::guest::Guest;
use dejavm_linux::{Kernel, Task};
use serde::Serialize;

/// A process or a thread of the kernel, as `ps` would show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// R, S, D, T, t, X, Z, P or I, as in `/proc/PID/stat`.
    pub state: char,
    /// Its threads, itself counted.
    pub threads: usize,
    /// The processor that runs one of its threads.
    pub vcpu: Option<usize>,
    /// The processor that its first thread is on, or was last.
    pub cpu: Option<u32>,
    /// A thread of the kernel: it has no memory of its own.
    pub is_kernel: bool,
    /// Address of its `task_struct`. In hexadecimal for programs: not every reader of JSON has 64 bits for a number.
    #[serde(serialize_with = "hexadecimal")]
    pub task: u64,
    /// Physical address of its page tables.
    #[serde(serialize_with = "hexadecimal_if_any")]
    pub page_tables: Option<u64>,
}

fn hexadecimal<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:#x}"))
}

fn hexadecimal_if_any<S: serde::Serializer>(
    value: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => hexadecimal(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// All processes, by the kernel's own list.
pub fn processes(guest: &Guest, options: &LinuxOptions) -> Result<Vec<Process>, Error> {
    let kernel = kernel(guest, options)?;
    let mut found: Vec<Process> = Vec::new();
    for task in tasks(guest, &kernel)? {
        match found.iter_mut().rfind(|process| process.pid == task.tgid && task.pid != task.tgid) {
            Some(process) => {
                process.threads += 1;
                process.vcpu = process.vcpu.or(task.running);
            }
            None => found.push(Process {
                pid: task.pid,
                comm: task.comm,
                state: task.state,
                threads: 1,
                vcpu: task.running,
                cpu: task.cpu,
                is_kernel: task.kernel_thread,
                task: task.address.0,
                page_tables: task.pgd.map(|pgd| pgd.0),
            }),
        }
    }
    Ok(found)
}

/// Every thread of every process.
pub(super) fn tasks(guest: &Guest, kernel: &Kernel) -> Result<Vec<Task>, Error> {
    let wrong = |reason| Error::NoKernel { path: guest.path.clone(), reason };
    kernel.tasks(guest).map_err(wrong)
}
