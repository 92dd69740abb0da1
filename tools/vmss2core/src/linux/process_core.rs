//! A core of one process of a Linux guest, as if it had crashed there: for gdb, with the program's own file.

use super::{kernel, processes::tasks};
use crate::arguments::LinuxOptions;
use crate::conversion::Conversion;
use crate::elf::{Core, Segment, notes};
use crate::error::Error;
use crate::guest::Guest;
use crate::paging::{AddressSpace, Run};
use dejavm_linux::{Kernel, Registers, Space, Task};
use dejavm_units::Gva;
use std::path::PathBuf;
use vmss::{SegmentRegister, Vcpu, segment};

/// CS of 64-bit programs (`__USER_CS`); programs of 32 bits have another.
const USER_CS_64: u16 = 0x33;

/// A core of a process: `core.PID`.
pub fn process(
    conversion: &Conversion<'_>,
    id: u32,
    options: &LinuxOptions,
) -> Result<PathBuf, Error> {
    let guest = conversion.guest;
    let kernel = kernel(guest, options)?;
    let tasks = tasks(guest, &kernel)?;
    let wrong = |what: String| Error::Process { path: guest.path.clone(), id, what };
    let asked = tasks.iter().find(|task| task.pid == id);
    let asked = asked.ok_or_else(|| wrong("there is none of that number; -P lists all".into()))?;
    if asked.kernel_thread {
        let what = format!(
            "{} is a thread of the kernel and has no memory of its own; -N makes a core of the kernel",
            asked.comm
        );
        return Err(wrong(what));
    }
    let Some(space) = asked.pgd.and_then(|_| kernel.space_of(guest, asked)) else {
        return Err(wrong(format!("{} has ended, and given its memory back", asked.comm)));
    };
    let runs = user_memory(guest, &kernel, space)?;

    // gdb shows the first thread first: the one that was asked for.
    let mut threads: Vec<&Task> = tasks.iter().filter(|task| task.tgid == asked.tgid).collect();
    threads.sort_by_key(|task| task.pid != id);
    let registers: Vec<_> =
        threads.iter().map(|task| (*task, registers(guest, &kernel, task))).collect();
    let is_64 =
        kernel.pointer_bytes() == 8 && registers[0].1.segments[segment::CS].selector == USER_CS_64;
    let mut notes = Vec::new();
    for (n, (task, vcpu)) in registers.iter().enumerate() {
        notes.extend(notes::thread(vcpu, task.pid, 0, is_64));
        if n == 0 {
            notes.extend(notes::process_named(asked.tgid, asked.comm.as_bytes(), is_64));
            let vector = kernel.auxiliary_vector(guest, asked);
            // A program of 32 bits has another vector, on its stack.
            let fits = vector.filter(|_| is_64 || kernel.pointer_bytes() == 4);
            notes.extend(fits.iter().flat_map(|vector| notes::auxiliary_vector(vector)));
        }
        // What a processor still holds, no checkpoint tells.
        let area = kernel.fxsave_area(guest, task).filter(|_| is_64 && task.running.is_none());
        notes.extend(area.iter().flat_map(notes::floating_point));
    }
    let (mut segments, mut image, mut offset) = (Vec::new(), Vec::new(), 0);
    for run in runs {
        let Run { linear: virtual_address, physical: physical_address, bytes } = run;
        segments.push(Segment { offset, virtual_address, physical_address, bytes });
        image.push(physical_address..physical_address + bytes);
        offset += bytes;
    }
    let core = Core { is_64, notes: &notes, segments: &segments, alignment: 4096 };
    let name = conversion.output(&format!("core.{id}"));
    core.write_image(conversion, &name, &image)
}

/// What the process has in memory: not what is swapped out, nor what it has not touched of its files.
fn user_memory(guest: &Guest, kernel: &Kernel, space: Space) -> Result<Vec<Run>, Error> {
    let runs = AddressSpace::runs(Some(space), guest)?.into_iter();
    Ok(runs.filter(|run| !kernel.is_kernel_address(Gva(run.linear))).collect())
}

/// The registers that a thread has in user mode, in the shape of a processor's.
fn registers(guest: &Guest, kernel: &Kernel, task: &Task) -> Vcpu {
    let found = kernel.task_registers(guest, task);
    let running = found.running.map(|vcpu| &guest.vcpus[vcpu]);
    let in_user_mode = |vcpu: &&Vcpu| vcpu.segments[segment::CS].selector & 3 == 3;
    match (running.filter(in_user_mode), found.user) {
        (Some(vcpu), _) => vcpu.clone(),
        (None, Some(user)) => saved(&user),
        // Nothing is known: rather zeros than another thread's.
        (None, None) => Vcpu::default(),
    }
}

fn saved(registers: &Registers) -> Vcpu {
    let mut vcpu = Vcpu {
        gpr: registers.gpr.map(|value| value.unwrap_or(0)),
        rip: registers.rip,
        eflags: registers.rflags.unwrap_or(0) as u32,
        ..Vcpu::default()
    };
    for (register, selector) in vcpu.segments.iter_mut().zip(registers.selectors) {
        *register =
            SegmentRegister { selector: selector.unwrap_or(0), ..SegmentRegister::default() };
    }
    vcpu.segments[segment::FS].base = registers.fs_base.unwrap_or(0);
    vcpu.segments[segment::GS].base = registers.gs_base.unwrap_or(0);
    vcpu
}
