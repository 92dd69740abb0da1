//! From a decoded block to host code.
//!
//! Arithmetic flags. The guest's are in the host's while instructions that set and read them follow one
//! another. A TLB probe clobbers them, so before one they are saved to RAX (LAHF, SETO: two operations)
//! if they are not there already; an instruction that reads them behind a probe gets them back. Where a
//! block ends, and wherever host code may be left, they are in RAX. Flags that the manual leaves undefined
//! are made what `docs/cpu-model.md` says, unless they die unseen ([`Translation::flags_die`]).

use super::emit::{Section, distance, host};
use super::host::reason;
use super::pages::Site;
use super::reach::{Held, Wide};
use super::registers::{BUDGET, MXCSR, MXCSR_LOADED};
use super::thunks::Thunks;
use super::{BLOCK_BYTES_MAX, Code, back};
use crate::code::{BlockKey, Handler, Op, OpRef};
use crate::cpu::Cpu;
use crate::interp::{Mode, crossing};
use dejavm_units::Gpa;
use iced_x86::{
    Decoder, Encoder, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register,
    RflagsBits,
};

/// Where the guest's arithmetic flags are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flags {
    /// In RAX.
    Saved,
    /// In the host's flags.
    Live,
    /// In both.
    Both,
}

/// What translations are made with, kept from one to the next.
pub(super) struct Tools {
    pub(super) encoder: Encoder,
    pub(super) infos: InstructionInfoFactory,
    instructions: Vec<Instruction>,
    hot: Vec<u8>,
    cold: Vec<u8>,
    /// Jumps within the page, with the targets' offsets there.
    sites: Vec<(Site, u16)>,
    wide: Vec<Wide>,
    /// Calls to other pages: see [`Calls`](super::calls::Calls).
    pub(super) calls: Vec<(u32, OpRef)>,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools {
            encoder: Encoder::new(64),
            infos: InstructionInfoFactory::new(),
            instructions: Vec::new(),
            hot: Vec::new(),
            cold: Vec::new(),
            sites: Vec::new(),
            wide: Vec::new(),
            calls: Vec::new(),
        }
    }
}

/// A decoded block without host code.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) header: OpRef,
    pub(super) start: Gpa,
    /// Instructions.
    pub(super) count: usize,
    pub(super) mode: Mode,
}

impl Block {
    /// The block with this header, if it is one that counts how often it is entered.
    fn of(header: OpRef) -> Option<Block> {
        if !std::ptr::fn_addr_eq(header.handler, super::warming as Handler) {
            return None;
        }
        let mode = Mode::of_bits(header.segment);
        let start = Gpa((header.disp as u32 as u64) << 12 | u64::from(header.offset));
        mode.wide.then_some(Block { header, start, count: usize::from(header.rest) - 1, mode })
    }
}

/// A block being translated.
pub(super) struct Translation<'a> {
    pub(super) hot: Section,
    pub(super) cold: Section,
    pub(super) flags: Flags,
    /// Bit n: guest XMM register n is in host XMM register n.
    pub(super) xmm: u16,
    /// MXCSR is known to be the guest's.
    pub(super) mxcsr: bool,
    pub(super) tools: &'a mut Tools,
    pub(super) instructions: &'a [Instruction],
    /// The instruction being translated.
    pub(super) at: usize,
    pub(super) block: Block,
    /// Offset in the page of the block whose host code could come right behind. If it has to: the exit instead.
    follower: Option<u64>,
    falls: Option<u32>,
    /// What R8 is the host address of, if anything.
    pub(super) held: Option<Held>,
    /// The instruction being translated has seen to `held`.
    pub(super) keeps_held: bool,
    /// Probes may serve several accesses.
    pub(super) shares: bool,
    /// Those that do, and how many there are in other code.
    pub(super) wide: Vec<Wide>,
    wide_before: u32,
    /// The exit to the current instruction's operation, once emitted.
    exit: Option<u32>,
    pub(super) thunks: Thunks,
}

impl Cpu {
    /// Translates a block, and those to which its end leads one after another, if they were entered before: then
    /// no jump is needed between them. `None` if there is no host code to be had.
    #[inline(never)]
    pub(super) fn translate_to_host_code(&mut self, header: OpRef) -> Option<()> {
        let mut next = Block::of(header)?;
        let (mut entry, mut follower) = self.translate_from(next, None)?;
        loop {
            let Some(Some(code)) = &mut self.translator.code else {
                unreachable!("a block was translated")
            };
            code.pages.enter(&mut code.memory, next.start, next.mode.bits(), entry);
            next.header.become_native(super::native, entry);
            let Some((block, exit)) = follower else { return Some(()) };
            next = block;
            let Some(translated) = self.translate_from(next, None) else {
                let Some(Some(code)) = &mut self.translator.code else { return Some(()) };
                code.place(|code, _| {
                    code.jmp(exit);
                });
                return Some(());
            };
            (entry, follower) = translated;
        }
    }

    /// Host code for the rest of a block from an instruction on, in which no probe serves several accesses.
    /// The jump of the probe that does goes there from now on.
    pub(super) fn translate_apart(&mut self, wide: &Wide) -> Option<u32> {
        let (entry, _) = self.translate_from(wide.block, Some(wide.at))?;
        let Some(Some(code)) = &mut self.translator.code else { return None };
        code.memory.write(wide.site, &distance(wide.site, entry));
        Some(entry)
    }

    /// A block, or the rest `apart` from an instruction on. Returns its entry and the block, if any, whose host code
    /// must come right behind, or else a jump to the exit.
    fn translate_from(
        &mut self,
        block: Block,
        apart: Option<usize>,
    ) -> Option<(u32, Option<(Block, u32)>)> {
        let Block { header: _, start, count, mode } = block;
        let code = self.translator.code(self.mmu.tuning().code_bytes)?;
        if code.is_full() {
            self.translator.full = true;
            return None;
        }
        let (hot, cold, thunks) = (code.hot, code.cold, code.thunks);
        let wide_before = code.wide.len() as u32;
        let mut tools = code.tools.take().unwrap_or_default();
        let instructions = self.decode_again(&mut tools, start, mode, count);
        let follower = match apart {
            None => self.follower(block, &instructions),
            Some(_) => None,
        };
        let mut translation = Translation {
            hot: Section::reusing(std::mem::take(&mut tools.hot), hot),
            cold: Section::reusing(std::mem::take(&mut tools.cold), cold),
            flags: Flags::Saved,
            xmm: 0,
            wide: std::mem::take(&mut tools.wide),
            mxcsr: false,
            tools: &mut tools,
            instructions: &instructions,
            at: 0,
            block,
            follower: follower.map(|follower| follower.start.page_offset()),
            falls: None,
            held: None,
            keeps_held: false,
            shares: apart.is_none(),
            wide_before,
            exit: None,
            thunks,
        };
        if apart.is_none() {
            translation.charge(count);
        }
        let mut ended = instructions[0].is_invalid();
        if ended {
            let original = translation.operation();
            let op = self.called(Op { offset: original.offset, ..Op::new(crossing) }, original);
            translation.callout(op);
            translation.go_on_at_rip();
        }
        let decoded = instructions.iter().take_while(|instruction| !instruction.is_invalid());
        for (n, instruction) in decoded.enumerate().skip(apart.unwrap_or(0)) {
            translation.at = n;
            translation.exit = None;
            let begun = translation.mark();
            let allowed = self.has_shortcut(instruction);
            let ends = instruction.flow_control() != FlowControl::Next;
            let done = allowed
                && if ends {
                    translation.branch(instruction).is_some()
                } else {
                    translation.instruction(instruction).is_some()
                };
            ended = ends;
            if done {
                continue;
            }
            translation.back_to(begun);
            translation.save_flags();
            if ends {
                translation.leave_here();
            } else {
                let original = translation.operation();
                let op = self.operation(instruction, mode, u64::from(original.offset)).op;
                translation.callout(self.called(op, original));
            }
        }
        if !ended {
            // The seam to the block behind.
            translation.at = count;
            translation.exit = None;
            translation.save_flags();
            let to = start.page_offset() + instructions.iter().map(|i| i.len() as u64).sum::<u64>();
            translation.go_to(to);
        }
        let Translation { hot, cold, mut wide, falls, .. } = translation;
        let Some(Some(code)) = &mut self.translator.code else { return None };
        let entry = code.accept(&hot, &cold);
        code.wide.append(&mut wide);
        code.calls.append(&mut tools.calls);
        code.pages.link(&mut code.memory, start.pfn(), mode.bits(), &tools.sites);
        (tools.hot, tools.cold, tools.wide) = (hot.bytes, cold.bytes, wide);
        tools.instructions = instructions;
        code.tools = Some(tools);
        Some((entry, follower.zip(falls)))
    }

    /// A block that a block's end leads to, has been entered, and has no host code yet.
    fn follower(&self, block: Block, instructions: &[Instruction]) -> Option<Block> {
        let last = instructions.last()?;
        let (fall, target) = (Some(last.next_ip()), Some(last.near_branch_target()));
        let places = match last.flow_control() {
            _ if last.is_invalid() => [None; 2],
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => [fall, None],
            FlowControl::ConditionalBranch if last.is_jcc_short_or_near() => [fall, target],
            FlowControl::UnconditionalBranch if last.is_jmp_short_or_near() => [target, None],
            _ => [None; 2],
        };
        let own = block.start.page_offset();
        let mut near =
            places.into_iter().flatten().filter(|&offset| offset < 4096 && offset != own);
        near.find_map(|offset| {
            let start = Gpa(block.start.0 & !0xfff | offset);
            Block::of(self.code.get(BlockKey::new(start, block.mode.bits()))?)
        })
    }

    /// A copy of a block's operation, behind which host code goes on.
    fn called(&mut self, op: Op, original: OpRef) -> OpRef {
        let end = Op { imm: original.address(), ..Op::new(back) };
        self.code.place(&mut vec![Op { rest: original.rest, ..op }, end], false)
    }

    /// A block's instructions; invalid is one that crosses into the next page.
    fn decode_again(
        &mut self,
        tools: &mut Tools,
        start: Gpa,
        mode: Mode,
        count: usize,
    ) -> Vec<Instruction> {
        let mut bytes = [0; 256];
        let window = bytes.len().min(4096 - start.page_offset() as usize);
        let window = match self.ram().read(start, &mut bytes[..window]) {
            Ok(()) => &bytes[..window],
            Err(_) => &[],
        };
        let options = self.model.decoder_options();
        let mut decoder = Decoder::with_ip(mode.bitness(), window, start.page_offset(), options);
        tools.sites.clear();
        let mut instructions = std::mem::take(&mut tools.instructions);
        instructions.resize_with(count, Instruction::new);
        instructions.iter_mut().for_each(|instruction| decoder.decode_out(instruction));
        instructions
    }
}

impl Code {
    /// Takes a finished translation in and returns its entry.
    fn accept(&mut self, hot: &Section, cold: &Section) -> u32 {
        let room = BLOCK_BYTES_MAX as usize;
        assert!(hot.bytes.len() <= room && cold.bytes.len() <= room, "a block has a bound");
        let entry = self.hot;
        self.memory.write(self.hot, &hot.bytes);
        self.memory.write(self.cold, &cold.bytes);
        self.hot = hot.here();
        self.cold = cold.here();
        entry
    }

    /// Emits something into the hot half and returns its address.
    pub(super) fn place(&mut self, emit: impl FnOnce(&mut Section, &Thunks)) -> u32 {
        let entry = self.hot;
        let mut code = Section::new(entry);
        emit(&mut code, &self.thunks);
        self.memory.write(entry, &code.bytes);
        self.hot = code.here();
        entry
    }
}

/// A point to go back to.
#[derive(Clone, Copy)]
struct Mark {
    hot: usize,
    cold: usize,
    flags: Flags,
    xmm: u16,
    held: Option<Held>,
    wide: usize,
    mxcsr: bool,
}

impl Translation<'_> {
    fn mark(&self) -> Mark {
        Mark {
            hot: self.hot.bytes.len(),
            cold: self.cold.bytes.len(),
            flags: self.flags,
            xmm: self.xmm,
            held: self.held,
            wide: self.wide.len(),
            mxcsr: self.mxcsr,
        }
    }

    /// Forgets what was emitted since, for an instruction that turned out to have no translation.
    fn back_to(&mut self, mark: Mark) {
        self.hot.bytes.truncate(mark.hot);
        self.cold.bytes.truncate(mark.cold);
        self.wide.truncate(mark.wide);
        (self.flags, self.xmm, self.mxcsr) = (mark.flags, mark.xmm, mark.mxcsr);
        (self.exit, self.held) = (None, mark.held);
    }

    /// The operation of the current instruction.
    pub(super) fn operation(&self) -> OpRef {
        let mut op = self.block.header.next();
        for _ in 0..self.at {
            op = op.next();
        }
        op
    }

    /// Charges for all instructions, or leaves.
    fn charge(&mut self, count: usize) {
        let count = count as i8;
        let refused = self.cold.here();
        self.cold.arith_mem(0, BUDGET, count);
        self.cold.constant64(host::R9, self.block.header.address() | reason::BUDGET);
        self.cold.jmp(self.thunks.exit);
        self.hot.arith_mem(5, BUDGET, count);
        self.hot.jcc(super::emit::condition::S, refused);
    }

    /// An exit, in the cold half, to the interpreter at the current operation. Flags are saved there.
    pub(super) fn exit_here(&mut self) -> u32 {
        if let Some(exit) = self.exit {
            return exit;
        }
        let exit = self.cold_exit(reason::AT);
        self.exit = Some(exit);
        exit
    }

    /// As [`Translation::exit_here`], for another reason.
    pub(super) fn cold_exit(&mut self, reason: u64) -> u32 {
        let exit = self.cold.here();
        self.cold.constant64(host::R9, self.operation().address() | reason);
        self.cold.jmp(self.thunks.exit);
        exit
    }

    /// An exit, in the cold half, from the next probe of `wide`.
    pub(super) fn wide_exit(&mut self) -> u32 {
        let exit = self.cold.here();
        self.cold.constant32(host::R8, self.wide_before + self.wide.len() as u32);
        self.cold.constant64(host::R9, self.operation().address() | reason::WIDE);
        self.cold.jmp(self.thunks.exit);
        exit
    }

    /// Leaves for the interpreter: the block's last instruction has no translation.
    fn leave_here(&mut self) {
        self.hot.constant64(host::R9, self.operation().address() | reason::AT);
        self.hot.jmp(self.thunks.exit);
    }

    /// Has one operation interpreted. Whatever was known of registers and memory is known no more.
    fn callout(&mut self, op: OpRef) {
        self.hot.constant64(host::R9, op.address());
        self.hot.call(self.thunks.callout);
        (self.flags, self.xmm, self.mxcsr, self.held) = (Flags::Saved, 0, false, None);
    }

    /// Before an instruction that rounds, or sets MXCSR's flags: makes MXCSR the guest's.
    pub(super) fn want_mxcsr(&mut self) {
        if self.mxcsr {
            return;
        }
        self.mxcsr = true;
        self.save_flags();
        self.hot.arith_mem(7, MXCSR_LOADED, 0);
        let load = self.cold.here();
        let back = self.hot.here() + super::emit::JCC_BYTES;
        self.hot.jcc(super::emit::condition::E, load);
        // LDMXCSR
        self.cold.mem(super::emit::Width::W32, &[0x0f, 0xae], 2, MXCSR);
        self.cold.arith_mem(1, MXCSR_LOADED, 1);
        self.cold.jmp(back);
    }

    /// A jump within the page, to be linked.
    pub(super) fn link(&mut self, at: u32, exit: u32, offset: u64) {
        self.tools.sites.push((Site { at, exit, falls: false }, offset as u16));
    }

    /// The end: goes on in the page, without a jump if the code there comes next.
    pub(super) fn end_at(&mut self, offset: u64, exit: u32) {
        if self.follower == Some(offset) {
            self.falls = Some(exit);
            let site = Site { at: self.hot.here() + 1, exit, falls: true };
            self.tools.sites.push((site, offset as u16));
        } else {
            let at = self.hot.jmp(exit);
            self.link(at, exit, offset);
        }
    }

    /// Whether the code at an offset in the page could come next.
    pub(super) fn is_follower(&self, offset: u64) -> bool {
        self.follower == Some(offset)
    }

    /// Before flags are clobbered, or where host code may be left.
    pub(super) fn save_flags(&mut self) {
        if self.flags == Flags::Live {
            self.hot.save_flags();
        }
        self.flags = Flags::Saved;
    }

    /// Before flags are read, or changed in part.
    pub(super) fn want_flags(&mut self) {
        if self.flags == Flags::Saved {
            self.hot.restore_flags();
            self.flags = Flags::Both;
        }
    }

    /// Whether all arithmetic flags that the current instruction leaves are overwritten before anybody
    /// could see them.
    pub(super) fn flags_die(&self) -> bool {
        for i in &self.instructions[self.at + 1..] {
            let plain = is_plain(i) || self.block.mode.sse && super::copy::is_plain_simd(i);
            if i.rflags_read() & ARITHMETIC != 0 || !plain {
                return false;
            }
            if i.rflags_modified() & ARITHMETIC == ARITHMETIC {
                return true;
            }
        }
        false
    }
}

/// The arithmetic flags as iced-x86 numbers them.
pub(super) const ARITHMETIC: u32 = RflagsBits::OF
    | RflagsBits::SF
    | RflagsBits::ZF
    | RflagsBits::AF
    | RflagsBits::CF
    | RflagsBits::PF;

/// An instruction on registers and constants that completes whatever happens, in host code.
fn is_plain(i: &Instruction) -> bool {
    let known = matches!(
        i.mnemonic(),
        Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Mov
            | Mnemonic::Lea
            | Mnemonic::Movzx
            | Mnemonic::Movsx
            | Mnemonic::Movsxd
            | Mnemonic::Neg
            | Mnemonic::Not
            | Mnemonic::Bswap
            | Mnemonic::Cdqe
            | Mnemonic::Cwde
            | Mnemonic::Inc
            | Mnemonic::Dec
    );
    let shifts = matches!(
        i.mnemonic(),
        Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Rol | Mnemonic::Ror
    ) && i.op0_register().size() >= 4
        && i.op1_kind() == OpKind::Immediate8
        && (1..i.op0_register().size() as u64 * 8).contains(&i.immediate(1));
    (known || shifts)
        && (i.mnemonic() == Mnemonic::Lea
            || (0..i.op_count()).all(|n| match i.op_kind(n) {
                OpKind::Register => crate::interp::general(i.op_register(n)).is_some(),
                OpKind::Memory => false,
                _ => true,
            }))
        && i.segment_prefix() == Register::None
}
