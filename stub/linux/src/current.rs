//! Which task a vCPU runs.
//!
//! Where the per-CPU variable is known, that is two loads. Otherwise the vCPU's registers tell: a kernel stack belongs to one
//! task, and so, mostly, do page tables.

use crate::kernel::Kernel;
use crate::reader::Reader;
use crate::view::GuestView;
use dejavm_cpu::{CpuState, gpr};
use dejavm_units::Gva;

/// Selector 0xd8: `__KERNEL_PERCPU` of 32-bit kernels, GDT entry 27.
const PER_CPU_GDT_ENTRY: u64 = 27;
/// Kernel stacks without a size known: what all kernels of that width had.
const THREAD_SIZE_32: u64 = 0x2000;
const THREAD_SIZE_64: u64 = 0x4000;

impl Kernel {
    /// The task that each vCPU runs; `None` where that cannot be told. A few reads where the kernel's types are known.
    pub fn current(&self, view: &dyn GuestView) -> Vec<Option<Gva>> {
        match self.task_reader(view) {
            Ok(reader) => self.currents_with(view, &reader),
            Err(_) => vec![None; view.vcpus()],
        }
    }

    pub(crate) fn currents_with(
        &self,
        view: &dyn GuestView,
        reader: &Reader<'_>,
    ) -> Vec<Option<Gva>> {
        (0..view.vcpus()).map(|vcpu| self.current_of(reader, &view.cpu_state(vcpu))).collect()
    }

    fn current_of(&self, reader: &Reader<'_>, cpu: &CpuState) -> Option<Gva> {
        if let Some(offset) = self.layout.per_cpu_current {
            let said = per_cpu_bases(cpu, reader)
                .into_iter()
                .filter_map(|base| reader.pointer_at(reader.offset(base, offset), 0))
                .find(|&task| self.looks_like_task(reader, task));
            if said.is_some() {
                return said;
            }
        }
        self.current_by_registers(reader, cpu)
    }

    /// The task whose kernel stack or whose page tables the vCPU uses.
    fn current_by_registers(&self, reader: &Reader<'_>, cpu: &CpuState) -> Option<Gva> {
        let leaders = self.leaders(reader, &[]).ok()?;
        let tasks: Vec<Gva> =
            leaders.into_iter().flat_map(|leader| self.threads(reader, leader)).collect();
        let bytes = self.thread_size();
        // On the stack in use, or just below its top: then the top itself is not within.
        let stacks: Vec<u64> = stack_pointers(cpu, reader)
            .into_iter()
            .map(|pointer| pointer.wrapping_sub(1) & !(bytes - 1))
            .filter(|&stack| reader.is_kernel_pointer(Gva(stack)))
            .collect();
        let by_stack = stacks.iter().find_map(|&stack| {
            // Until 4.9 (32 bits: 4.20) `thread_info` lies at the stack's bottom and begins with the task.
            let named = reader.pointer_at(Gva(stack), 0).filter(|task| tasks.contains(task));
            named.or_else(|| {
                let offset = self.layout.stack?;
                tasks.iter().copied().find(|&task| reader.word_at(task, offset) == Some(stack))
            })
        });
        if by_stack.is_some() {
            return by_stack;
        }
        let root = self.paging.root(cpu.cr3).0;
        let mut on_these_tables = tasks.iter().copied().filter(|&task| {
            let mm = self.layout.mm.and_then(|mm| reader.pointer_at(task, mm));
            mm.and_then(|mm| self.pgd(reader, mm))
                .is_some_and(|pgd| pgd.0 == root || pgd.0 | 0x1000 == root)
        });
        let only = on_these_tables.next()?;
        // Threads share their tables; and in the kernel, a thread of its own may run on borrowed ones.
        (cpu.cpl == 3 && on_these_tables.next().is_none()).then_some(only)
    }

    /// `THREAD_SIZE`, known or usual.
    pub(crate) fn thread_size(&self) -> u64 {
        let usual = if self.pointer_bytes() == 8 { THREAD_SIZE_64 } else { THREAD_SIZE_32 };
        self.layout.thread_size.filter(|bytes| bytes.is_power_of_two()).unwrap_or(usual)
    }
}

/// Addresses on, or right above, the kernel stack of the task that a vCPU runs: the stack pointer in kernel mode, and what the
/// task-state segment holds for the next entry (SDM vol. 3A, 8.2.1 and 8.7). Linux on 32 bits keeps the task's own in SP1
/// since SP0 leads to the entry stack (4.15).
fn stack_pointers(cpu: &CpuState, reader: &Reader<'_>) -> Vec<u64> {
    let mut found = Vec::new();
    if cpu.cpl == 0 {
        found.push(cpu.gpr[gpr::RSP]);
    }
    let word = |offset| reader.word_at(Gva(cpu.tr.base), offset);
    if reader.word_bytes() == 4 {
        found.extend([word(12), word(4)].into_iter().flatten());
    } else {
        found.extend(word(4));
    }
    found
}

/// Where the per-CPU area of this vCPU may begin, the likeliest first.
pub(crate) fn per_cpu_bases(cpu: &CpuState, reader: &Reader<'_>) -> Vec<Gva> {
    if reader.word_bytes() == 8 {
        let (inner, outer) = (cpu.seg[5].base, cpu.msr.kernel_gs_base);
        // In user mode the kernel's base waits in KERNEL_GS_BASE; right after an entry too.
        let kernel_first = cpu.cpl == 0;
        return if kernel_first {
            vec![Gva(inner), Gva(outer)]
        } else {
            vec![Gva(outer), Gva(inner)]
        };
    }
    // The descriptor is valid in user mode too (SDM vol. 3A, 3.4.5).
    let mut descriptor = [0; 8];
    let at = reader.offset(Gva(cpu.gdtr.base), PER_CPU_GDT_ENTRY * 8);
    if u64::from(cpu.gdtr.limit) < PER_CPU_GDT_ENTRY * 8 + 7
        || reader.read(at, &mut descriptor).is_none()
    {
        return Vec::new();
    }
    let [_, _, low, middle, high, _, _, top] = descriptor;
    vec![Gva(u64::from(u32::from_le_bytes([low, middle, high, top])))]
}
