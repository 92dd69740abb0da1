//! The commonest instructions: two operands of 8, 32 or 64 bits. They are emitted here rather than by
//! [`Translation::copy`], which can do all of them too, because translating is most of what code costs that
//! runs a few times only.

use super::block::{Flags, Translation};
use super::emit::{Host, Mem, Width, host};
use super::memory::Right;
use super::registers::{host_of, slot};
use crate::interp::general;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// What is done with the two operands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// One of the eight of opcodes 80 to 83, by its ModRM extension.
    Arithmetic(u8),
    Test,
    Move,
}
use Operation::{Arithmetic, Move, Test};

const CMP: u8 = 7;

#[derive(Clone, Copy)]
enum Operand {
    Register(u8),
    Memory,
    Constant(i64),
}
use Operand::{Constant, Memory, Register};

/// One form of an operation.
#[derive(Clone, Copy)]
struct Form {
    operation: Operation,
    /// Bytes of an operand: 1, 4 or 8.
    bytes: u32,
}

impl Form {
    fn writes(self) -> bool {
        self.operation != Test && self.operation != Arithmetic(CMP)
    }

    /// Whether the destination's register matters before.
    fn reads(self) -> bool {
        self.operation != Move || self.bytes == 1
    }

    fn width(self) -> Width {
        if self.bytes == 8 { Width::W64 } else { Width::W32 }
    }

    /// The opcode with the destination in ModRM.rm, and that with it in ModRM.reg.
    fn opcodes(self) -> ([u8; 1], [u8; 1]) {
        let (to_rm, to_reg) = match self.operation {
            Arithmetic(digit) => (digit << 3 | 1, digit << 3 | 3),
            Test => (0x85, 0x85),
            Move => (0x89, 0x8b),
        };
        let byte = u8::from(self.bytes == 1);
        ([to_rm - byte], [to_reg - byte])
    }

    /// Whether a register can be named without a REX prefix that `emit` does not know of.
    fn can_name(self, register: Host) -> bool {
        self.bytes > 1 || !(host::RSP..=host::RDI).contains(&register)
    }

    fn can_use(self, operand: Operand) -> bool {
        match operand {
            Register(guest) => host_of(guest).is_none_or(|register| self.can_name(register)),
            Memory => true,
            Constant(_) => true,
        }
    }
}

impl Translation<'_> {
    /// `None` if the instruction is none of these; `Some(None)` if it has no translation.
    pub(super) fn common(&mut self, i: &Instruction) -> Option<Option<()>> {
        let operation = match i.mnemonic() {
            Mnemonic::Mov => Move,
            Mnemonic::Add => Arithmetic(0),
            Mnemonic::Or => Arithmetic(1),
            Mnemonic::And => Arithmetic(4),
            Mnemonic::Sub => Arithmetic(5),
            Mnemonic::Xor => Arithmetic(6),
            Mnemonic::Cmp => Arithmetic(CMP),
            Mnemonic::Test => Test,
            Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => return self.extending_move(i),
            _ => return None,
        };
        let bytes = match (i.op0_kind(), i.op1_kind()) {
            (OpKind::Register, _) => i.op0_register().size(),
            (_, OpKind::Register) => i.op1_register().size(),
            _ => i.memory_size().size(),
        };
        if !matches!(bytes, 1 | 4 | 8) || i.has_rep_prefix() || i.has_repne_prefix() {
            return None;
        }
        let form = Form { operation, bytes: bytes as u32 };
        let (to, from) = (operand(i, 0, form)?, operand(i, 1, form)?);
        if !form.can_use(to) || !form.can_use(from) {
            return None;
        }
        Some(self.two_operands(i, form, to, from))
    }

    fn two_operands(
        &mut self,
        i: &Instruction,
        form: Form,
        to: Operand,
        from: Operand,
    ) -> Option<()> {
        let (to_rm, to_reg) = form.opcodes();
        let width = form.width();
        match (to, from) {
            (Register(to), Constant(value)) => match host_of(to) {
                None if !form.writes() => self.constant_to_memory(form, slot(to), value as i32),
                _ => self.on_register(form, to, |this, to| this.constant(form, to, value)),
            },
            (Register(to), Register(from)) => match (host_of(to), host_of(from)) {
                (None, Some(from)) if form.operation == Move && form.bytes == 8 => {
                    self.hot.store(slot(to), from);
                }
                (None, Some(from)) if !form.writes() => {
                    self.hot.mem(width, &to_rm, from, slot(to));
                }
                (_, Some(from)) => {
                    self.on_register(form, to, |this, to| this.hot.reg(width, &to_reg, to, from));
                }
                (_, None) => self.on_register(form, to, |this, to| {
                    this.hot.mem(width, &to_reg, to, slot(from));
                }),
            },
            (Register(to), _) => {
                let from = self.reach_operand(i, Right::Load, form.bytes)?;
                self.on_register(form, to, |this, to| this.hot.mem(width, &to_reg, to, from));
            }
            (_, from) => {
                let right = if form.writes() { Right::Store } else { Right::Load };
                let to = self.reach_operand(i, right, form.bytes)?;
                match from {
                    Register(from) => {
                        let from = self.value_in(from, host::R9);
                        self.hot.mem(width, &to_rm, from, to);
                    }
                    Constant(value) => self.constant_to_memory(form, to, value as i32),
                    Memory => return None,
                }
            }
        }
        if form.operation != Move {
            self.flags = Flags::Live;
        }
        if let Register(to) = to
            && form.writes()
        {
            self.changed_by(i, [to]);
        }
        Some(())
    }

    /// Emits something with a guest register as destination, in R9 if it lives in memory.
    fn on_register(&mut self, form: Form, guest: u8, emit: impl FnOnce(&mut Self, Host)) {
        if let Some(register) = host_of(guest) {
            emit(self, register);
            return;
        }
        if form.reads() {
            self.hot.load(host::R9, slot(guest));
        }
        emit(self, host::R9);
        if form.writes() {
            self.hot.store(slot(guest), host::R9);
        }
    }

    fn constant(&mut self, form: Form, to: Host, value: i64) {
        let width = form.width();
        match (form.operation, form.bytes) {
            (Arithmetic(digit), 1) => self.hot.reg(width, &[0x80], digit, to),
            (Arithmetic(digit), _) => return self.hot.arith(width, digit, to, value as i32),
            (Test, 1) => self.hot.reg(width, &[0xf6], 0, to),
            (Test, _) => {
                self.hot.reg(width, &[0xf7], 0, to);
                return self.hot.raw(&(value as i32).to_le_bytes());
            }
            (Move, 1) => self.hot.reg(width, &[0xc6], 0, to),
            (Move, 4) => return self.hot.constant32(to, value as u32),
            (Move, _) => {
                return match i32::try_from(value) {
                    Ok(value @ i32::MIN..0) => self.hot.constant_signed(to, value),
                    _ => self.hot.constant64(to, value as u64),
                };
            }
        }
        self.hot.raw(&[value as u8]);
    }

    fn constant_to_memory(&mut self, form: Form, to: Mem, value: i32) {
        let width = form.width();
        let short = form.bytes == 1 || i8::try_from(value).is_ok();
        let short = match (form.operation, form.bytes) {
            (Arithmetic(digit), bytes) => {
                let opcode = match (bytes, short) {
                    (1, _) => 0x80,
                    (_, true) => 0x83,
                    (_, false) => 0x81,
                };
                self.hot.mem(width, &[opcode], digit, to);
                short
            }
            (Test, bytes) => {
                self.hot.mem(width, &[if bytes == 1 { 0xf6 } else { 0xf7 }], 0, to);
                bytes == 1
            }
            (Move, bytes) => {
                self.hot.mem(width, &[if bytes == 1 { 0xc6 } else { 0xc7 }], 0, to);
                bytes == 1
            }
        };
        let value = value.to_le_bytes();
        self.hot.raw(if short { &value[..1] } else { &value });
    }

    /// MOVZX, MOVSX and MOVSXD.
    fn extending_move(&mut self, i: &Instruction) -> Option<Option<()>> {
        let (to, in_memory) = (general(i.op0_register())?, i.op1_kind() == OpKind::Memory);
        let bytes = if in_memory { i.memory_size().size() } else { i.op1_register().size() } as u32;
        let opcode: &[u8] = match (i.mnemonic(), bytes) {
            (Mnemonic::Movzx, 1) => &[0x0f, 0xb6],
            (Mnemonic::Movzx, 2) => &[0x0f, 0xb7],
            (Mnemonic::Movsx, 1) => &[0x0f, 0xbe],
            (Mnemonic::Movsx, 2) => &[0x0f, 0xbf],
            (Mnemonic::Movsxd, 4) => &[0x63],
            _ => return None,
        };
        let to_bytes = i.op0_register().size() as u32;
        if !matches!(to_bytes, 4 | 8) || i.has_rep_prefix() || i.has_repne_prefix() {
            return None;
        }
        // The destination is only written, all of it.
        let form = Form { operation: Move, bytes: to_bytes };
        let width = form.width();
        if in_memory {
            let Some(from) = self.reach_operand(i, Right::Load, bytes) else { return Some(None) };
            self.on_register(form, to, |this, to| this.hot.mem(width, opcode, to, from));
            self.changed(to);
            return Some(Some(()));
        }
        let from = general(i.op1_register())?;
        match host_of(from) {
            Some(from) if !(Form { operation: Move, bytes }).can_name(from) => return None,
            Some(from) => {
                self.on_register(form, to, |this, to| this.hot.reg(width, opcode, to, from));
            }
            None => self.on_register(form, to, |this, to| {
                this.hot.mem(width, opcode, to, slot(from));
            }),
        }
        self.changed(to);
        Some(Some(()))
    }
}

/// An operand; `None` if it is of another kind, or only part of it has a name.
fn operand(i: &Instruction, n: u32, form: Form) -> Option<Operand> {
    Some(match i.op_kind(n) {
        OpKind::Register => Register(general(i.op_register(n))?),
        OpKind::Memory => Memory,
        OpKind::Immediate8
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Constant(match form.bytes {
            1 => i.immediate(n) as i8 as i64,
            4 => i.immediate(n) as i32 as i64,
            _ => i.immediate(n) as i64,
        }),
        _ => return None,
    })
}
