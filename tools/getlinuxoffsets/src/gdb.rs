//! From a kernel with debugging symbols, through gdb: any kernel that gdb can read, of any age.

use crate::fields::layout;
use dejavm_linux::LinuxOffsets;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What is asked: a name, and expressions of which the first that gdb understands counts.
const QUESTIONS: &[(&str, &[&str])] = &[
    ("pointer", &["sizeof(void *)"]),
    ("mm", &["(unsigned long)&((struct task_struct *)0)->mm"]),
    ("next_task", &["(unsigned long)&((struct task_struct *)0)->next_task"]),
    ("tasks", &["(unsigned long)&((struct task_struct *)0)->tasks"]),
    ("comm", &["(unsigned long)&((struct task_struct *)0)->comm"]),
    ("pid", &["(unsigned long)&((struct task_struct *)0)->pid"]),
    ("thread", &["(unsigned long)&((struct task_struct *)0)->thread"]),
    ("pgd", &["(unsigned long)&((struct mm_struct *)0)->pgd"]),
    (
        "sp0",
        &[
            "(unsigned long)&((struct thread_struct *)0)->sp0",
            "(unsigned long)&((struct thread_struct *)0)->esp0",
            "(unsigned long)&((struct thread_struct *)0)->rsp0",
        ],
    ),
    (
        "fs",
        &[
            "(unsigned long)&((struct thread_struct *)0)->fsbase",
            "(unsigned long)&((struct thread_struct *)0)->fs",
        ],
    ),
    (
        "threadsize",
        &[
            "sizeof(union thread_union)",
            "(unsigned long)&__end_init_task - (unsigned long)&__start_init_task",
        ],
    ),
    ("group_leader", &["(unsigned long)&((struct task_struct *)0)->group_leader"]),
    ("thread_group", &["(unsigned long)&((struct task_struct *)0)->thread_group"]),
    ("commsize", &["sizeof(((struct task_struct *)0)->comm)"]),
];

/// Asks gdb.
pub fn offsets(file: &Path, gdb: &Path) -> Result<LinuxOffsets, String> {
    let mut command = Command::new(gdb);
    command.args(["-nx", "-nh", "-batch"]);
    for (name, expressions) in QUESTIONS {
        for expression in *expressions {
            // One that fails prints nothing here, and gdb goes on.
            command.args([
                "-ex",
                &format!("printf \"dejavm {name} %lu\\n\", (unsigned long)({expression})"),
            ]);
        }
    }
    command.args(["-ex", "printf \"dejavm-banner %s\\n\", (char *)linux_banner"]);
    command.arg(file);
    let ran =
        command.output().map_err(|error| format!("{} cannot be run: {error}", gdb.display()))?;
    let text = String::from_utf8_lossy(&ran.stdout);
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, value)) =
            line.strip_prefix("dejavm ").and_then(|rest| rest.split_once(' '))
            && let Ok(value) = value.trim().parse()
        {
            found.entry(name).or_insert(value);
        }
    }
    let name = file.display();
    if !found.contains_key("tasks") && !found.contains_key("next_task") {
        let said = String::from_utf8_lossy(&ran.stderr);
        let first = said.lines().next().unwrap_or("nothing");
        return Err(format!("{name} has no types of a kernel for gdb, which said: {first}"));
    }
    let field = |name: &str| found.get(name).copied();
    let layout = layout(field("pointer").unwrap_or(8), field);
    let banner = text.lines().find_map(|line| line.strip_prefix("dejavm-banner Linux version "));
    Ok(LinuxOffsets::of(&layout, banner.unwrap_or_default()))
}
