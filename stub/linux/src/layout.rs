//! Where in the kernel's structures the things are that introspection reads.

use crate::btf::{Btf, TypeId};

/// Offsets in bytes, within the structure named. What a kernel does not have, or nobody knows, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Layout {
    /// Bytes of a pointer: 4 or 8.
    pub pointer_bytes: u64,
    /// `THREAD_SIZE`: bytes of a kernel stack.
    pub thread_size: Option<u64>,
    // struct task_struct
    pub tasks: Option<u64>,
    /// The 2.4 kernel's list.
    pub next_task: Option<u64>,
    pub pid: Option<u64>,
    pub tgid: Option<u64>,
    pub comm: Option<u64>,
    /// `TASK_COMM_LEN`.
    pub comm_bytes: Option<u64>,
    pub mm: Option<u64>,
    pub active_mm: Option<u64>,
    /// `__state` (4 bytes, since 5.14) or `state`.
    pub state: Option<u64>,
    pub exit_state: Option<u64>,
    /// `flags`: `PF_KTHREAD` and the like.
    pub flags: Option<u64>,
    pub stack: Option<u64>,
    pub group_leader: Option<u64>,
    pub thread_group: Option<u64>,
    pub thread_node: Option<u64>,
    pub signal: Option<u64>,
    /// The CPU's number, in `task_struct` or in the `thread_info` at its start.
    pub cpu: Option<u64>,
    /// `struct thread_struct`, at its end.
    pub thread: Option<u64>,
    // struct thread_struct
    pub thread_sp: Option<u64>,
    /// `sp0`: 32 bits; 64 bits until 4.20.
    pub thread_sp0: Option<u64>,
    /// `fs` (a base until 4.5 on 64 bits, a selector on 32), `fsbase` since.
    pub thread_fs: Option<u64>,
    pub thread_gsbase: Option<u64>,
    pub thread_fsindex: Option<u64>,
    pub thread_gsindex: Option<u64>,
    pub thread_ds: Option<u64>,
    pub thread_es: Option<u64>,
    /// `fpu.fpstate`, which points to the state (since 5.16).
    pub thread_fpstate: Option<u64>,
    /// `fpu.state`, the state itself (4.2 to 5.15).
    pub thread_fpu_state: Option<u64>,
    // struct fpstate
    pub fpstate_regs: Option<u64>,
    // struct mm_struct
    pub pgd: Option<u64>,
    /// What execve told the program: pairs of words, ended by `AT_NULL`.
    pub saved_auxv: Option<u64>,
    /// Bytes of it.
    pub saved_auxv_bytes: Option<u64>,
    // struct signal_struct
    pub thread_head: Option<u64>,
    /// `current`: its place in the per-CPU area (or, since 6.15, its address minus the area's base).
    pub per_cpu_current: Option<u64>,
    /// Bytes of `struct inactive_task_frame`, if the kernel says.
    pub inactive_frame_bytes: Option<u64>,
}

impl Layout {
    /// The layout of the kernel that these types describe. `None`: they describe no Linux kernel.
    pub fn from_btf(btf: &Btf, pointer_bytes: u64) -> Option<Layout> {
        let task = btf.structure("task_struct")?;
        let thread = btf.structure("thread_struct");
        let of_task = |path: &str| btf.member(task, path).map(|member| member.offset);
        let of_thread = |path: &str| btf.member(thread?, path).map(|member| member.offset);
        let size_of = |structure: TypeId, path: &str| {
            btf.member(structure, path).and_then(|member| btf.size(member.ty, pointer_bytes))
        };
        let pcpu_hot = || {
            let hot = btf.per_cpu_variable("pcpu_hot")?;
            Some(hot + btf.offset("pcpu_hot", "current_task")?)
        };
        Some(Layout {
            pointer_bytes,
            thread_size: None,
            tasks: of_task("tasks"),
            next_task: of_task("next_task"),
            pid: of_task("pid"),
            tgid: of_task("tgid"),
            comm: of_task("comm"),
            comm_bytes: size_of(task, "comm"),
            mm: of_task("mm"),
            active_mm: of_task("active_mm"),
            state: of_task("__state").or_else(|| of_task("state")),
            exit_state: of_task("exit_state"),
            flags: of_task("flags"),
            stack: of_task("stack"),
            group_leader: of_task("group_leader"),
            thread_group: of_task("thread_group"),
            thread_node: of_task("thread_node"),
            signal: of_task("signal"),
            cpu: of_task("cpu").or_else(|| of_task("thread_info.cpu")),
            thread: of_task("thread"),
            thread_sp: of_thread("sp"),
            thread_sp0: of_thread("sp0"),
            thread_fs: of_thread("fsbase").or_else(|| of_thread("fs")),
            thread_gsbase: of_thread("gsbase"),
            thread_fsindex: of_thread("fsindex"),
            thread_gsindex: of_thread("gsindex"),
            thread_ds: of_thread("ds"),
            thread_es: of_thread("es"),
            thread_fpstate: of_thread("fpu.fpstate"),
            thread_fpu_state: of_thread("fpu.state"),
            fpstate_regs: btf.offset("fpstate", "regs"),
            pgd: btf.offset("mm_struct", "pgd"),
            saved_auxv: btf.offset("mm_struct", "saved_auxv"),
            saved_auxv_bytes: btf.structure("mm_struct").and_then(|mm| size_of(mm, "saved_auxv")),
            thread_head: btf.offset("signal_struct", "thread_head"),
            per_cpu_current: btf.per_cpu_variable("current_task").or_else(pcpu_hot),
            inactive_frame_bytes: btf
                .structure("inactive_task_frame")
                .and_then(|frame| btf.size(frame, pointer_bytes)),
        })
    }

    /// What cannot be done without, if it is missing.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        [
            (self.tasks.or(self.next_task), "tasks"),
            (self.pid, "pid"),
            (self.comm, "comm"),
            (self.mm, "mm"),
            (self.pgd, "pgd"),
        ]
        .into_iter()
        .find_map(|(offset, name)| offset.is_none().then_some(name))
    }
}
