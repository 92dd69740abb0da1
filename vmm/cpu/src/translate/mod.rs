//! The translator: blocks that run often become host code.
//!
//! A translation is a way to execute a decoded block, no other kind of block: its header's handler enters
//! the host code, its instructions are charged as the interpreter charges them, and whenever an
//! instruction needs more than the common case (a TLB miss, a device, a fault), host code is left before
//! that instruction has changed anything and the interpreter goes on with the instruction's own operation.
//! So the interpreter's rules are the only ones, and no guest can tell which of the two executed.
//! Instructions without a translation are interpreted one at a time ([`interpret_one`]).
//!
//! What is where while host code runs: [`registers`]. How arithmetic flags travel: [`block`].

mod block;
mod branch;
#[cfg(test)]
mod callouts;
mod calls;
mod common;
mod copy;
#[cfg(test)]
mod crossing;
mod emit;
#[cfg(test)]
mod falling;
#[cfg(test)]
mod far_calls;
mod high_byte;
mod host;
mod lookup;
mod memory;
mod pages;
mod reach;
mod registers;
mod special;
#[cfg(test)]
mod straddling;
mod thunks;

use crate::code::{BlockKey, Flow, Op, OpRef, go, leave, run_chain};
use crate::cpu::Cpu;
use crate::flags::rflags;
use crate::interp::{self, Exit, Mode};
use crate::mmu::Tlb;
use calls::Calls;
use dejavm_units::Gpa;
use host::{CodeMemory, Left};
use pages::Pages;
use reach::Wide;
use thunks::Thunks;

/// Bytes of host code kept, at least and at most: the hot half and the cold half of each.
const CODE_BYTES_MIN: usize = 128 << 10;
const CODE_BYTES_MAX: usize = 1 << 30;
/// Room that a block's translation needs at most, in each half.
const BLOCK_BYTES_MAX: u32 = 32 << 10;

/// What host code reads and writes besides registers; part of [`Cpu`]. What is used most comes last, near them.
#[repr(C)]
pub(crate) struct Native {
    /// The arithmetic flags: bits 15:8 as LAHF leaves them in AH, bits 7:0 = OF.
    pub(crate) flags: u64,
    /// What [`Bus::tsc_ahead`](crate::Bus::tsc_ahead) says of this run, and whether it says anything.
    pub(crate) tsc_ahead: u64,
    pub(crate) tsc_counts_instructions: bool,
    /// MXCSR for Rust code: as the ABI wants it.
    pub(crate) host_mxcsr: u32,
    /// The stack pointer at which the trampoline's frame begins.
    pub(crate) host_stack: u64,
    /// Not zero while MXCSR is the guest's: then what `Cpu::mxcsr` says is out of date.
    pub(crate) mxcsr_loaded: u64,
    /// No return addresses are kept below this.
    pub(crate) stack_limit: u64,
    /// The linear address that a jump is about to go to.
    pub(crate) next: u64,
    /// Scratch within one instruction.
    pub(crate) temporary: u64,
}

impl Default for Native {
    fn default() -> Native {
        Native {
            flags: 0,
            tsc_ahead: 0,
            tsc_counts_instructions: false,
            host_mxcsr: 0x1f80,
            host_stack: 0,
            mxcsr_loaded: 0,
            stack_limit: 0,
            next: 0,
            temporary: 0,
        }
    }
}

impl Native {
    /// Takes in what the board says for a run: see [`Bus::tsc_ahead`](crate::Bus::tsc_ahead).
    pub(crate) fn follow_tsc(&mut self, ahead: Option<u64>) {
        self.tsc_counts_instructions = ahead.is_some();
        self.tsc_ahead = ahead.unwrap_or(0);
    }
}

/// The host code of one CPU.
#[derive(Default)]
pub(crate) struct Translator {
    /// Made when first needed; `None` inside if the host refused.
    code: Option<Option<Code>>,
    full: bool,
    /// Counts how often code was retired.
    generation: u64,
    random: u64,
}

struct Code {
    memory: CodeMemory,
    thunks: Thunks,
    /// Where code begins after the thunks, and the next free address of each half.
    start: u32,
    hot: u32,
    cold: u32,
    pages: Pages,
    /// Probes for several accesses, by the number that their exits tell.
    wide: Vec<Wide>,
    calls: Calls,
    /// What the last translation was made with.
    tools: Option<Box<block::Tools>>,
}

impl Code {
    fn new(bytes: usize) -> Option<Code> {
        let bytes = bytes.clamp(CODE_BYTES_MIN, CODE_BYTES_MAX).next_multiple_of(4096);
        let mut memory = CodeMemory::new(bytes)?;
        let mut shared = emit::Section::new(memory.start());
        let thunks = thunks::emit(&mut shared);
        let begin = memory.start();
        memory.write(begin, &shared.bytes);
        let start = shared.here().next_multiple_of(64);
        let cold = begin + memory.bytes() / 2;
        Some(Code {
            memory,
            thunks,
            start,
            hot: start,
            cold,
            pages: Pages::new(thunks.no_target),
            wide: Vec::new(),
            calls: Calls::default(),
            tools: None,
        })
    }

    fn is_full(&self) -> bool {
        let middle = self.memory.start() + self.memory.bytes() / 2;
        let end = self.memory.start() + self.memory.bytes();
        self.hot + BLOCK_BYTES_MAX > middle || self.cold + BLOCK_BYTES_MAX > end
    }

    /// A block is no more: nobody jumps there.
    fn retire(&mut self, key: BlockKey) {
        self.pages.retire(&mut self.memory, key.start(), key.mode());
    }
}

impl Translator {
    /// The code, made with room for so many bytes if there is none yet.
    fn code(&mut self, bytes: usize) -> Option<&mut Code> {
        self.code.get_or_insert_with(|| Code::new(bytes)).as_mut()
    }

    /// There was no room for more: [`Cpu::forget_all_code`] is due.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// What there is was made for another engine.
    pub(crate) fn give_up(&mut self) {
        self.full = self.code.is_some();
    }

    /// A probe for several accesses.
    fn wide(&mut self, number: u32) -> Option<&mut Wide> {
        self.code.as_mut()?.as_mut()?.wide.get_mut(number as usize)
    }

    /// Blocks were dropped.
    pub(crate) fn retire(&mut self, keys: impl IntoIterator<Item = BlockKey>) {
        self.generation += 1;
        if let Some(Some(code)) = &mut self.code {
            keys.into_iter().for_each(|key| code.retire(key));
        }
    }

    /// Drops all code. Whoever holds entry points ([`Table::Code`]) must drop those too.
    pub(crate) fn clear(&mut self) {
        self.full = false;
        self.generation += 1;
        if let Some(Some(code)) = &mut self.code {
            code.pages.clear();
            code.wide.clear();
            code.calls.clear();
            code.hot = code.start;
            code.cold = code.memory.start() + code.memory.bytes() / 2;
        }
    }

    /// Whether to interpret a block although it has host code: pseudo-random, for tests.
    fn prefers_interpreter(&mut self, seed: Option<u64>) -> bool {
        let Some(seed) = seed else { return false };
        if self.random == 0 {
            self.random = seed | 1;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 32 & 3 == 0
    }
}

/// Makes a fresh block's header count how often it is entered.
pub(crate) fn watch_heat(header: &mut Op, start: Gpa, mode: Mode, entries: u8) {
    let Ok(pfn) = u32::try_from(start.pfn().0) else { return };
    header.handler = warming;
    header.disp = pfn as i32;
    header.segment = mode.bits();
    header.unused = entries;
    header.imm = crate::code::UNPAYABLE;
}

/// Charges for a block's instructions and interprets them.
#[inline(always)]
fn interpret(cpu: &mut Cpu, header: OpRef) -> Flow {
    interp::enter_paying(cpu, header, i64::from(header.rest) - 1)
}

/// Header of a block that has been entered a few times only.
fn warming(cpu: &mut Cpu, header: OpRef) -> Flow {
    if header.unused > 0 {
        header.cool();
        return interpret(cpu, header);
    }
    if cpu.translate_to_host_code(header).is_none() {
        // Not again.
        header.become_interpreted(interp::enter, u64::from(header.rest) - 1);
    }
    go!(cpu, header)
}

/// Whether no SSE instruction can raise an exception; host code must not.
#[inline(always)]
fn masks_exceptions(cpu: &Cpu) -> bool {
    const MASKS: u32 = 0x1f80;
    cpu.mxcsr & MASKS == MASKS
}

/// Header of a translated block.
fn native(cpu: &mut Cpu, header: OpRef) -> Flow {
    let seed = cpu.mmu.tuning().mix_seed;
    if !masks_exceptions(cpu) || cpu.translator.prefers_interpreter(seed) {
        return interpret(cpu, header);
    }
    match run_host_code(cpu, header) {
        Some(op) => go!(cpu, op),
        None => leave!(),
    }
}

/// Runs host code from a block's entry until the interpreter is wanted: for an operation, or not at all,
/// with `Cpu::exit` saying why. Apart from the handler, which must have nothing on the stack.
#[inline(never)]
fn run_host_code(cpu: &mut Cpu, header: OpRef) -> Option<OpRef> {
    let Some(Some(code)) = &cpu.translator.code else {
        unreachable!("a translated block has a translator")
    };
    let trampoline = code.thunks.enter;
    let mut entry = header.disp as u32;
    loop {
        cpu.give_flags_to_host_code();
        let left = host::run(cpu, trampoline, entry);
        cpu.take_flags_from_host_code();
        match left {
            Left::At(op) => return Some(op),
            Left::Unknown(op) => {
                cpu.learn_target(cpu.native.next);
                return Some(op);
            }
            Left::Wide { op, number } => match cpu.probe_apart(number) {
                Some(apart) => entry = apart,
                None => return Some(op),
            },
            Left::UnknownJump => {
                cpu.learn_target(cpu.native.next);
                return interp::target(cpu, cpu.native.next);
            }
            Left::Call { site } => {
                let target = cpu.learn_target(cpu.native.next);
                return Some(cpu.link_far_call(site, target));
            }
            Left::Jump => return interp::target(cpu, cpu.native.next),
            Left::Budget(header) => {
                cpu.rip = cpu.ip_at(header.offset.into());
                cpu.exit = Exit::Budget;
                return None;
            }
            Left::Callout { op, resume } => {
                if cpu.exit != Exit::Back {
                    return None;
                }
                if !masks_exceptions(cpu) {
                    // `op` is followed by where it came from.
                    return Some(op.next().came_from().next());
                }
                entry = resume;
            }
        }
    }
}

/// Interprets an operation for host code that called; `true` if that may go on behind it: nothing happened
/// that makes the run loop look up, and nothing is out of date that lies on the host's stack, in its
/// registers, or in the code to be executed next.
fn interpret_one(cpu: &mut Cpu, op: OpRef) -> bool {
    let before = cpu.what_host_code_knows();
    cpu.take_flags_from_host_code();
    run_chain(cpu, op);
    cpu.give_flags_to_host_code();
    cpu.exit == Exit::Back && cpu.what_host_code_knows() == before && masks_exceptions(cpu)
}

/// After an operation that was interpreted for host code: back there.
fn back(cpu: &mut Cpu, _: OpRef) -> Flow {
    cpu.exit = Exit::Back;
    leave!()
}

impl Cpu {
    /// What return addresses on the host's stack and a pointer to the TLB were made from: where linear
    /// addresses of code lead, which code there is, and the TLB in use.
    fn what_host_code_knows(&self) -> (u64, u64, *const Tlb) {
        (self.jumps.generation(), self.translator.generation, self.tlb)
    }

    fn give_flags_to_host_code(&mut self) {
        let flags = self.arith.bits();
        self.native.flags = (flags & 0xff) << 8 | flags >> 11 & 1;
    }

    fn take_flags_from_host_code(&mut self) {
        let flags = self.native.flags;
        self.arith.set_bits(flags >> 8 & 0xff & rflags::ARITHMETIC | (flags & 1) << 11);
    }

    /// Where a linear address leads, if a jump there was made before: only then does a walk of the page tables
    /// change nothing. Enters where the code of its page is into the TLB.
    fn learn_target(&mut self, linear: u64) -> Option<Gpa> {
        self.jumps.get(linear, self.jump_context)?;
        let gpa = self.translate_block(linear).ok()?;
        let (user, mode) = (self.cpl == 3, self.mode_bits());
        let bytes = self.mmu.tuning().code_bytes;
        let code = self.translator.code(bytes)?;
        let entry_points = code.pages.entry_points(gpa.pfn(), mode).as_ptr() as u64;
        self.mmu.fill_code(user, linear, entry_points);
        Some(gpa)
    }

    /// The mode that blocks are decoded in now; valid inside blocks.
    fn mode_bits(&self) -> u8 {
        (self.jump_context >> 48) as u8
    }

    /// Tells the TLB in use which mode its code entries must be of.
    pub(crate) fn choose_code_entries(&mut self) {
        let (user, mode) = (self.cpl == 3, self.mode_bits());
        self.mmu.choose_code_entries(user, mode);
    }
}
