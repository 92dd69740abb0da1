//! Probes that serve several accesses.
//!
//! Instructions near each other use memory near each other: the members of a structure, the stack's top. A
//! probe is made for all that the next instructions want through the same registers, and leaves in R8 a host
//! address that they share while nothing else needs R8, or changes those registers. Only where all of it lies
//! in one page: where it does not, host code that probes for each access apart is made the first few times
//! that this happens, and takes over from there on.

use super::block::{Block, Translation};
use super::copy::{Class, class_of};
use super::emit::{Mem, at, host};
use super::memory::{Key, Place, RSP, Right, stack};
use crate::cpu::Cpu;
use crate::interp::general;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Bytes that one probe serves at most: the more, the likelier is the end of a page among them.
const SPAN_MAX: i32 = 128;
/// Instructions that are looked at ahead, at most.
const AHEAD: usize = 12;
/// What R8 is the host address of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    key: Key,
    /// R8 is the address with this displacement; from here to `high`, excluded, all may be accessed.
    low: i32,
    high: i32,
    right: Right,
}

impl Held {
    /// Bytes that may be accessed.
    fn span(&self) -> u32 {
        (self.high - self.low) as u32
    }
}

/// A probe for several accesses, and how to do without it.
#[derive(Clone, Copy)]
pub(super) struct Wide {
    pub(super) block: Block,
    /// Which of its instructions probes.
    pub(super) at: usize,
    /// Where the distance of the jump lies that is taken when the probe fails.
    pub(super) site: u32,
    held: Held,
    /// How often the end of a page was in the way.
    straddled: u8,
    /// Host code from that instruction on which probes for each access.
    apart: Option<u32>,
}

/// Times that the end of a page may be in the way before host code is made for that.
const STRADDLES: u8 = 3;

impl Wide {
    /// Whether the end of a page is what made the probe fail.
    fn straddles(&self, cpu: &Cpu) -> bool {
        let Key { base, index, segment } = self.held.key;
        let register = |guest: u8| cpu.gpr[usize::from(guest)];
        let base = base.map_or(0, register);
        let index = index.map_or(0, |(index, scale)| register(index) << scale);
        let segment = segment.map_or(0, |segment| cpu.seg[segment as usize].base);
        let low = base.wrapping_add(index).wrapping_add(segment);
        let low = low.wrapping_add_signed(self.held.low.into()) & 0xfff;
        low + u64::from(self.held.span()) > 4096
    }
}

impl Cpu {
    /// A probe for several accesses failed: host code that does without it, if the end of a page is why.
    pub(super) fn probe_apart(&mut self, number: u32) -> Option<u32> {
        let wide = *self.translator.wide(number)?;
        let apart = match wide.apart {
            Some(apart) => apart,
            None if !wide.straddles(self) => return None,
            None if wide.straddled < STRADDLES => {
                self.translator.wide(number)?.straddled += 1;
                return None;
            }
            None => self.translate_apart(&wide)?,
        };
        self.translator.wide(number)?.apart = Some(apart);
        Some(apart)
    }
}

/// What the look ahead sees of an instruction.
struct Shape {
    access: Option<(Place, i32, Right)>,
    /// By how much RSP moves.
    moves: i32,
    /// Guest registers that may change, RSP's moves aside.
    changes: [Option<u8>; 2],
}

impl Translation<'_> {
    /// Where `bytes` bytes of guest memory are for host code, which leaves before the current instruction if
    /// they are nowhere. Unless R8 is known to lead there, flags are saved and R8 and R9 lost.
    pub(super) fn reach(&mut self, place: Place, right: Right, bytes: u32) -> Mem {
        let Place { key, disp } = place;
        let end = disp.saturating_add(bytes as i32);
        if let Some(held) = &self.held
            && held.key == key
            && held.right >= right
            && held.low <= disp
            && end <= held.high
        {
            return at(host::R8, disp - held.low);
        }
        let held = self.plan(key, disp, end, right);
        self.save_flags();
        self.linear(Place { key, disp: held.low });
        let span = held.span();
        if span > bytes {
            let exit = self.wide_exit();
            let site = self.probe(held.right, span, exit);
            self.wide.push(Wide {
                block: self.block,
                at: self.at,
                site,
                held,
                straddled: 0,
                apart: None,
            });
        } else {
            let exit = self.exit_here();
            self.probe(held.right, span, exit);
        }
        self.held = Some(held);
        at(host::R8, disp - held.low)
    }

    /// As [`Translation::reach`], of a memory operand.
    pub(super) fn reach_operand(
        &mut self,
        i: &Instruction,
        right: Right,
        bytes: u32,
    ) -> Option<Mem> {
        let place = self.place_of(i)?;
        Some(self.reach(place, right, bytes))
    }

    /// A guest register was changed.
    pub(super) fn changed(&mut self, guest: u8) {
        if self.held.is_some_and(|held| held.key.uses(guest)) {
            self.held = None;
        }
    }

    /// An instruction changed these guest registers.
    pub(super) fn changed_by(&mut self, i: &Instruction, guests: impl IntoIterator<Item = u8>) {
        match stack_move(i) {
            Some(by) => self.stack_moved(by),
            None => guests.into_iter().for_each(|guest| self.changed(guest)),
        }
    }

    /// RSP was moved by so many bytes.
    pub(super) fn stack_moved(&mut self, by: i32) {
        let Some(held) = &mut self.held else { return };
        if !held.key.uses(RSP) {
            return;
        }
        match (held.low.checked_sub(by), held.high.checked_sub(by)) {
            (Some(low), Some(high)) if held.key.index.is_none_or(|(index, _)| index != RSP) => {
                (held.low, held.high) = (low, high);
            }
            _ => self.held = None,
        }
    }

    /// What a probe for an access is best made for.
    fn plan(&self, key: Key, low: i32, high: i32, right: Right) -> Held {
        let mut held = Held { key, low, high, right };
        if !self.shares {
            return held;
        }
        // How far RSP is from where it is now.
        let mut moved = 0;
        let ahead = self.instructions[self.at..].iter().take(AHEAD);
        for shape in ahead.map_while(|i| self.shape(i)) {
            if let Some((place, bytes, right)) = shape.access {
                if place.key != key {
                    break;
                }
                let Some(low) = place.disp.checked_add(moved) else { break };
                let (low, high) = (held.low.min(low), held.high.max(low.saturating_add(bytes)));
                if i64::from(high) - i64::from(low) > i64::from(SPAN_MAX) {
                    break;
                }
                held = Held { key, low, high, right: held.right.max(right) };
            }
            if shape.changes.iter().flatten().any(|&guest| key.uses(guest)) {
                break;
            }
            if shape.moves != 0 && key.uses(RSP) {
                if key.index.is_some() {
                    break;
                }
                moved += shape.moves;
            }
        }
        held
    }

    /// `None` where the look ahead ends. It may be wrong: then a probe is for too much or too little.
    fn shape(&self, i: &Instruction) -> Option<Shape> {
        let none = Shape { access: None, moves: 0, changes: [None; 2] };
        let register = |n: u32| match i.op_kind(n) {
            OpKind::Register => general(i.op_register(n)),
            _ => None,
        };
        let first = register(0);
        Some(match i.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 => none,
            Mnemonic::Push if i.op0_kind() != OpKind::Memory => {
                Shape { access: Some((stack(-8), 8, Right::Store)), moves: -8, ..none }
            }
            Mnemonic::Pop if i.op0_kind() == OpKind::Register => {
                Shape { access: Some((stack(0), 8, Right::Load)), moves: 8, changes: [first, None] }
            }
            Mnemonic::Ret => Shape { access: Some((stack(0), 8, Right::Load)), ..none },
            Mnemonic::Call if i.op0_kind() == OpKind::NearBranch64 => {
                Shape { access: Some((stack(-8), 8, Right::Store)), ..none }
            }
            Mnemonic::Cdqe => Shape { changes: [Some(0), None], ..none },
            Mnemonic::Lea => match stack_move(i) {
                Some(moves) => Shape { moves, ..none },
                None => Shape { changes: [first, None], ..none },
            },
            Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Sar | Mnemonic::Imul
                if i.op0_kind() == OpKind::Register && i.op_count() > 1 =>
            {
                Shape { changes: [first, None], ..none }
            }
            _ if i.flow_control() != iced_x86::FlowControl::Next => return None,
            _ => {
                match class_of(i)? {
                    Class::Simd if !self.block.mode.sse => return None,
                    Class::Simd | Class::General => {}
                }
                let reads = matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt);
                let both = matches!(i.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd);
                let operand = (0..i.op_count()).find(|&n| i.op_kind(n) == OpKind::Memory);
                let access = match operand {
                    Some(n) => {
                        let right = if n == 0 && !reads { Right::Store } else { Right::Load };
                        Some((self.place_of(i)?, i.memory_size().size() as i32, right))
                    }
                    None => None,
                };
                let moves = stack_move(i).unwrap_or(0);
                let first = first.filter(|_| !reads && moves == 0);
                let second = both.then(|| register(1)).flatten();
                Shape { access, moves, changes: [first, second] }
            }
        })
    }
}

/// By how much an instruction moves RSP, if that is all it does besides setting flags.
fn stack_move(i: &Instruction) -> Option<i32> {
    if i.op0_kind() != OpKind::Register || i.op0_register() != Register::RSP {
        return None;
    }
    let constant = |by: u64| i32::try_from(by as i64).ok();
    match i.mnemonic() {
        Mnemonic::Add => constant(i.try_immediate(1).ok()?),
        Mnemonic::Sub => constant(i.try_immediate(1).ok()?)?.checked_neg(),
        Mnemonic::Lea if i.memory_base() == Register::RSP && i.memory_index() == Register::None => {
            constant(i.memory_displacement64())
        }
        _ => None,
    }
}
