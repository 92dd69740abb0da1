//! What gdb and a compiler are asked alike: numbers by name.

use dejavm_linux::Layout;

/// The layout that numbers say, by the names under which both ask for them; `None` is what a kernel does not have.
pub fn layout(pointer_bytes: u64, field: impl Fn(&str) -> Option<u64>) -> Layout {
    Layout {
        pointer_bytes,
        thread_size: field("threadsize"),
        tasks: field("tasks"),
        next_task: field("next_task"),
        pid: field("pid"),
        comm: field("comm"),
        comm_bytes: field("commsize"),
        mm: field("mm"),
        group_leader: field("group_leader"),
        thread_group: field("thread_group"),
        thread: field("thread"),
        thread_sp0: field("sp0"),
        thread_fs: field("fs"),
        pgd: field("pgd"),
        ..Layout::default()
    }
}
