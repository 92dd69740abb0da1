//! A task's registers: the vCPU's while it runs, what its kernel stack holds while it does not.
//!
//! ```text
//!   stack + THREAD_SIZE ┌──────────────────────┐
//!                       │ padding (32 bits)    │
//!                       │ struct pt_regs       │  user registers, as the entry from user mode saved them
//!                       ├──────────────────────┤
//!                       │ frames of the kernel │
//!                       │ inactive_task_frame  │  callee-saved registers and where __switch_to_asm returns to
//!          thread.sp →  └──────────────────────┘
//! ```
//!
//! Of a process that does not run there are two sets, and which one is wanted depends on who asks: with the program's
//! symbols it is the user registers (as ptrace would give), with the kernel's symbols the kernel frame. The default is the
//! user registers for a process, the kernel frame for a thread of the kernel, and for a task that runs the vCPU's own.

use crate::kernel::Kernel;
use crate::reader::Reader;
use crate::tasks::Task;
use crate::view::GuestView;
use dejavm_cpu::{CpuState, Rights, SegReg, Segment, gpr, rflags};
use dejavm_units::Gva;

/// Page reads for one task's registers.
const PAGES_MAX: u64 = 4096;
/// `TOP_OF_KERNEL_STACK_PADDING` of 32-bit kernels: with and without `CONFIG_VM86`, and before it existed.
const STACK_PADDINGS: [u64; 3] = [16, 8, 0];
/// First TLS entry of the GDT of a 32-bit kernel (`GDT_ENTRY_TLS_MIN`), and how many there are.
const TLS_ENTRY_MIN: u64 = 6;
const TLS_ENTRIES: u64 = 3;

/// Which of a task's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The task runs: those of this vCPU.
    Running(usize),
    /// Those it had in user mode.
    User,
    /// Those it has in the kernel, where it was switched out: only what the switch saves is known.
    Kernel,
}

/// The registers of a task that does not run. `None`: not saved anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// General registers in the processor's order: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gpr: [Option<u64>; 16],
    /// Where it goes on.
    pub rip: u64,
    /// The flags.
    pub rflags: Option<u64>,
    /// Selectors of ES, CS, SS, DS, FS, GS.
    pub selectors: [Option<u16>; 6],
    /// Base of FS.
    pub fs_base: Option<u64>,
    /// Base of GS.
    pub gs_base: Option<u64>,
}

/// What is known of a task's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskRegisters {
    /// The vCPU that runs it: its registers are the task's.
    pub running: Option<usize>,
    /// User registers. Of a running task those of its last entry into the kernel, so of interest only while it is there.
    pub user: Option<Registers>,
    /// Kernel registers of a task that does not run.
    pub kernel: Option<Registers>,
    /// A thread of the kernel: it has no user registers.
    pub kernel_thread: bool,
}

impl TaskRegisters {
    /// Which set a debugger shows unless told otherwise; see the module's documentation. `None`: there is none.
    pub fn default_source(&self) -> Option<Source> {
        if let Some(vcpu) = self.running {
            Some(Source::Running(vcpu))
        } else if self.user.is_some() {
            Some(Source::User)
        } else {
            self.kernel.as_ref().map(|_| Source::Kernel)
        }
    }
}

impl Kernel {
    /// The registers of a task.
    pub fn task_registers(&self, view: &dyn GuestView, task: &Task) -> TaskRegisters {
        let running = task.running.filter(|&vcpu| vcpu < view.vcpus());
        let mut found =
            TaskRegisters { running, user: None, kernel: None, kernel_thread: task.kernel_thread };
        let Some(reader) = self.reader(view, PAGES_MAX) else { return found };
        if !task.kernel_thread {
            found.user = self.user_registers(&reader, task);
        }
        if running.is_none() {
            found.kernel = self.switch_frame(&reader, task);
        }
        found
    }

    /// A whole vCPU's state as if the task ran there: for code that only knows vCPUs. What is not known of the task is 0;
    /// what belongs to the machine (control registers, tables) is vCPU 0's, with CR3 naming the task's page tables.
    /// `None`: the task has no registers of this source.
    pub fn task_state(
        &self,
        view: &dyn GuestView,
        task: &Task,
        source: Source,
    ) -> Option<CpuState> {
        let registers = self.task_registers(view, task);
        let mut state = view.cpu_state(0);
        let (from, user) = match source {
            Source::Running(vcpu) => {
                return (registers.running == Some(vcpu)).then(|| view.cpu_state(vcpu));
            }
            Source::User => (registers.user?, true),
            Source::Kernel => (registers.kernel?, false),
        };
        let root = if user { task.user_pgd } else { task.pgd };
        let root = root.or_else(|| self.kernel_space(view).map(|space| space.root));
        state.cr3 = root.map_or(state.cr3, |root| root.0);
        state.cpl = if user { 3 } else { 0 };
        state.halted = false;
        state.gpr = from.gpr.map(|value| value.unwrap_or(0));
        state.rip = from.rip;
        state.rflags = from.rflags.unwrap_or(rflags::ONE);
        // Not known: rather nothing than another task's.
        let sse = if user { self.sse_registers(view, task) } else { None };
        (state.mxcsr, state.xmm) = sse.unwrap_or((0x1f80, [0; 16]));
        state.fpu = CpuState::reset().fpu;
        let long = self.pointer_bytes() == 8;
        for (register, selector) in from.selectors.iter().enumerate() {
            let selector = selector.unwrap_or(0);
            state.seg[register] = flat(register, selector, user, long);
        }
        state.seg[SegReg::Fs as usize].base = from.fs_base.unwrap_or(0);
        state.seg[SegReg::Gs as usize].base = from.gs_base.unwrap_or(0);
        Some(state)
    }

    /// MXCSR and the SSE registers of a task that does not run.
    fn sse_registers(&self, view: &dyn GuestView, task: &Task) -> Option<(u32, [u128; 16])> {
        let area = self.fxsave_area(view, task)?;
        let mxcsr = u32::from_le_bytes(area[24..28].try_into().expect("four bytes"));
        let mut xmm = [0; 16];
        for (register, bytes) in xmm.iter_mut().zip(area[160..].chunks_exact(16)) {
            *register = u128::from_le_bytes(bytes.try_into().expect("sixteen bytes"));
        }
        Some((mxcsr, xmm))
    }

    /// What FXSAVE or XSAVE stored of a task that does not run (SDM vol. 1, 10.5.1).
    pub fn fxsave_area(&self, view: &dyn GuestView, task: &Task) -> Option<[u8; 512]> {
        let reader = self.reader(view, PAGES_MAX)?;
        let thread = reader.offset(task.address, self.layout.thread?);
        let at = match (self.layout.thread_fpstate, self.layout.thread_fpu_state) {
            (Some(pointer), _) => {
                reader.offset(reader.pointer_at(thread, pointer)?, self.layout.fpstate_regs?)
            }
            (None, state) => reader.offset(thread, state?),
        };
        let mut area = [0; 512];
        reader.read(at, &mut area)?;
        Some(area)
    }

    /// What execve told a task's program (`AT_PHDR`, `AT_BASE`, ...): what a debugger finds its libraries by.
    pub fn auxiliary_vector(&self, view: &dyn GuestView, task: &Task) -> Option<Vec<u8>> {
        /// `AT_VECTOR_SIZE` has always been smaller.
        const BYTES_MAX: u64 = 1024;
        let reader = self.reader(view, PAGES_MAX)?;
        let at = reader.offset(task.mm?, self.layout.saved_auxv?);
        let mut vector = vec![0; self.layout.saved_auxv_bytes?.min(BYTES_MAX) as usize];
        reader.read(at, &mut vector)?;
        let pair = 2 * self.pointer_bytes() as usize;
        let null = vector.chunks_exact(pair).position(|pair| pair.iter().all(|&byte| byte == 0));
        vector.truncate((null? + 1) * pair);
        Some(vector)
    }

    fn stack_top(&self, task: &Task) -> Option<u64> {
        task.stack?.0.checked_add(self.thread_size())
    }

    /// `pt_regs` at the top of the kernel stack, if it is what user mode left.
    fn user_registers(&self, reader: &Reader<'_>, task: &Task) -> Option<Registers> {
        // `sp0` is where the processor begins to push.
        let sp0 = self.thread_word(reader, task, self.layout.thread_sp0).filter(|&sp0| sp0 != 0);
        let tops: Vec<u64> = match (sp0, self.stack_top(task)) {
            (Some(sp0), _) => vec![sp0],
            (None, Some(top)) if reader.word_bytes() == 8 => vec![top],
            (None, Some(top)) => {
                STACK_PADDINGS.iter().filter_map(|padding| top.checked_sub(*padding)).collect()
            }
            (None, None) => Vec::new(),
        };
        tops.into_iter().find_map(|top| {
            if reader.word_bytes() == 8 {
                self.user_registers_64(reader, task, top)
            } else {
                self.user_registers_32(reader, task, top)
            }
        })
    }

    fn user_registers_64(&self, reader: &Reader<'_>, task: &Task, top: u64) -> Option<Registers> {
        // r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss
        const WORDS: usize = 21;
        let saved: [u64; WORDS] = words(reader, Gva(top.checked_sub(8 * WORDS as u64)?))?;
        let [
            r15,
            r14,
            r13,
            r12,
            bp,
            bx,
            r11,
            r10,
            r9,
            r8,
            ax,
            cx,
            dx,
            si,
            di,
            _,
            ip,
            cs,
            flags,
            sp,
            ss,
        ] = saved;
        let user = cs & 3 == 3 && ss & 3 == 3 && cs <= 0xffff && ss <= 0xffff && ip < 1 << 56;
        if !user || flags & rflags::ONE == 0 {
            return None;
        }
        let gpr = [ax, cx, dx, bx, sp, bp, si, di, r8, r9, r10, r11, r12, r13, r14, r15].map(Some);
        let (live_fs, live_gs) = match task.running {
            // The kernel itself uses GS: the program's base waits.
            Some(vcpu) if vcpu < reader.view.vcpus() => {
                let cpu = reader.view.cpu_state(vcpu);
                let gs = if cpu.cpl == 0 {
                    cpu.msr.kernel_gs_base
                } else {
                    cpu.seg[SegReg::Gs as usize].base
                };
                (Some(cpu.seg[SegReg::Fs as usize].base), Some(gs))
            }
            _ => (None, None),
        };
        let index = |offset| Some(self.thread_word(reader, task, offset)? as u16);
        Some(Registers {
            gpr,
            rip: ip,
            rflags: Some(flags),
            selectors: [
                index(self.layout.thread_es),
                Some(cs as u16),
                Some(ss as u16),
                index(self.layout.thread_ds),
                index(self.layout.thread_fsindex),
                index(self.layout.thread_gsindex),
            ],
            fs_base: live_fs.or_else(|| self.thread_word(reader, task, self.layout.thread_fs)),
            gs_base: live_gs.or_else(|| self.thread_word(reader, task, self.layout.thread_gsbase)),
        })
    }

    fn user_registers_32(&self, reader: &Reader<'_>, task: &Task, top: u64) -> Option<Registers> {
        // bx cx dx si di bp ax ds es fs gs orig_ax ip cs flags sp ss
        const WORDS: usize = 17;
        let saved: [u64; WORDS] = words(reader, Gva(top.checked_sub(4 * WORDS as u64)?))?;
        let [bx, cx, dx, si, di, bp, ax, ds, es, fs, gs, _, ip, cs, flags, sp, ss] = saved;
        if cs & 3 != 3 || ss & 3 != 3 || flags & rflags::ONE == 0 {
            return None;
        }
        let mut gpr = [None; 16];
        gpr[..8].copy_from_slice(&[ax, cx, dx, bx, sp, bp, si, di].map(Some));
        // A word holds the selector in its lower half; the upper one may be anything.
        let selector = |word: u64| Some(word as u16);
        Some(Registers {
            gpr,
            rip: ip,
            rflags: Some(flags),
            selectors: [es, cs, ss, ds, fs, gs].map(selector),
            fs_base: self.tls_base(reader, task, fs),
            gs_base: self.tls_base(reader, task, gs),
        })
    }

    /// The base of a thread-local segment, from the descriptors at the start of `thread_struct`.
    fn tls_base(&self, reader: &Reader<'_>, task: &Task, selector: u64) -> Option<u64> {
        let entry = (selector & 0xffff) >> 3;
        if entry == 0 {
            return Some(0);
        }
        let number = entry.checked_sub(TLS_ENTRY_MIN).filter(|&number| number < TLS_ENTRIES);
        let Some(number) = number else { return Some(0) };
        let mut descriptor = [0; 8];
        let thread = reader.offset(task.address, self.layout.thread?);
        reader.read(reader.offset(thread, 8 * number), &mut descriptor)?;
        let [_, _, low, middle, high, _, _, top] = descriptor;
        Some(u64::from(u32::from_le_bytes([low, middle, high, top])))
    }

    /// A word of the task's `thread_struct`.
    fn thread_word(&self, reader: &Reader<'_>, task: &Task, offset: Option<u64>) -> Option<u64> {
        reader.word_at(reader.offset(task.address, self.layout.thread?), offset?)
    }

    /// What `__switch_to_asm` pushed (`struct inactive_task_frame`).
    fn switch_frame(&self, reader: &Reader<'_>, task: &Task) -> Option<Registers> {
        let sp = self.thread_word(reader, task, self.layout.thread_sp)?;
        let (stack, top) = (task.stack?.0, self.stack_top(task)?);
        if !(stack..top).contains(&sp) {
            return None;
        }
        let mut registers = Registers::default();
        let frame_bytes = if reader.word_bytes() == 8 {
            // r15 r14 r13 r12 bx bp ret; kernels 4.18 to 5.7 push the flags before.
            let bytes = self.layout.inactive_frame_bytes.unwrap_or(56).clamp(56, 64);
            let [r15, r14, r13, r12, bx, bp, ret] = words(reader, Gva(sp + bytes - 56))?;
            registers.gpr[12..16].copy_from_slice(&[r12, r13, r14, r15].map(Some));
            registers.gpr[gpr::RBX] = Some(bx);
            registers.gpr[gpr::RBP] = Some(bp);
            registers.rip = ret;
            bytes
        } else {
            // (flags) si di bx bp ret
            let saved: [u64; 6] = words(reader, Gva(sp))?;
            let with_flags = self.is_text(saved[5]);
            let [si, di, bx, bp, ret] =
                std::array::from_fn(|word| saved[word + usize::from(with_flags)]);
            for (register, value) in
                [(gpr::RSI, si), (gpr::RDI, di), (gpr::RBX, bx), (gpr::RBP, bp)]
            {
                registers.gpr[register] = Some(value);
            }
            registers.rip = ret;
            if with_flags { 24 } else { 20 }
        };
        registers.gpr[gpr::RSP] = Some(sp + frame_bytes);
        registers.selectors = if reader.word_bytes() == 8 {
            [Some(0), Some(0x10), Some(0x18), Some(0), None, None]
        } else {
            [Some(0x7b), Some(0x60), Some(0x68), Some(0x7b), Some(0xd8), None]
        };
        self.is_text(registers.rip).then_some(registers)
    }

    /// Could be an address of the kernel's code.
    pub(crate) fn is_text(&self, at: u64) -> bool {
        let start = self.facts.text.unwrap_or(self.image.start).0;
        let end = self
            .facts
            .etext
            .map_or(self.image.start.0.saturating_add(self.image.bytes), |end| end.0);
        (start..end).contains(&at)
    }
}

/// Consecutive words.
fn words<const N: usize>(reader: &Reader<'_>, at: Gva) -> Option<[u64; N]> {
    let mut found = [0; N];
    for (number, word) in found.iter_mut().enumerate() {
        *word = reader.word_at(at, number as u64 * reader.word_bytes())?;
    }
    Some(found)
}

/// A flat segment as Linux's descriptors make them (SDM vol. 3A, 3.4.5).
fn flat(register: usize, selector: u16, user: bool, long: bool) -> Segment {
    const CODE: u16 = 0x9b;
    const DATA: u16 = 0x93;
    const BIG: u16 = 1 << 10;
    const PAGES: u16 = 1 << 11;
    const LONG: u16 = 1 << 9;
    let code = register == SegReg::Cs as usize;
    let dpl = if user { 3 << 5 } else { 0 };
    // __USER32_CS is a program of 32 bits on a kernel of 64.
    let long_code = long && selector != 0x23;
    let rights = match (code, selector) {
        (true, _) => CODE | dpl | PAGES | if long_code { LONG } else { BIG },
        (false, 0) => Rights::NULL.0,
        (false, _) => DATA | dpl | PAGES | BIG,
    };
    Segment { selector, base: 0, limit: u32::MAX, rights: Rights(rights) }
}
