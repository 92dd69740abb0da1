//! Decodes a block: instructions of one page, up to a branch.

use super::fused::{Comparison, branch_after};
use super::select::{Mode, Selected, select};
use super::{branch, crossing, enter, onward, reference, reference_branch};
use crate::code::{BlockKey, INSTRUCTION_BYTES_MAX, Op, OpRef, Reference};
use crate::cpu::Cpu;
use crate::mmu::Engine;
use dejavm_units::Gpa;
use iced_x86::{Decoder, FlowControl, Instruction};

/// Instructions of a block at most.
const INSTRUCTIONS_MAX: usize = 32;
/// Bytes looked at for one block.
const WINDOW_BYTES: usize = 256;

/// What came of looking for a block at an address.
pub(crate) enum Built {
    Block(OpRef),
    /// The first instruction lies outside RAM: it must be executed alone.
    Alone,
}

/// Operations ready to be moved into the arena.
struct Decoded {
    ops: Vec<Op>,
    /// The last operation wants link slots after it.
    links: bool,
    /// Bytes decoded from.
    bytes: u16,
}

impl Cpu {
    /// The block at a physical address, decoded now if need be.
    pub(crate) fn block_at(&mut self, start: Gpa, mode: Mode) -> Built {
        let key = BlockKey::new(start, mode.bits());
        if let Some(header) = self.code.get(key) {
            return Built::Block(header);
        }
        let Some(mut decoded) = self.decode(start, mode, INSTRUCTIONS_MAX) else {
            return Built::Alone;
        };
        let Decoded { ops, links, bytes } = &mut decoded;
        if ops.len() > 1 && self.debugger.cuts_at(start.page_offset()) {
            crate::debugger::ask_before(&mut ops[0]);
        } else if ops.len() > 1 && self.mmu.tuning().engine == Engine::Translator && mode.wide {
            let entries = self.mmu.tuning().translate_after;
            crate::translate::watch_heat(&mut ops[0], start, mode, entries);
        }
        let (code, ram) = self.code_and_ram();
        let header = code.insert(ram, key, start, *bytes, ops, *links);
        let (mmu, ram) = self.mmu_and_ram();
        mmu.revoke_writes(ram, start.pfn());
        Built::Block(header)
    }

    /// A block of the one instruction at a physical address, entered nowhere; `translated` when it is
    /// first entered.
    pub(crate) fn decode_one(&mut self, start: Gpa, mode: Mode, translated: bool) -> Option<OpRef> {
        let mut decoded = self.decode(start, mode, 1)?;
        if translated && mode.wide && decoded.ops.len() > 1 {
            crate::translate::watch_heat(&mut decoded.ops[0], start, mode, 0);
        }
        Some(self.code.place(&mut decoded.ops, decoded.links))
    }

    /// Decodes at most `count` instructions of one page; `None` if there is not one.
    fn decode(&mut self, start: Gpa, mode: Mode, count: usize) -> Option<Decoded> {
        let offset = start.page_offset();
        let mut bytes = [0u8; WINDOW_BYTES];
        let window = WINDOW_BYTES.min(4096 - offset as usize);
        self.ram().read(start, &mut bytes[..window]).ok()?;
        if self.code.is_full() {
            self.forget_all_code();
        }
        let options = self.model.decoder_options();
        let mut decoder = Decoder::with_ip(mode.bitness(), &bytes[..window], offset, options);
        let mut ops = Vec::with_capacity(count + 3);
        ops.push(Op::new(enter));
        let (mut links, mut ended) = (false, false);
        let mut length = 0;
        let mut before: Option<Comparison> = None;
        while ops.len() <= count && !ended {
            if length > 0 && self.debugger.cuts_at(offset + length) {
                break;
            }
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                break;
            }
            let one = self.operation(&instruction, mode, offset + length);
            (links, ended) = (one.links, one.ends);
            length += instruction.len() as u64;
            if let (Some(comparison), Some(condition)) = (before, one.condition)
                && let Some(handler) = branch_after(comparison, condition)
                && let Some(last) = ops.last_mut()
            {
                last.handler = handler;
            }
            before = one.comparison;
            ops.push(one.op);
        }
        let crosses = ops.len() == 1;
        if crosses {
            // Into the next page; or it is invalid. The bytes that decided so lie in this page.
            ops.push(Op { offset: offset as u16, ..Op::new(crossing) });
            length = window.min(INSTRUCTION_BYTES_MAX) as u64;
        }
        let instructions = ops.len() - 1;
        if crosses {
            ops.push(Op::new(onward));
        } else if !ended {
            let mut seam = Op::new(branch::jmp);
            seam.imm = offset + length;
            seam.offset = seam.imm as u16;
            seam.near = u8::from(seam.imm < 4096);
            ops.push(seam);
            links = true;
        }
        for (n, op) in ops.iter_mut().enumerate() {
            op.rest = (instructions + 1).saturating_sub(n) as u8;
        }
        ops[0].imm = instructions as u64;
        ops[0].offset = offset as u16;
        Some(Decoded { ops, links, bytes: length as u16 })
    }

    /// One instruction's operation.
    pub(crate) fn operation(&mut self, i: &Instruction, mode: Mode, at: u64) -> Selected {
        let mut selected = select(i, mode).filter(|_| self.has_shortcut(i)).unwrap_or_else(|| {
            let ends = i.flow_control() != FlowControl::Next;
            let mut op = Op::new(if ends { reference_branch } else { reference });
            let exec = crate::exec::select(&self.model, i);
            op.imm = self.code.keep(Reference { instruction: *i, exec });
            Selected { op, links: false, ends, comparison: None, condition: None }
        });
        let op = &mut selected.op;
        op.offset = at as u16;
        op.len = i.len() as u8;
        if selected.links {
            let fall = at + i.len() as u64;
            op.near = u8::from(op.imm < 4096) | u8::from(fall < 4096) << 1;
        }
        selected
    }
}
