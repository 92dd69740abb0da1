//! Commands about the guest's Linux: its tasks as threads, its symbols.

use super::{Answer, address};
use crate::bridge::Bridge;
use crate::lasting::Processes;
use crate::linux::Looking;
use crate::target::Refusal;
use dejavm_linux::{Confidence, FIELDS, Kernel, LinuxOffsets, Reason};
use dejavm_units::Gva;
use std::fmt::Write;

fn refused(reason: Reason) -> Refusal {
    Refusal::Failed(reason.to_string())
}

/// The guest's kernel.
fn find(bridge: &Bridge<'_>) -> Result<Kernel, Refusal> {
    bridge.lasting.kernels().find(&Looking(bridge.target.inspect())).map_err(refused)
}

/// What `monitor help linuxoffsets` says.
pub(super) fn fields() -> String {
    let mut text = String::from(
        "Hexadecimal numbers separated by commas, 0 for what the kernel does not have; -l: a kernel of 64 bits.\n\
         `getlinuxoffsets` prints the line for any kernel.\n",
    );
    for (name, meaning) in FIELDS {
        let _ = writeln!(text, "  {name:<14} {meaning}");
    }
    text
}

/// Switches to threads that are tasks, or back.
pub(super) fn linux(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let inside_kernel = match arguments.first().copied() {
        Some("off") => {
            bridge.lasting.set_processes(None);
            bridge.threads = bridge.lasting.threads();
            select_what_gdb_has(bridge);
            return Ok("threads are CPUs".to_owned());
        }
        Some("tasks") => return tasks(bridge),
        Some("kernel") => true,
        None | Some("user") => false,
        Some(_) => {
            return Refusal::unsupported("say `user`, `kernel`, `tasks` or `off`, or nothing");
        }
    };
    let kernel = find(bridge)?;
    switch(bridge, kernel, inside_kernel)
}

/// The same by the product's line.
pub(super) fn linuxoffsets(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    if arguments.is_empty() {
        let kernel = find(bridge)?;
        let release = kernel.facts().release.as_deref().unwrap_or_default();
        return Ok(format!("{}", LinuxOffsets::of(kernel.layout(), release)));
    }
    let offsets: LinuxOffsets = arguments
        .join(" ")
        .parse()
        .map_err(|error: dejavm_linux::OffsetsError| Refusal::Unsupported(error.to_string()))?;
    let kernel =
        Kernel::with_offsets(&Looking(bridge.target.inspect()), &offsets).map_err(refused)?;
    switch(bridge, kernel, false)
}

/// gdb takes the thread that it has selected for selected still, and does not select it again: Thread 1, a CPU before,
/// is the task of that number then.
fn select_what_gdb_has(bridge: &mut Bridge<'_>) {
    let machine = bridge.target.inspect();
    if bridge.threads.view(machine, bridge.selected).is_none() {
        bridge.selected = bridge.threads.current(machine);
    }
}

fn switch(bridge: &mut Bridge<'_>, kernel: Kernel, inside_kernel: bool) -> Answer {
    let looking = Looking(bridge.target.inspect());
    let found = kernel.tasks(&looking).map_err(refused)?;
    let mut text = String::new();
    let facts = kernel.facts();
    let _ = writeln!(text, "Linux {}", facts.release.as_deref().unwrap_or("of an unknown release"));
    if let Some(build_id) = &facts.build_id {
        let digits: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "build id {digits}");
    }
    if let (Some(at), Some(slide)) = (facts.text, kernel.slide()) {
        let _ = writeln!(
            text,
            "its code begins at {at}; symbols of a vmlinux, if gdb has none yet: add-symbol-file vmlinux -o {slide:#x}"
        );
    }
    match kernel.confidence() {
        Confidence::Verified => {}
        Confidence::Partial(why) => {
            let _ = writeln!(text, "not all could be verified: {why}");
        }
    }
    let _ = write!(text, "threads are its {} tasks", found.len());
    bridge.lasting.set_processes(Some(Processes { kernel, inside_kernel }));
    bridge.threads = bridge.lasting.threads();
    select_what_gdb_has(bridge);
    let machine = bridge.target.inspect();
    let current = bridge.threads.current(machine);
    let running = bridge.threads.list(machine).into_iter().find(|thread| thread.id == current);
    if let Some(running) = running {
        let _ = write!(text, "; the CPU runs {} (Thread {})", running.name, running.id.0);
    }
    text += "\nwithout the script of `dejavm gdbinit`, type `maintenance flush register-cache` now: gdb remembers\n\
             registers of the CPU for Thread 1, which is a task now";
    Ok(text)
}

fn tasks(bridge: &mut Bridge<'_>) -> Answer {
    let kernel = find(bridge)?;
    let looking = Looking(bridge.target.inspect());
    let mut text = format!("{:>8} {:>8} {:<16} S CPU page tables\n", "pid", "process", "name");
    for task in kernel.tasks(&looking).map_err(refused)? {
        let cpu = task.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string());
        let tables = task.pgd.map_or_else(|| "-".to_owned(), |pgd| format!("{:#x}", pgd.0));
        let running = if task.running.is_some() { " runs" } else { "" };
        let (pid, tgid, comm, state) = (task.pid, task.tgid, &task.comm, task.state);
        let _ = writeln!(text, "{pid:>8} {tgid:>8} {comm:<16} {state} {cpu:>3} {tables}{running}");
    }
    Ok(text)
}

/// The kernel's own symbol table: no vmlinux needed.
pub(super) fn symbol(bridge: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let text = arguments.first().copied().unwrap_or_default();
    let kernel = find(bridge)?;
    let Some(symbols) = kernel.symbols() else {
        return Refusal::unsupported("this kernel's symbol table was not found");
    };
    if let Some(at) = symbols.address_of(text) {
        return Ok(format!("{text} is at {at}"));
    }
    let at = Gva(address(text)?);
    match symbols.symbol_at(at) {
        Some(symbol) => Ok(format!("{at} is {}+{:#x}", symbol.name, at.0 - symbol.address.0)),
        None => Ok(format!("{at} is in no function of the kernel")),
    }
}
