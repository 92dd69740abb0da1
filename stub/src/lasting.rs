//! What outlives a session.

use crate::linux::Tasks;
use crate::threads::{Cpus, Threads};
use dejavm_linux::{Kernel, Kernels};
use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;

/// What outlives a session: another client of the same machine finds process mode as the last one left it, and what was
/// found out about its kernels. Clones are one; an empty one is a new machine's.
#[derive(Clone, Default)]
pub struct Lasting {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    kernels: RefCell<Kernels>,
    processes: RefCell<Option<Processes>>,
}

/// Process mode.
#[derive(Clone)]
pub(crate) struct Processes {
    pub(crate) kernel: Kernel,
    /// Of processes that do not run, show where they are in the kernel.
    pub(crate) inside_kernel: bool,
}

impl fmt::Debug for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = self.inner.processes.borrow().is_some();
        f.debug_struct("Lasting").field("processes", &processes).finish_non_exhaustive()
    }
}

impl Lasting {
    /// Kernels found so far.
    pub(crate) fn kernels(&self) -> RefMut<'_, Kernels> {
        self.inner.kernels.borrow_mut()
    }

    /// Threads are tasks from now on, or with `None` CPUs again.
    pub(crate) fn set_processes(&self, processes: Option<Processes>) {
        *self.inner.processes.borrow_mut() = processes;
    }

    /// The threads of a client that comes now. To which process a breakpoint belongs is the client's own affair.
    pub(crate) fn threads(&self) -> Box<dyn Threads> {
        match self.inner.processes.borrow().clone() {
            None => Box::new(Cpus),
            Some(Processes { kernel, inside_kernel }) => {
                Box::new(Tasks::new(kernel, inside_kernel))
            }
        }
    }
}
