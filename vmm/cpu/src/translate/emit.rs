//! Writes x86-64 machine code: the few forms that probes, exits, branches and the commonest instructions are
//! made of. Everything else is re-encoded by iced-x86.

use iced_x86::{Encoder, Instruction};

/// A host register by its number in encodings.
pub(super) type Host = u8;

/// The host registers' numbers.
pub(super) mod host {
    use super::Host;
    pub(crate) const RAX: Host = 0;
    pub(crate) const RCX: Host = 1;
    pub(crate) const RDX: Host = 2;
    pub(crate) const RBX: Host = 3;
    pub(crate) const RSP: Host = 4;
    pub(crate) const RBP: Host = 5;
    pub(crate) const RSI: Host = 6;
    pub(crate) const RDI: Host = 7;
    pub(crate) const R8: Host = 8;
    pub(crate) const R9: Host = 9;
    pub(crate) const R10: Host = 10;
    pub(crate) const R11: Host = 11;
    pub(crate) const R12: Host = 12;
    pub(crate) const R13: Host = 13;
    pub(crate) const R14: Host = 14;
    pub(crate) const R15: Host = 15;
}

/// A memory operand of host code.
#[derive(Clone, Copy)]
pub(super) struct Mem {
    pub(super) base: Option<Host>,
    /// Register and log2 of the scale.
    pub(super) index: Option<(Host, u8)>,
    pub(super) disp: i32,
}

/// `[base + disp]`.
pub(super) const fn at(base: Host, disp: i32) -> Mem {
    Mem { base: Some(base), index: None, disp }
}

/// `[base + index * 2^scale + disp]`.
pub(super) const fn indexed(base: Host, index: Host, scale: u8, disp: i32) -> Mem {
    Mem { base: Some(base), index: Some((index, scale)), disp }
}

/// Operand width of the forms that have both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    /// 32 bits.
    W32,
    /// 64 bits.
    W64,
}
use Width::{W32, W64};

/// Code under construction, and where it will lie.
pub(super) struct Section {
    base: u32,
    pub(super) bytes: Vec<u8>,
}

impl Section {
    pub(super) fn new(base: u32) -> Section {
        Section { base, bytes: Vec::with_capacity(1024) }
    }

    /// As [`Section::new`], in memory that was used before.
    pub(super) fn reusing(mut bytes: Vec<u8>, base: u32) -> Section {
        bytes.clear();
        Section { base, bytes }
    }

    /// The address of what is emitted next.
    pub(super) fn here(&self) -> u32 {
        self.base + self.bytes.len() as u32
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn rex(&mut self, width: Width, reg: Host, index: Host, base: Host) {
        let w = u8::from(width == W64);
        let rex = 0x40 | w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }

    fn modrm_mem(&mut self, reg: Host, mem: Mem) {
        let reg = (reg & 7) << 3;
        let Some(base) = mem.base else {
            let (index, scale) = mem.index.unwrap_or((host::RSP, 0));
            self.raw(&[reg | 4, scale << 6 | (index & 7) << 3 | 5]);
            self.raw(&mem.disp.to_le_bytes());
            return;
        };
        let short = i8::try_from(mem.disp);
        // RBP and R13 as base always have a displacement.
        let mode = match short {
            Ok(0) if base & 7 != 5 => 0x00,
            Ok(_) => 0x40,
            Err(_) => 0x80,
        };
        match mem.index {
            Some((index, scale)) => {
                self.raw(&[mode | reg | 4, scale << 6 | (index & 7) << 3 | base & 7]);
            }
            None if base & 7 == 4 => self.raw(&[mode | reg | 4, 0x24]),
            None => self.bytes.push(mode | reg | base & 7),
        }
        match (mode, short) {
            (0x40, Ok(short)) => self.bytes.push(short as u8),
            (0x80, _) => self.raw(&mem.disp.to_le_bytes()),
            _ => {}
        }
    }

    /// An instruction with a register (or an opcode extension) and a memory operand.
    pub(super) fn mem(&mut self, width: Width, opcode: &[u8], reg: Host, mem: Mem) {
        self.rex(width, reg, mem.index.map_or(0, |(index, _)| index), mem.base.unwrap_or(0));
        self.raw(opcode);
        self.modrm_mem(reg, mem);
    }

    /// An instruction with two registers: `reg` in ModRM.reg (or an extension), `rm` in ModRM.rm.
    pub(super) fn reg(&mut self, width: Width, opcode: &[u8], reg: Host, rm: Host) {
        self.rex(width, reg, 0, rm);
        self.raw(opcode);
        self.bytes.push(0xc0 | (reg & 7) << 3 | rm & 7);
    }

    pub(super) fn load(&mut self, to: Host, from: Mem) {
        self.mem(W64, &[0x8b], to, from);
    }
    pub(super) fn store(&mut self, to: Mem, from: Host) {
        self.mem(W64, &[0x89], from, to);
    }
    pub(super) fn mov(&mut self, to: Host, from: Host) {
        if to != from {
            self.reg(W64, &[0x8b], to, from);
        }
    }
    pub(super) fn mov32(&mut self, to: Host, from: Host) {
        self.reg(W32, &[0x8b], to, from);
    }
    pub(super) fn lea(&mut self, to: Host, mem: Mem) {
        self.mem(W64, &[0x8d], to, mem);
    }

    /// `to = value`, zero-extended.
    pub(super) fn constant32(&mut self, to: Host, value: u32) {
        self.rex(W32, 0, 0, to);
        self.bytes.push(0xb8 | to & 7);
        self.raw(&value.to_le_bytes());
    }

    /// `to = value`, sign-extended.
    pub(super) fn constant_signed(&mut self, to: Host, value: i32) {
        self.reg(W64, &[0xc7], 0, to);
        self.raw(&value.to_le_bytes());
    }

    pub(super) fn constant64(&mut self, to: Host, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            self.constant32(to, value);
            return;
        }
        self.rex(W64, 0, 0, to);
        self.bytes.push(0xb8 | to & 7);
        self.raw(&value.to_le_bytes());
    }

    /// An instruction of the 81/83 group (`/digit`: 0 ADD, 1 OR, 4 AND, 5 SUB, 7 CMP) on a register.
    pub(super) fn arith(&mut self, width: Width, digit: u8, reg: Host, value: i32) {
        match i8::try_from(value) {
            Ok(short) => {
                self.reg(width, &[0x83], digit, reg);
                self.bytes.push(short as u8);
            }
            Err(_) => {
                self.reg(width, &[0x81], digit, reg);
                self.raw(&value.to_le_bytes());
            }
        }
    }

    /// The same on 64 bits of memory.
    pub(super) fn arith_mem(&mut self, digit: u8, mem: Mem, value: i8) {
        self.mem(W64, &[0x83], digit, mem);
        self.bytes.push(value as u8);
    }

    /// `jmp` to an address; returns where its 32-bit distance lies.
    pub(super) fn jmp(&mut self, to: u32) -> u32 {
        self.bytes.push(0xe9);
        self.distance(to)
    }

    /// `call` of an address; returns where its 32-bit distance lies.
    pub(super) fn call(&mut self, to: u32) -> u32 {
        self.bytes.push(0xe8);
        self.distance(to)
    }

    /// `jcc` to an address, [`JCC_BYTES`] long; returns where its 32-bit distance lies.
    pub(super) fn jcc(&mut self, condition: u8, to: u32) -> u32 {
        self.raw(&[0x0f, 0x80 | condition]);
        self.distance(to)
    }

    /// Makes the jump whose distance lies at `at`, as [`Section::jcc`] returned it, lead here.
    pub(super) fn join(&mut self, at: u32) {
        let bytes = distance(at, self.here());
        let at = (at - self.base) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn distance(&mut self, to: u32) -> u32 {
        let at = self.here();
        self.raw(&distance(at, to));
        at
    }

    /// `jmp` to the address in a register.
    pub(super) fn jmp_register(&mut self, to: Host) {
        self.reg(W32, &[0xff], 4, to);
    }

    /// `lahf; seto al`.
    pub(super) fn save_flags(&mut self) {
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// Flags from AH and AL, which both keep their values: `add al, 0x7f; sahf; seto al`.
    pub(super) fn restore_flags(&mut self) {
        self.raw(&[0x04, 0x7f, 0x9e, 0x0f, 0x90, 0xc0]);
    }

    /// An instruction made by iced-x86; `false` if it cannot be encoded.
    pub(super) fn encoded(&mut self, encoder: &mut Encoder, instruction: &Instruction) -> bool {
        let before = self.bytes.len();
        encoder.set_buffer(std::mem::take(&mut self.bytes));
        let result = encoder.encode(instruction, 0);
        self.bytes = encoder.take_buffer();
        if result.is_err() {
            self.bytes.truncate(before);
        }
        result.is_ok()
    }
}

/// Length of [`Section::jcc`].
pub(super) const JCC_BYTES: u32 = 6;

/// The bytes of a 32-bit distance that lies at `at` and leads to `to`.
pub(super) fn distance(at: u32, to: u32) -> [u8; 4] {
    to.wrapping_sub(at.wrapping_add(4)).to_le_bytes()
}

/// Condition numbers of [`Section::jcc`].
pub(super) mod condition {
    /// Below (CF = 1).
    pub(crate) const B: u8 = 2;
    /// Above or equal (CF = 0).
    pub(crate) const AE: u8 = 3;
    /// Equal (ZF = 1).
    pub(crate) const E: u8 = 4;
    /// Not zero.
    pub(crate) const NE: u8 = 5;
    /// Above.
    pub(crate) const A: u8 = 7;
    /// Negative.
    pub(crate) const S: u8 = 8;
}
